//! Copy to row-major order with conversion of the element type.

use crate::autograd::GradContext;
use crate::error::Result;
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::arity;
use crate::{DType, Tensor};

/// `y = convert(x)`. Floats round to nearest even; floats to integers truncate and saturate.
#[derive(Clone, Debug)]
pub struct Cast {
    /// Element type of the result.
    pub to: DType,
}

impl Op for Cast {
    const NAME: &'static str = "cast";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 1)?;
        Ok(vec![Spec { dims: inputs[0].dims, dtype: self.to }])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(0, inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::NOTHING
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let to = ctx.input_spec(0).dtype;
        if !to.is_float() {
            return Ok(vec![None]);
        }
        Ok(vec![grads[0].as_ref().map(|g| g.to_dtype(to)).transpose()?])
    }
}

impl Tensor {
    /// The elements as `dtype`; itself if they are that already.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype() { Ok(self.clone()) } else { apply_one(Cast { to: dtype }, &[self]) }
    }

    /// A row-major copy with a storage of its own.
    pub fn copy(&self) -> Result<Self> {
        apply_one(Cast { to: self.dtype() }, &[self])
    }
}
