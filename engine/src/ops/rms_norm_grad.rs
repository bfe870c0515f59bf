//! Gradient of [`RmsNorm`](crate::ops::RmsNorm).

use crate::error::Result;
use crate::op::{Cost, Op, Spec};
use crate::ops::{RmsNorm, arity, same_dtype, shape};

/// With `r = 1/√(mean(x²) + eps)` and `h = g·w`: `dx = r·h − x·r³·mean(h·x)`, `dw = Σ_rows g·x·r`.
/// Inputs `x [rows…, n]`, `w [n]`, `g` like `x`; outputs `dx` like `x` and `dw` like `w`.
#[derive(Clone, Debug)]
pub struct RmsNormGrad {
    /// As in the forward pass.
    pub eps: f32,
}

impl Op for RmsNormGrad {
    const NAME: &'static str = "rms_norm_grad";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 3)?;
        RmsNorm { eps: self.eps }.infer(&inputs[..2])?;
        same_dtype(Self::NAME, ["x", "g"], &inputs[0], &inputs[2])?;
        shape(Self::NAME, "g", &inputs[2], &inputs[0].dims)?;
        Ok(vec![inputs[0], inputs[1]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(11 * inputs[0].dims.count(), inputs, outputs)
    }
}
