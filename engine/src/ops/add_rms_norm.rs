//! A residual sum and its root-mean-square normalisation, in one pass over memory.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply};
use crate::ops::{RmsNormGrad, arity, float, same_dtype, shape};

/// `sum = x + y`, rounded to the element type, and `round(sum / √(mean(sum²) + eps)) · w` over the last dimension:
/// on each backend the bits of [`Binary`](crate::ops::Binary) and [`RmsNorm`](crate::ops::RmsNorm) one after the
/// other, which is how a decoder layer goes on from one of its halves to the next.
///
/// Inputs `x` and `y` `[rows…, n]`, `w [n]`, of one float type; outputs the sum and its normalisation, like `x`.
#[derive(Clone, Debug)]
pub struct AddRmsNorm {
    /// Added to the mean square.
    pub eps: f32,
}

impl Op for AddRmsNorm {
    const NAME: &'static str = "add_rms_norm";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 3)?;
        let [x, y, w] = inputs else { unreachable!("three by the arity") };
        float(Self::NAME, "x", x)?;
        same_dtype(Self::NAME, ["x", "y"], x, y)?;
        same_dtype(Self::NAME, ["x", "w"], x, w)?;
        shape(Self::NAME, "y", y, &x.dims)?;
        let n = *x.dims.last().ok_or_else(|| rule!(Self::NAME, "x [] is a scalar and has no rows"))?;
        shape(Self::NAME, "w", w, &[n])?;
        Ok(vec![*x, *x])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(5 * inputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        // The weight, and the sum, which the next layer holds anyway.
        Saves { inputs: 1 << 2, outputs: 1 }
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let through = grads[0].clone();
        let Some(g) = &grads[1] else { return Ok(vec![through.clone(), through, None]) };
        let mut out = apply(RmsNormGrad { eps: self.eps }, &[&ctx.output(0)?, &ctx.input(2)?, g])?;
        let dw = out.pop();
        let mut dsum = out.swap_remove(0);
        if let Some(through) = through.filter(|_| ctx.needs(0) || ctx.needs(1)) {
            dsum = through.add(&dsum)?;
        }
        Ok(vec![Some(dsum.clone()), Some(dsum), dw])
    }
}

impl Tensor {
    /// The sum with `other`, of the same shape, and its RMS normalisation over the last dimension, times `weight`:
    /// [`AddRmsNorm`].
    pub fn add_rms_norm(&self, other: &Self, weight: &Self, eps: f32) -> Result<(Self, Self)> {
        let mut both = apply(AddRmsNorm { eps }, &[self, other, &weight.to_dtype(self.dtype())?])?;
        let normed = both.swap_remove(1);
        Ok((both.swap_remove(0), normed))
    }
}
