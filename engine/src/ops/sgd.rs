//! One step of stochastic gradient descent.

use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec, apply_in_place};
use crate::ops::{arity, shape};
use crate::{DType, Tensor};

/// Gradient descent with momentum and weight decay, in place, as `torch.optim.SGD` without dampening:
///
/// ```text
/// g  = grad_scale·g + weight_decay·p
/// b  = momentum·b + g
/// p −= lr·b
/// ```
///
/// Targets `p` (f32 or bf16) and, unless `momentum` is 0, `b` (f32, of the same shape, zeros before the first
/// step); input `g` (f32 or bf16). Without momentum there is no `b`. Unlike [`AdamW`](crate::ops::AdamW)'s the
/// decay is a part of the gradient.
#[derive(Clone, Debug, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Share of the last step that goes into this one; 0: none, and no buffer.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Multiplies the gradient first, in f32; 1 leaves it as it is.
    pub grad_scale: f32,
}

impl Sgd {
    /// Targets: the parameter, and the buffer if there is momentum.
    fn targets(&self) -> usize {
        if self.momentum == 0.0 { 1 } else { 2 }
    }
}

impl Op for Sgd {
    const NAME: &'static str = "sgd";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        let targets = self.targets();
        arity(Self::NAME, inputs, targets + 1)?;
        let (p, g) = (&inputs[0], &inputs[targets]);
        for (what, spec) in [("p", p), ("g", g)] {
            if !matches!(spec.dtype, DType::F32 | DType::BF16) {
                return Err(rule!(Self::NAME, "{what} is {}; f32 and bf16 are supported", spec.dtype));
            }
        }
        shape(Self::NAME, "g", g, &p.dims)?;
        let mut wanted = vec![*p];
        if targets == 2 {
            shape(Self::NAME, "the momentum buffer", &inputs[1], &p.dims)?;
            wanted.push(Spec { dims: p.dims, dtype: DType::F32 });
        }
        Ok(wanted)
    }

    fn cost(&self, inputs: &[Spec], _: &[Spec]) -> Cost {
        Cost::streaming(7 * inputs[0].dims.count(), inputs, &inputs[..self.targets()])
    }
}

impl Tensor {
    /// Updates parameter `p`, and its momentum buffer if it has one, in place from gradient `g`. `p` is a leaf or
    /// untracked.
    ///
    /// # Errors
    /// If shapes or types break the rule, or `op` has momentum and there is no buffer, or the reverse.
    pub fn sgd_step(p: &Self, buffer: Option<&Self>, g: &Self, op: &Sgd) -> Result<()> {
        let targets: Vec<&Self> = std::iter::once(p).chain(buffer).collect();
        if targets.len() != op.targets() {
            return Err(rule!(
                Sgd::NAME,
                "a momentum of {} takes {} targets, got {}",
                op.momentum,
                op.targets(),
                targets.len()
            ));
        }
        apply_in_place(op.clone(), &targets, &[g])
    }
}
