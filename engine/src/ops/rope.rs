//! Rotary position embedding.

use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::{arity, float, shape};
use crate::{DType, Tensor};

/// Which elements of a head form the pairs that are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeKind {
    /// `(i, i + D/2)`: Llama in the Hugging Face layout.
    Half,
    /// `(2i, 2i + 1)`: the paper's own layout, `ChatGLM`.
    Interleaved,
}

/// Rotates pair `i` of every head by `position · theta^(−2i/D)` (Su et al. 2021, arXiv 2104.09864).
/// `x [B, S, H, D]` with even `D`, `positions` u32 `[B, S]`; the result is like `x`.
///
/// Frequencies and angles are f32 and so are their cosine and sine, which are then rounded to the dtype of
/// `x`. The two products and their sum are each rounded to it as well: transformers computes
/// `q·cos + rotate_half(q)·sin` in the activation dtype, and a bf16 model reproduces its logits only with
/// the same three roundings. For f32 they are the identity.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// Which elements form a pair.
    pub kind: RopeKind,
    /// Rotates back: the transpose of the rotation, which is its gradient.
    pub inverse: bool,
}

impl Rope {
    /// What the rules of the operations that rotate have in common: types and shapes of `x`, called `what`, and of
    /// its positions, and the parameters.
    pub(super) fn check(&self, op: &'static str, what: &str, x: &Spec, positions: &Spec) -> Result<()> {
        float(op, what, x)?;
        let [b, s, _, d] = x.dims[..] else {
            return Err(rule!(op, "{what} has shape {:?}, expected [batch, sequence, heads, D]", x.dims));
        };
        if d % 2 != 0 {
            return Err(rule!(op, "heads of {d} elements cannot be split into pairs"));
        }
        if positions.dtype != DType::U32 {
            return Err(rule!(op, "positions are {}, expected u32", positions.dtype));
        }
        shape(op, "positions", positions, &[b, s])?;
        if self.theta <= 0.0 || !self.theta.is_finite() {
            return Err(rule!(op, "theta {} is not a positive number", self.theta));
        }
        Ok(())
    }
}

impl Op for Rope {
    const NAME: &'static str = "rope";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 2)?;
        self.check(Self::NAME, "x", &inputs[0], &inputs[1])?;
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(3 * inputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::only_inputs(&[1])
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None, None]) };
        let back = Self { inverse: !self.inverse, ..self.clone() };
        Ok(vec![Some(apply_one(back, &[g, &ctx.input(1)?])?), None])
    }
}

impl Tensor {
    /// Rotary position embedding of `self [B, S, H, D]` at `positions` u32 `[B, S]`, or `[S]` for all samples
    /// alike.
    pub fn rope(&self, positions: &Self, theta: f32, kind: RopeKind) -> Result<Self> {
        let positions = positions.expand(&[self.dim(0)?, self.dim(1)?])?;
        apply_one(Rope { theta, kind, inverse: false }, &[self, &positions])
    }
}
