//! Gradients of a linear layer over a 4-bit weight.

use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec};
use crate::ops::dequantize_blockwise::quantized_inputs;
use crate::ops::linear_nf4::{LoraTerm, check_lora, check_rows};
use crate::ops::{same_dtype, shape};
use crate::quantized::BlockFormat;

/// With `u = dy·(scale·B)` rounded to the type of `dy`, and `h = dropout(x)·Aᵀ` (spec qlora §8):
///
/// ```text
/// dx = dy·W + dropout(u·A)
/// dA = uᵀ·dropout(x)
/// dB = scale·dyᵀ·h
/// ```
///
/// `W [out, in]` is read from its codes as the forward pass does. Inputs: dy `[rows, out]`, the weight's tensors; with
/// an adapter A and B; for the factors' gradients x and h. Outputs: dx if `x`, then dA and dB (in the types of A and B)
/// if `factors`.
#[derive(Clone, Copy, Debug)]
pub struct LinearNf4Grad {
    /// Layout of the weight.
    pub format: BlockFormat,
    /// Columns of the weight.
    pub inner: usize,
    /// Whether dx is wanted.
    pub x: bool,
    /// The adapter, if there is one.
    pub lora: Option<LoraTerm>,
    /// Whether dA and dB are wanted.
    pub factors: bool,
}

impl Op for LinearNf4Grad {
    const NAME: &'static str = "linear_nf4_grad";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        let weight = if self.format.nested.is_some() { 4 } else { 2 };
        let lora = if self.lora.is_some() { 2 } else { 0 };
        let saved = if self.factors { 2 } else { 0 };
        let all = 1 + weight + lora + saved;
        if inputs.len() != all || (self.factors && self.lora.is_none()) || !(self.x || self.factors) {
            return Err(rule!(Self::NAME, "takes {all} tensors for {self:?}, got {}", inputs.len()));
        }
        let dy = &inputs[0];
        check_rows(Self::NAME, "dy", dy)?;
        let (rows, outer) = (dy.dims[0], dy.dims[1]);
        quantized_inputs(Self::NAME, &self.format, outer * self.inner, &inputs[1..])?;
        let dx = Spec::new(&[rows, self.inner], dy.dtype)?;
        let mut outputs = if self.x { vec![dx] } else { Vec::new() };
        if let Some(term) = &self.lora {
            let (a, b) = (&inputs[1 + weight], &inputs[2 + weight]);
            let r = check_lora(Self::NAME, term, [a, b], &dx, outer)?;
            if self.factors {
                let (x, h) = (&inputs[3 + weight], &inputs[4 + weight]);
                same_dtype(Self::NAME, ["x", "dy"], x, dy)?;
                same_dtype(Self::NAME, ["h", "dy"], h, dy)?;
                shape(Self::NAME, "x", x, &[rows, self.inner])?;
                shape(Self::NAME, "h", h, &[rows, r])?;
                outputs.extend([*a, *b]);
            }
        }
        Ok(outputs)
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        let (rows, outer, inner) = (inputs[0].dims[0], inputs[0].dims[1], self.inner);
        let weight = if self.format.nested.is_some() { 4 } else { 2 };
        let r = if self.lora.is_some() { inputs[1 + weight].dims[0] } else { 0 };
        let dx = if self.x { inner * outer + r * inner } else { 0 };
        let factors = if self.factors { r * (inner + outer) } else { 0 };
        Cost::streaming(2 * rows * (dx + r * outer + factors), inputs, outputs)
    }
}
