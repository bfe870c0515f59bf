//! Copy into a view of an existing tensor, in place: the key-value cache, gradients of slices.

use crate::Tensor;
use crate::error::Result;
use crate::op::{Cost, Op, Spec, apply_in_place};
use crate::ops::{arity, shape};

/// `target = convert(x)`, in place.
#[derive(Clone, Debug)]
pub struct Write;

impl Op for Write {
    const NAME: &'static str = "write";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 2)?;
        shape(Self::NAME, "the source", &inputs[1], &inputs[0].dims)?;
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], _: &[Spec]) -> Cost {
        Cost::streaming(0, &inputs[1..], &inputs[..1])
    }
}

impl Tensor {
    /// Overwrites the elements of this view with those of `source`, converted. Not seen by the tape.
    pub fn write(&self, source: &Self) -> Result<()> {
        apply_in_place(Write, &[self], &[source])
    }
}
