//! Gaussian error linear unit.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::Result;
use crate::op::{Cost, Op, Spec, apply_one};
use crate::ops::{GeluGrad, arity, float};

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluKind {
    /// `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`: `gelu_pytorch_tanh`.
    Tanh,
    /// `½x(1 + erf(x/√2))`: the exact form.
    Erf,
}

/// `y = gelu(x)` (Hendrycks & Gimpel 2016, arXiv 1606.08415), computed in f32.
#[derive(Clone, Debug)]
pub struct Gelu {
    /// Which form.
    pub kind: GeluKind,
}

impl Op for Gelu {
    const NAME: &'static str = "gelu";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 1)?;
        float(Self::NAME, "x", &inputs[0])?;
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(8 * inputs[0].dims.count(), inputs, outputs)
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None]) };
        Ok(vec![Some(apply_one(GeluGrad { kind: self.kind }, &[&ctx.input(0)?, g])?)])
    }
}

impl Tensor {
    /// Gaussian error linear unit.
    pub fn gelu(&self, kind: GeluKind) -> Result<Self> {
        apply_one(Gelu { kind }, &[self])
    }
}
