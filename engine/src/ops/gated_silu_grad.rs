//! Gradient of [`GatedSilu`](crate::ops::GatedSilu).

use crate::error::Result;
use crate::op::{Cost, Op, Spec};
use crate::ops::{GatedSilu, arity, same_dtype, shape};

/// `dgate = g·up·silu′(gate)`, `dup = g·silu(gate)`. Inputs gate, up, g of one shape and dtype.
#[derive(Clone, Debug)]
pub struct GatedSiluGrad;

impl Op for GatedSiluGrad {
    const NAME: &'static str = "gated_silu_grad";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 3)?;
        GatedSilu.infer(&inputs[..2])?;
        same_dtype(Self::NAME, ["gate", "g"], &inputs[0], &inputs[2])?;
        shape(Self::NAME, "g", &inputs[2], &inputs[0].dims)?;
        Ok(vec![inputs[0], inputs[1]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(11 * inputs[0].dims.count(), inputs, outputs)
    }
}
