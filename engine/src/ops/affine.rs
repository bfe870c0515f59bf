//! Scale and shift by constants.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::Result;
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::{arity, float};

/// `y = mul·x + add`, computed in f32.
#[derive(Clone, Debug)]
pub struct Affine {
    /// Factor.
    pub mul: f32,
    /// Summand.
    pub add: f32,
}

impl Op for Affine {
    const NAME: &'static str = "affine";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 1)?;
        float(Self::NAME, "the input", &inputs[0])?;
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(2 * inputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::NOTHING
    }

    fn grad(&self, _: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![grads[0].as_ref().map(|g| g.affine(self.mul, 0.0)).transpose()?])
    }
}

impl Tensor {
    /// `mul·x + add`.
    pub fn affine(&self, mul: f32, add: f32) -> Result<Self> {
        apply_one(Affine { mul, add }, &[self])
    }

    /// `-x`.
    pub fn neg(&self) -> Result<Self> {
        self.affine(-1.0, 0.0)
    }
}
