//! Gradient of [`Gelu`](crate::ops::Gelu).

use crate::error::Result;
use crate::op::{Cost, Op, Spec};
use crate::ops::{GeluKind, arity, float, same_dtype, shape};

/// `dx = g · gelu′(x)`. Inputs `x` and `g` of one shape and dtype.
#[derive(Clone, Debug)]
pub struct GeluGrad {
    /// As in the forward pass.
    pub kind: GeluKind,
}

impl Op for GeluGrad {
    const NAME: &'static str = "gelu_grad";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 2)?;
        float(Self::NAME, "x", &inputs[0])?;
        same_dtype(Self::NAME, ["x", "g"], &inputs[0], &inputs[1])?;
        shape(Self::NAME, "g", &inputs[1], &inputs[0].dims)?;
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(16 * inputs[0].dims.count(), inputs, outputs)
    }
}
