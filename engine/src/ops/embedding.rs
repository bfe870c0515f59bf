//! Rows of a table, chosen by id.

use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::{EmbeddingGrad, arity, float};
use crate::{DType, Tensor};

/// `y[…] = table[ids[…]]` for `table [V, n]` and u32 `ids` of any shape up to five dimensions; the result is
/// `[ids…, n]`. An id that is not below `V` is an error.
#[derive(Clone, Debug)]
pub struct Embedding;

impl Op for Embedding {
    const NAME: &'static str = "embedding";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 2)?;
        let (table, ids) = (&inputs[0], &inputs[1]);
        float(Self::NAME, "the table", table)?;
        let [_, n] = table.dims[..] else {
            return Err(rule!(Self::NAME, "the table has shape {:?}, expected [rows, n]", table.dims));
        };
        if ids.dtype != DType::U32 {
            return Err(rule!(Self::NAME, "ids are {}, expected u32", ids.dtype));
        }
        Ok(vec![Spec::new(&[&ids.dims[..], &[n]].concat(), table.dtype)?])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        // Of the table only the chosen rows are read.
        Cost::streaming(0, &[inputs[1], outputs[0]], outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::only_inputs(&[1])
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None, None]) };
        let op = EmbeddingGrad { rows: ctx.input_spec(0).dims[0] };
        Ok(vec![Some(apply_one(op, &[&ctx.input(1)?, g])?), None])
    }
}

impl Tensor {
    /// The rows of this table `[V, n]` that u32 `ids` name, as `[ids…, n]`.
    pub fn embedding(&self, ids: &Self) -> Result<Self> {
        apply_one(Embedding, &[self, ids])
    }
}
