//! Gradient of [`Attention`](crate::ops::Attention).

use super::attention::{check, check_mask, pairs};
use crate::DType;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec};
use crate::ops::{arity, same_dtype, shape};

/// With `P = exp(scale·Q·Kᵀ − lse)`, computed again, and `dS = P∘(g·Vᵀ − rowsum(g∘out))`:
/// `dq = scale·dS·K`, `dk = scale·dSᵀ·Q`, `dv = Pᵀ·g`, the last two summed over the query heads that share a
/// key head. Inputs `q`, `k`, `v`, `out`, `lse`, `g` (like `out`) and, if the forward pass had one, the key
/// mask; outputs like `q`, `k`, `v`.
#[derive(Clone, Debug)]
pub struct AttentionGrad {
    /// As in the forward pass.
    pub scale: f32,
    /// As in the forward pass.
    pub causal: bool,
}

impl Op for AttentionGrad {
    const NAME: &'static str = "attention_grad";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        if inputs.len() != 7 {
            arity(Self::NAME, inputs, 6)?;
        }
        let q = &inputs[0];
        let [b, sq, sk, hq] = check(Self::NAME, q, &inputs[1], &inputs[2])?;
        for (what, spec) in [("out", &inputs[3]), ("g", &inputs[5])] {
            same_dtype(Self::NAME, [what, "q"], spec, q)?;
            shape(Self::NAME, what, spec, &q.dims)?;
        }
        shape(Self::NAME, "lse", &inputs[4], &[b, hq, sq])?;
        if inputs[4].dtype != DType::F32 {
            return Err(rule!(Self::NAME, "lse is {}, expected f32", inputs[4].dtype));
        }
        if let Some(mask) = inputs.get(6) {
            check_mask(Self::NAME, mask, b, sk)?;
        }
        Ok(inputs[..3].to_vec())
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        // Five products: the scores again, g·Vᵀ, and one for each gradient.
        Cost::streaming(10 * pairs(&inputs[0], &inputs[1], self.causal), inputs, outputs)
    }
}
