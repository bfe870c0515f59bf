//! Index of the largest element.

use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec, apply_one};
use crate::ops::{arity, float};
use crate::{DType, Tensor};

/// Index, u32, of the largest element of each row of `x [rows…, n]`; the result is `[rows…]`. Among equal
/// elements (−0 and 0 are equal) the lowest index wins. NaN counts as larger than every number, so that a row
/// with a NaN points at it. No gradient.
#[derive(Clone, Debug)]
pub struct Argmax;

impl Op for Argmax {
    const NAME: &'static str = "argmax";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 1)?;
        float(Self::NAME, "the input", &inputs[0])?;
        let (n, lead) = row(Self::NAME, &inputs[0])?;
        if n == 0 {
            return Err(rule!(Self::NAME, "rows of {:?} are empty", inputs[0].dims));
        }
        Ok(vec![Spec::new(lead, DType::U32)?])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(inputs[0].dims.count(), inputs, outputs)
    }
}

/// Length of a row, which a u32 must index, and the dimensions before it.
pub(super) fn row<'a>(op: &'static str, x: &'a Spec) -> Result<(usize, &'a [usize])> {
    let (&n, lead) =
        x.dims.split_last().ok_or_else(|| rule!(op, "the input is a scalar, expected [rows…, n]"))?;
    if u32::try_from(n).is_err() {
        return Err(rule!(op, "rows of {n} elements are longer than a u32 can index"));
    }
    Ok((n, lead))
}

impl Tensor {
    /// Index, u32, of the largest element along the last dimension, which goes away.
    pub fn argmax(&self) -> Result<Self> {
        apply_one(Argmax, &[self])
    }
}
