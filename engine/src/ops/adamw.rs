//! One step of the `AdamW` optimiser.

use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec, apply_in_place};
use crate::ops::shape;
use crate::{DType, Tensor};

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), in place, in torch's order:
///
/// ```text
/// g *= grad_scale
/// p −= lr·weight_decay·p
/// m += (1 − beta1)·(g − m)
/// v  = beta2·v + (1 − beta2)·g²
/// p −= lr/(1 − beta1^step) · m / (√v/√(1 − beta2^step) + eps)
/// ```
///
/// Targets `p` (f32 or bf16), `m`, `v` (f32), input `g` (f32 or bf16), all of one shape. Hyper-parameters are
/// f64 because 1 − 0.999 is off by 5·10⁻⁵ of itself in f32. A bf16 parameter is rounded at each step and
/// loses updates below 2⁻⁹ of itself.
///
/// `grad_scale` is the factor of a global-norm clip. It multiplies in f32, so for f32 gradients the step gives the
/// bits of one on a gradient that was scaled before, without a pass over memory of its own; a bf16 gradient saves
/// a rounding. A factor of 1 changes nothing.
///
/// One application takes any number of parameters, each with the same bits as alone: targets `p`, `m`, `v` of every
/// parameter in turn, then the gradients in their order. An adapter's hundreds of small tensors are one launch where
/// the backend can do that.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this step, from 1.
    pub step: u32,
    /// Multiplies the gradient first; 1 leaves it as it is.
    pub grad_scale: f32,
}

/// Number of parameters of an application that has `each` tensors for every one.
pub(super) fn parameters(op: &'static str, inputs: &[Spec], each: usize) -> Result<usize> {
    if inputs.is_empty() || !inputs.len().is_multiple_of(each) {
        return Err(rule!(op, "takes {each} tensors for each parameter, got {}", inputs.len()));
    }
    Ok(inputs.len() / each)
}

impl AdamW {
    /// What the rules of `op`, `adamw` and its 8-bit form, have in common: types and shapes of `p`, `m`, `v`, `g`
    /// but for the types of the moments, and the hyper-parameters.
    pub(super) fn check(&self, op: &'static str, p: &Spec, moments: [&Spec; 2], g: &Spec) -> Result<()> {
        for (what, spec) in [("p", p), ("g", g)] {
            if !matches!(spec.dtype, DType::F32 | DType::BF16) {
                return Err(rule!(op, "{what} is {}; f32 and bf16 are supported", spec.dtype));
            }
        }
        for (what, spec) in [("m", moments[0]), ("v", moments[1]), ("g", g)] {
            shape(op, what, spec, &p.dims)?;
        }
        let beta = |b: f64| (0.0..1.0).contains(&b);
        if self.step == 0 || !beta(self.beta1) || !beta(self.beta2) {
            return Err(rule!(op, "step counts from 1 and betas lie in [0, 1); got {self:?}"));
        }
        Ok(())
    }
}

impl Op for AdamW {
    const NAME: &'static str = "adamw";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        let (targets, gradients) = inputs.split_at(3 * parameters(Self::NAME, inputs, 4)?);
        let mut wanted = Vec::with_capacity(targets.len());
        for ([p, m, v], g) in targets.as_chunks().0.iter().zip(gradients) {
            self.check(Self::NAME, p, [m, v], g)?;
            let state = Spec { dims: p.dims, dtype: DType::F32 };
            wanted.extend([*p, state, state]);
        }
        Ok(wanted)
    }

    fn cost(&self, inputs: &[Spec], _: &[Spec]) -> Cost {
        let targets = &inputs[..inputs.len() / 4 * 3];
        let elements: usize = targets.iter().step_by(3).map(|p| p.dims.count()).sum();
        Cost::streaming(16 * elements, inputs, targets)
    }
}

impl Tensor {
    /// Updates parameter `p` and moments `m`, `v` in place from gradient `g`. `p` is a leaf or untracked.
    pub fn adamw_step(p: &Self, m: &Self, v: &Self, g: &Self, op: &AdamW) -> Result<()> {
        Self::adamw_steps(&[[p, m, v, g]], op)
    }

    /// [`Self::adamw_step`] for each `[p, m, v, g]`, in one application.
    pub fn adamw_steps(parameters: &[[&Self; 4]], op: &AdamW) -> Result<()> {
        if parameters.is_empty() {
            return Ok(());
        }
        let targets: Vec<&Self> = parameters.iter().flat_map(|[p, m, v, _]| [*p, *m, *v]).collect();
        let gradients: Vec<&Self> = parameters.iter().map(|[.., g]| *g).collect();
        apply_in_place(op.clone(), &targets, &gradients)
    }
}
