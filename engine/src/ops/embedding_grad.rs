//! Gradient of [`Embedding`](crate::ops::Embedding).

use crate::DType;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec};
use crate::ops::{arity, float};

/// `dtable[i] = Σ g[j]` over the places `j` where `ids[j] = i`, zero where there is none. Inputs u32 `ids` and
/// `g [ids…, n]`; output `[rows, n]` in the dtype of `g`. Each sum runs in f32 in the order of the places and
/// is rounded once, so the result does not depend on threads.
#[derive(Clone, Debug)]
pub struct EmbeddingGrad {
    /// Rows of the table.
    pub rows: usize,
}

impl Op for EmbeddingGrad {
    const NAME: &'static str = "embedding_grad";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 2)?;
        let (ids, g) = (&inputs[0], &inputs[1]);
        float(Self::NAME, "g", g)?;
        if ids.dtype != DType::U32 {
            return Err(rule!(Self::NAME, "ids are {}, expected u32", ids.dtype));
        }
        match g.dims.split_last() {
            Some((&n, lead)) if *lead == *ids.dims => Ok(vec![Spec::new(&[self.rows, n], g.dtype)?]),
            _ => Err(rule!(Self::NAME, "g has shape {:?}, expected ids {:?} and n", g.dims, ids.dims)),
        }
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(inputs[1].dims.count(), inputs, outputs)
    }
}
