//! The largest elements.

use super::argmax::row;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec, apply};
use crate::ops::{arity, float};
use crate::{DType, Tensor};

/// The `k` largest elements of each row of `x [rows…, n]`, in descending order: values f32 `[rows…, k]` and
/// indices u32 `[rows…, k]`. Ties and NaN are ordered as in [`Argmax`](crate::ops::Argmax): the lower index
/// first, NaN before every number. `k` above `n` is an error. No gradient.
#[derive(Clone, Debug)]
pub struct TopK {
    /// How many.
    pub k: usize,
}

impl Op for TopK {
    const NAME: &'static str = "top_k";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 1)?;
        float(Self::NAME, "the input", &inputs[0])?;
        let (n, lead) = row(Self::NAME, &inputs[0])?;
        if self.k > n {
            return Err(rule!(Self::NAME, "asks for {} of {n} elements a row", self.k));
        }
        let dims = [lead, &[self.k]].concat();
        Ok(vec![Spec::new(&dims, DType::F32)?, Spec::new(&dims, DType::U32)?])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(inputs[0].dims.count(), inputs, outputs)
    }
}

impl Tensor {
    /// The `k` largest elements along the last dimension, in descending order, as f32, and their u32 indices.
    pub fn top_k(&self, k: usize) -> Result<(Self, Self)> {
        let mut out = apply(TopK { k }, &[self])?;
        let indices = out.swap_remove(1);
        Ok((out.swap_remove(0), indices))
    }
}
