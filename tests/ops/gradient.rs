//! The engine's gradients against central differences of the oracle.

use engine::{Result, Tensor};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::harness::{Check, Expect, Operand, Source, compare, devices};
use crate::oracle::Array;
use crate::tolerance::Class;

/// Step of the central differences, relative for |x| > 1. In f64 the error is about 1e-10 of the values.
const STEP: f64 = 1e-5;

/// How to compare gradients.
#[derive(Clone, Copy)]
pub(crate) struct Slack {
    /// Terms that one gradient element sums.
    pub(crate) terms: usize,
    /// What rounding errors are relative to, at least; the largest gradient of the input counts anyway.
    pub(crate) scale: f64,
}

impl Slack {
    pub(crate) fn terms(terms: usize) -> Self {
        Self { terms, scale: 0.0 }
    }
}

/// Derivatives of `Σ upstream · f(inputs)` with respect to each element of `inputs[which]`.
pub(crate) fn differences(
    inputs: &[Array],
    which: usize,
    upstream: &Array,
    f: &impl Fn(&[Array]) -> Array,
) -> Array {
    let mut inputs = inputs.to_vec();
    let mut out = inputs[which].map(|_| 0.0);
    for i in 0..out.data.len() {
        let x = inputs[which].data[i];
        let step = STEP * x.abs().max(1.0);
        let mut at = |x: f64| {
            inputs[which].data[i] = x;
            f(&inputs)
        };
        let (above, below) = (at(x + step), at(x - step));
        at(x);
        // Difference first, then the sum: what does not depend on this element cancels exactly.
        out.data[i] = above.zip(&below, |a, b| a - b).zip(upstream, |d, g| d * g).data.iter().sum::<f64>()
            / (2.0 * step);
    }
    out
}

/// Checks the gradient of every operand of `f` for a random upstream gradient, and that tracking one
/// operand alone gives it the same gradient as tracking all.
pub(crate) fn check(
    seed: u64,
    operands: &[&Operand],
    f: impl Fn(&[Tensor]) -> Result<Tensor>,
    oracle: impl Fn(&[Array]) -> Array,
    slack: Slack,
) -> Check {
    let values: Vec<Array> = operands.iter().map(|o| o.values.clone()).collect();
    let output = oracle(&values);
    let dtype = operands[0].dtype;
    let upstream = Source::new(seed ^ 0x5eed).normal(&output.dims, dtype);
    let want: Vec<Array> =
        (0..values.len()).map(|i| differences(&values, i, &upstream.values, &oracle)).collect();
    for device in devices() {
        let plain = operands.iter().map(|o| o.on(&device)).collect::<Result<Vec<_>>>()?;
        let leaves: Vec<Tensor> = plain.iter().map(Tensor::tracked).collect();
        let grad = upstream.on(&device)?;
        let gradients = f(&leaves)?.backward_from(&grad)?;
        for (i, want) in want.iter().enumerate() {
            let context = |e| TestCaseError::fail(format!("{device}: gradient {i}: {e}; from {operands:?}"));
            let got = gradients
                .get(&leaves[i])
                .ok_or_else(|| TestCaseError::fail(format!("no gradient reached input {i}")))?;
            let scale = slack.scale.max(want.largest());
            let expect = Expect::new(want.clone(), operands[i].dtype, Class::Gradient(slack.terms))
                .scale(want.map(|_| scale));
            compare(got, &expect).map_err(context)?;
            let mut mixed = plain.clone();
            mixed[i] = leaves[i].clone();
            let alone = f(&mixed)?.backward_from(&grad)?;
            prop_assert_eq!(alone.len(), 1, "only input {} was tracked", i);
            let alone = alone.get(&leaves[i]).unwrap();
            prop_assert!(alone.to_bytes()? == got.to_bytes()?, "input {i} alone has another gradient");
        }
    }
    Ok(())
}
