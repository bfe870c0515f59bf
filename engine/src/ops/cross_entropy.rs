//! Cross-entropy of next-token predictions, fused with its log-softmax.

use crate::autograd::GradContext;
use crate::error::{Error, Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply, apply_one};
use crate::ops::{CrossEntropyGrad, arity, float, shape};
use crate::{DType, Tensor};

/// `loss[r] = ln Σ_v exp(logits[r, v]) − logits[r, labels[r]]`, in f32 whatever the logits.
///
/// Inputs `logits [R, V]` and `labels` i32 `[R]`; outputs `loss` f32 `[R]` and the logarithm of the sum, `lse`
/// f32 `[R]`. A row whose label is `ignore` is not read: both its outputs are 0. Any other label outside
/// `0..V` is an error. The backward pass needs the logits as they are and `lse`; no probabilities are kept.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Label of rows that do not count.
    pub ignore: i32,
}

/// The rule that the loss and its gradient share: `logits [R, V]` float, `labels` i32 `[R]`. Returns `R`.
pub(super) fn check(op: &'static str, logits: &Spec, labels: &Spec) -> Result<usize> {
    float(op, "logits", logits)?;
    let [rows, _] = logits.dims[..] else {
        return Err(rule!(op, "logits have shape {:?}, expected [rows, vocabulary]", logits.dims));
    };
    if labels.dtype != DType::I32 {
        return Err(rule!(op, "labels are {}, expected i32", labels.dtype));
    }
    shape(op, "labels", labels, &[rows])?;
    Ok(rows)
}

impl Op for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 2)?;
        let rows = check(Self::NAME, &inputs[0], &inputs[1])?;
        Ok(vec![Spec::new(&[rows], DType::F32)?; 2])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        // A comparison, a subtraction, an exponential and a sum per logit.
        Cost::streaming(4 * inputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves { inputs: 0b11, outputs: 0b10 }
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        if grads[1].is_some() {
            return Err(Error::Autograd(
                "the log-sum-exp of cross_entropy has no gradient; detach it".into(),
            ));
        }
        let Some(g) = &grads[0] else { return Ok(vec![None, None]) };
        let op = CrossEntropyGrad { ignore: self.ignore };
        Ok(vec![Some(apply_one(op, &[&ctx.input(0)?, &ctx.input(1)?, &ctx.output(1)?, g])?), None])
    }
}

impl Tensor {
    /// Loss f32 `[R]` of each row of these logits `[R, V]` against `labels` i32 `[R]`; 0 where the label is
    /// `ignore`.
    pub fn cross_entropy(&self, labels: &Self, ignore: i32) -> Result<Self> {
        Ok(apply(CrossEntropy { ignore }, &[self, labels])?.swap_remove(0))
    }
}
