//! Root-mean-square normalisation.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec, apply, apply_one};
use crate::ops::{RmsNormGrad, arity, float, same_dtype, shape};

/// `y = round(x / √(mean(x²) + eps)) · w` over the last dimension (Zhang & Sennrich 2019, arXiv 1910.07467).
/// The normalised value is rounded to the input's dtype *before* the weight multiplies it, as Llama does.
/// `x [rows…, n]`, `w [n]`, both of one dtype; arithmetic in f32.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

impl Op for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 2)?;
        let (x, w) = (&inputs[0], &inputs[1]);
        float(Self::NAME, "x", x)?;
        same_dtype(Self::NAME, ["x", "w"], x, w)?;
        let n = *x.dims.last().ok_or_else(|| rule!(Self::NAME, "x [] is a scalar and has no rows"))?;
        shape(Self::NAME, "w", w, &[n])?;
        Ok(vec![*x])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(4 * inputs[0].dims.count(), inputs, outputs)
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None, None]) };
        let op = RmsNormGrad { eps: self.eps };
        let mut out = apply(op, &[&ctx.input(0)?, &ctx.input(1)?, g])?;
        let dw = out.pop();
        Ok(vec![out.pop(), dw])
    }
}

impl Tensor {
    /// RMS normalisation over the last dimension, times `weight`.
    pub fn rms_norm(&self, weight: &Self, eps: f32) -> Result<Self> {
        apply_one(RmsNorm { eps }, &[self, &weight.to_dtype(self.dtype())?])
    }
}
