//! Any captured application against the oracle, on a sample of its output.
//!
//! A model's shapes are too large for loops in f64: a sample of rows, columns or runs of elements is computed by the
//! same formulas, spread over the whole output with its first and last elements always in it. Inputs are read byte by
//! byte from storage ([`Tensor::to_strided_bytes`]), never through a kernel.
//!
//! An operation that keeps an intermediate for the backward pass is checked as the function of its inputs that its
//! documentation states: gradients take the log-sum-exp, or the adapter's inner product, as they are given.

mod attention;
mod elementwise;
mod norms;
mod products;
mod rows;
mod state;
mod values;

use std::fmt;

use engine::{Application, Op, Result, Tensor};

use crate::tolerance::{Expect, Mismatch, close};
use values::Values;

/// What a check has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Checked {
    /// Elements that were compared.
    pub elements: usize,
    /// Largest share of its allowance that one of them took, 0 to 1.
    pub worst: f64,
}

/// Why an application got no pass.
#[derive(Clone, Debug, PartialEq)]
pub enum Failed {
    /// An element lies too far from the oracle's.
    Wrong {
        /// Number of the output (or target).
        output: usize,
        /// Its place.
        index: Vec<usize>,
        /// The distance.
        mismatch: Mismatch,
    },
    /// Nothing here knows the operation.
    NoOracle(&'static str),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong { output, index, mismatch: m } => write!(
                f,
                "output {output} at {index:?} is {}, the oracle gives {}; off by {:.3e}, allowed {:.3e}",
                m.got, m.want, m.off, m.allowed
            ),
            Self::NoOracle(name) => write!(f, "{name} has no oracle; add it to tests/oracle/replay"),
        }
    }
}

impl std::error::Error for Failed {}

type Outcome = std::result::Result<Checked, Failed>;

/// Runs `application` once, on copies of what it overwrites, and compares a sample of what it gives.
///
/// # Errors
/// If the operation does not run at all.
pub fn check(application: &Application) -> Result<Outcome> {
    let own = if application.targets() > 0 { application.duplicate()? } else { application.clone() };
    let before = own.inputs().iter().map(Values::of).collect::<Result<Vec<_>>>()?;
    let after = own.run()?;
    compare(&own, before, &after)
}

/// Compares what another device gave for `application`, whose inputs are as they were before, with the oracle.
///
/// # Errors
/// If a tensor cannot be read.
pub fn judge(application: &Application, after: &[Tensor]) -> Result<std::result::Result<Checked, Failed>> {
    let before = application.inputs().iter().map(Values::of).collect::<Result<Vec<_>>>()?;
    compare(application, before, after)
}

/// Compares what an application gave with the oracle; `before` are its inputs as they were.
fn compare(application: &Application, before: Vec<Values>, after: &[Tensor]) -> Result<Outcome> {
    let after = after.iter().map(Values::of).collect::<Result<Vec<_>>>()?;
    let case = Case { application, before, after };
    let families =
        [elementwise::check, norms::check, rows::check, products::check, attention::check, state::check];
    let outcome = families.iter().find_map(|family| family(&case));
    Ok(outcome.unwrap_or(Err(Failed::NoOracle(application.name()))))
}

/// An application with its inputs before and its outputs (or targets) after.
struct Case<'a> {
    application: &'a Application,
    before: Vec<Values>,
    after: Vec<Values>,
}

impl Case<'_> {
    fn op<O: Op>(&self) -> Option<&O> {
        self.application.op()
    }

    /// The elements at `picks` of output `output` against `expect`, which has one size for each list of indices.
    fn block(&self, output: usize, picks: &[Vec<usize>], expect: &Expect) -> Outcome {
        let got = self.after[output].block(picks);
        self.found(output, close(&got.data, expect), got.data.len(), |element| {
            let sizes: Vec<usize> = picks.iter().map(Vec::len).collect();
            unravel(element, &sizes).iter().zip(picks).map(|(&i, pick)| pick[i]).collect()
        })
    }

    /// Elements by their row-major numbers.
    fn flat(&self, output: usize, at: &[usize], expect: &Expect) -> Outcome {
        let got = self.after[output].flat(at);
        self.found(output, close(&got.data, expect), at.len(), |element| {
            unravel(at[element], &self.after[output].dims)
        })
    }

    /// Whole rows (runs of the last dimension) by their numbers; `expect` is `[rows, length]`.
    fn rows(&self, output: usize, rows: &[usize], expect: &Expect) -> Outcome {
        let n = self.after[output].row_len();
        let at: Vec<usize> = rows.iter().flat_map(|row| row * n..(row + 1) * n).collect();
        self.flat(output, &at, expect)
    }

    #[allow(clippy::unused_self, reason = "reads as the end of a comparison of this case")]
    fn found(
        &self,
        output: usize,
        result: std::result::Result<f64, Mismatch>,
        elements: usize,
        index: impl Fn(usize) -> Vec<usize>,
    ) -> Outcome {
        match result {
            Ok(worst) => Ok(Checked { elements, worst }),
            Err(mismatch) => Err(Failed::Wrong { output, index: index(mismatch.element), mismatch }),
        }
    }
}

/// All of several outcomes: the first failure, else the sum.
fn all(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
    let mut sum = Checked::default();
    for outcome in outcomes {
        let Checked { elements, worst } = outcome?;
        sum = Checked { elements: sum.elements + elements, worst: sum.worst.max(worst) };
    }
    Ok(sum)
}

/// Index of element `at` in row-major order.
fn unravel(mut at: usize, dims: &[usize]) -> Vec<usize> {
    let mut index = vec![0; dims.len()];
    for (i, &d) in index.iter_mut().zip(dims).rev() {
        *i = at % d.max(1);
        at /= d.max(1);
    }
    index
}

/// `0, 1, … n − 1`.
fn whole(n: usize) -> Vec<usize> {
    (0..n).collect()
}

/// At most `most` of `0..n`, spread over it: the first, the last, and one at a place of its own in each stretch
/// between, so that no period of a tile is hit or missed throughout.
fn spread(n: usize, most: usize) -> Vec<usize> {
    if n <= most.max(2) {
        return whole(n);
    }
    let most = most.max(2);
    let mut rng = engine::Rng::new(n as u64);
    let mut picks: Vec<usize> = (0..most)
        .map(|i| {
            let (low, high) = (i * n / most, (i + 1) * n / most);
            low + rng.below(high - low)
        })
        .collect();
    picks[0] = 0;
    picks[most - 1] = n - 1;
    picks
}

/// Row-major numbers of up to some 4,000 of `count` elements, in runs of 64: whole vectors and their ends.
fn runs(count: usize) -> Vec<usize> {
    const RUN: usize = 64;
    let starts = spread(count.div_ceil(RUN), 64);
    starts.into_iter().flat_map(|run| run * RUN..((run + 1) * RUN).min(count)).collect()
}

/// Root of the sum of squares: what the rounding errors of a sum of terms come to, as both signs occur.
fn root_sum_squares(terms: impl Iterator<Item = f64>) -> f64 {
    terms.map(|t| t * t).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests;
