//! Gradient of [`CrossEntropy`](crate::ops::CrossEntropy).

use super::cross_entropy::check;
use crate::DType;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec};
use crate::ops::{arity, shape};

/// `dlogits[r, v] = g[r]·(exp(logits[r, v] − lse[r]) − [v = labels[r]])`, 0 in ignored rows. Inputs
/// `logits [R, V]`, `labels` i32 `[R]`, `lse` f32 `[R]`, `g` f32 `[R]`; output like the logits. Arithmetic in
/// f32, rounded once.
#[derive(Clone, Debug)]
pub struct CrossEntropyGrad {
    /// Label of rows that do not count.
    pub ignore: i32,
}

impl Op for CrossEntropyGrad {
    const NAME: &'static str = "cross_entropy_grad";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 4)?;
        let rows = check(Self::NAME, &inputs[0], &inputs[1])?;
        for (what, spec) in [("lse", &inputs[2]), ("g", &inputs[3])] {
            shape(Self::NAME, what, spec, &[rows])?;
            if spec.dtype != DType::F32 {
                return Err(rule!(Self::NAME, "{what} is {}, expected f32", spec.dtype));
            }
        }
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        // A subtraction, an exponential and a product per logit.
        Cost::streaming(3 * inputs[0].dims.count(), inputs, outputs)
    }
}
