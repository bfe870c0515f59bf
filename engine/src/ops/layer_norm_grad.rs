//! Gradient of [`LayerNorm`](crate::ops::LayerNorm).

use crate::error::Result;
use crate::op::{Cost, Op, Spec};
use crate::ops::{LayerNorm, arity, same_dtype, shape};

/// With `x̂` the normalised input, `r = 1/√(var + eps)` and `h = g·w`:
/// `dx = r·(h − mean(h) − x̂·mean(h·x̂))`, `dw = Σ_rows g·x̂`, `db = Σ_rows g`.
/// Inputs `x [rows…, n]`, `w [n]`, `g` like `x`; outputs `dx` like `x`, `dw` and `db` like `w`.
#[derive(Clone, Debug)]
pub struct LayerNormGrad {
    /// As in the forward pass.
    pub eps: f32,
}

impl Op for LayerNormGrad {
    const NAME: &'static str = "layer_norm_grad";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 3)?;
        // The bias has the weight's shape.
        LayerNorm { eps: self.eps }.infer(&[inputs[0], inputs[1], inputs[1]])?;
        same_dtype(Self::NAME, ["x", "g"], &inputs[0], &inputs[2])?;
        shape(Self::NAME, "g", &inputs[2], &inputs[0].dims)?;
        Ok(vec![inputs[0], inputs[1], inputs[1]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(15 * inputs[0].dims.count(), inputs, outputs)
    }
}
