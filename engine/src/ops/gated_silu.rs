//! The gate of a gated feed-forward layer.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::Result;
use crate::op::{Cost, Op, Spec, apply, apply_one};
use crate::ops::{GatedSiluGrad, arity, float, same_dtype, shape};

/// `y = silu(gate) · up`, `silu(x) = x / (1 + e⁻ˣ)` (Shazeer 2020, arXiv 2002.05202), in one pass, in f32.
#[derive(Clone, Debug)]
pub struct GatedSilu;

impl Op for GatedSilu {
    const NAME: &'static str = "gated_silu";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 2)?;
        float(Self::NAME, "gate", &inputs[0])?;
        same_dtype(Self::NAME, ["gate", "up"], &inputs[0], &inputs[1])?;
        shape(Self::NAME, "up", &inputs[1], &inputs[0].dims)?;
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(5 * inputs[0].dims.count(), inputs, outputs)
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None, None]) };
        Ok(apply(GatedSiluGrad, &[&ctx.input(0)?, &ctx.input(1)?, g])?.into_iter().map(Some).collect())
    }
}

impl Tensor {
    /// `silu(self) · up`.
    pub fn gated_silu(&self, up: &Self) -> Result<Self> {
        apply_one(GatedSilu, &[self, up])
    }
}
