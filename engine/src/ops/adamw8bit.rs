//! One step of `AdamW` with moments of 8 bits.

use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec, apply_in_place};
use crate::ops::adamw::parameters;
use crate::ops::{AdamW, shape};
use crate::{DType, Layout, Tensor};

/// [`AdamW`] whose moments are stored as 8-bit codes (Dettmers et al. 2022, arXiv 2110.02861; spec qlora §9):
/// blocks of [`BLOCK`](Self::BLOCK) elements in row-major order, the last one maybe shorter, each relative to
/// its largest magnitude; the first moment in [`Codebook::Dynamic`](crate::Codebook::Dynamic), the second in
/// [`Codebook::DynamicUnsigned`](crate::Codebook::DynamicUnsigned). All zeros is the state before the first step.
///
/// Targets `p` (f32 or bf16), the codes `m` and `v` (u8, of the shape of `p`), the largest magnitudes `absmax_m`
/// and `absmax_v` (f32, one a block); input `g` (f32 or bf16). All must be contiguous. A step decodes, updates as
/// `AdamW` does, with the moments that it has just computed, in f32, and then encodes these. As there, one application
/// takes any number of parameters: their five targets in turn, then the gradients.
///
/// Where bitsandbytes' backends differ:
/// - weights decay before the update, as in torch and in its CPU backend (its CUDA kernel: after it);
/// - the code is the one of the nearest value, ties the lower (its CPU backend searches more coarsely; its CUDA
///   kernel moves a negative moment that is nearest to 0 to the first negative value);
/// - an element whose scaled gradient is not finite, or overflows f32 when squared, keeps its parameter and loses
///   its moments, as in the CUDA kernel; anywhere else it would make a whole block NaN.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW8bit(pub AdamW);

impl AdamW8bit {
    /// Elements that share a largest magnitude.
    pub const BLOCK: usize = 256;

    /// An error that names the first tensor whose elements do not lie side by side: kernels of every backend ask.
    pub(crate) fn contiguous<'a>(
        gradients: impl Iterator<Item = &'a Layout>,
        targets: impl Iterator<Item = &'a Layout>,
    ) -> Result<()> {
        let names = ["p", "m", "v", "absmax_m", "absmax_v"].into_iter().cycle();
        let mut all = names.zip(targets).chain(gradients.map(|layout| ("g", layout)));
        let Some((name, layout)) = all.find(|(_, layout)| !layout.is_contiguous()) else { return Ok(()) };
        Err(rule!(
            Self::NAME,
            "{name} {:?} has strides {:?}; blocks are of elements that lie side by side",
            layout.dims,
            layout.strides
        ))
    }
}

impl Op for AdamW8bit {
    const NAME: &'static str = "adamw8bit";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        let (targets, gradients) = inputs.split_at(5 * parameters(Self::NAME, inputs, 6)?);
        for ([p, m, v, absmax_m, absmax_v], g) in targets.as_chunks().0.iter().zip(gradients) {
            self.0.check(Self::NAME, p, [m, v], g)?;
            let blocks = p.dims.count().div_ceil(Self::BLOCK);
            for (what, spec) in [("absmax_m", absmax_m), ("absmax_v", absmax_v)] {
                shape(Self::NAME, what, spec, &[blocks])?;
            }
            for (what, spec, want) in [
                ("m", m, DType::U8),
                ("v", v, DType::U8),
                ("absmax_m", absmax_m, DType::F32),
                ("absmax_v", absmax_v, DType::F32),
            ] {
                if spec.dtype != want {
                    return Err(rule!(Self::NAME, "{what} is {}, not {want}", spec.dtype));
                }
            }
        }
        Ok(targets.to_vec())
    }

    fn cost(&self, inputs: &[Spec], _: &[Spec]) -> Cost {
        // Decoding, the quotient and the comparison beside AdamW's own.
        let targets = &inputs[..inputs.len() / 6 * 5];
        let elements: usize = targets.iter().step_by(5).map(|p| p.dims.count()).sum();
        Cost::streaming(24 * elements, inputs, targets)
    }
}

/// The 8-bit moments of a parameter.
#[derive(Clone)]
pub struct Moments8bit {
    /// Codes of the first moment, u8, of the parameter's shape.
    pub m: Tensor,
    /// Codes of the second moment.
    pub v: Tensor,
    /// Largest magnitudes of the first moment's blocks, f32.
    pub absmax_m: Tensor,
    /// The same of the second moment.
    pub absmax_v: Tensor,
}

impl Tensor {
    /// Updates parameter `p` and its moments in place from gradient `g`. `p` is a leaf or untracked.
    ///
    /// # Errors
    /// If shapes, types or hyper-parameters break the rule, or a target is not contiguous.
    pub fn adamw8bit_step(p: &Self, state: &Moments8bit, g: &Self, op: &AdamW) -> Result<()> {
        Self::adamw8bit_steps(&[(p, state, g)], op)
    }

    /// [`Self::adamw8bit_step`] for each parameter with its state and gradient, in one application.
    ///
    /// # Errors
    /// As for one.
    pub fn adamw8bit_steps(parameters: &[(&Self, &Moments8bit, &Self)], op: &AdamW) -> Result<()> {
        if parameters.is_empty() {
            return Ok(());
        }
        let mut targets = Vec::with_capacity(5 * parameters.len());
        let mut gradients = Vec::with_capacity(parameters.len());
        for (p, Moments8bit { m, v, absmax_m, absmax_v }, g) in parameters {
            targets.extend([*p, m, v, absmax_m, absmax_v]);
            // A gradient may be a view; a copy of it is not a target.
            gradients.push(g.detach().contiguous()?);
        }
        apply_in_place(AdamW8bit(op.clone()), &targets, &gradients.iter().collect::<Vec<_>>())
    }
}
