//! Some rows of a matrix replaced by others: image features among token embeddings.

use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::{arity, float, same_dtype, shape};
use crate::{DType, Tensor};

/// `y = base`, then `y[index[j]] = rows[j]`. `base [R, n]`, `rows [M, n]` of one dtype, `index` u32 `[M]`. An
/// index that is not below `R`, or stands there twice, is an error.
#[derive(Clone, Debug)]
pub struct ScatterRows;

impl Op for ScatterRows {
    const NAME: &'static str = "scatter_rows";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 3)?;
        let (base, rows, index) = (&inputs[0], &inputs[1], &inputs[2]);
        float(Self::NAME, "base", base)?;
        same_dtype(Self::NAME, ["base", "rows"], base, rows)?;
        let ([_, n], [m]) = (&base.dims[..], &index.dims[..]) else {
            return Err(rule!(
                Self::NAME,
                "base has shape {:?} and index {:?}, expected [R, n] and [M]",
                base.dims,
                index.dims
            ));
        };
        shape(Self::NAME, "rows", rows, &[*m, *n])?;
        if index.dtype != DType::U32 {
            return Err(rule!(Self::NAME, "index is {}, expected u32", index.dtype));
        }
        Ok(vec![*base])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        // Each row of the result is read once, from `base` or from `rows`.
        Cost::streaming(0, &[inputs[0], inputs[2]], outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::only_inputs(&[2])
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None, None, None]) };
        let index = ctx.input(2)?;
        let dbase = if ctx.needs(0) {
            let zero = Tensor::zeros(&[1, 1], g.dtype(), g.device())?.expand(&ctx.input_spec(1).dims)?;
            Some(g.scatter_rows(&zero, &index)?)
        } else {
            None
        };
        let drows = if ctx.needs(1) { Some(g.embedding(&index)?) } else { None };
        Ok(vec![dbase, drows, None])
    }
}

impl Tensor {
    /// A copy of this matrix `[R, n]` in which row `index[j]` is `rows[j]`; `rows [M, n]`, `index` u32 `[M]`
    /// without repetition.
    pub fn scatter_rows(&self, rows: &Self, index: &Self) -> Result<Self> {
        apply_one(ScatterRows, &[self, rows, index])
    }
}
