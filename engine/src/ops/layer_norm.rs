//! Layer normalisation.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply, apply_one};
use crate::ops::{LayerNormGrad, arity, float, same_dtype, shape};

/// `y = (x − mean) / √(var + eps) · w + b` over the last dimension (Ba et al. 2016, arXiv 1607.06450), with
/// the biased variance. `x [rows…, n]`, `w [n]`, `b [n]` of one dtype; arithmetic in f32, rounded once.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
}

impl Op for LayerNorm {
    const NAME: &'static str = "layer_norm";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 3)?;
        let [x, w, b] = [&inputs[0], &inputs[1], &inputs[2]];
        float(Self::NAME, "x", x)?;
        same_dtype(Self::NAME, ["x", "w"], x, w)?;
        same_dtype(Self::NAME, ["x", "b"], x, b)?;
        let n = *x.dims.last().ok_or_else(|| rule!(Self::NAME, "x [] is a scalar and has no rows"))?;
        shape(Self::NAME, "w", w, &[n])?;
        shape(Self::NAME, "b", b, &[n])?;
        Ok(vec![*x])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(7 * inputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::only_inputs(&[0, 1])
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None; 3]) };
        let op = LayerNormGrad { eps: self.eps };
        Ok(apply(op, &[&ctx.input(0)?, &ctx.input(1)?, g])?.into_iter().map(Some).collect())
    }
}

impl Tensor {
    /// Layer normalisation over the last dimension, times `weight`, plus `bias`.
    pub fn layer_norm(&self, weight: &Self, bias: &Self, eps: f32) -> Result<Self> {
        let (w, b) = (weight.to_dtype(self.dtype())?, bias.to_dtype(self.dtype())?);
        apply_one(LayerNorm { eps }, &[self, &w, &b])
    }
}
