use std::borrow::Cow;

use super::math::exp;
use super::multiversion::multiversion;
use super::rows::{copy_row, flat};
use super::threads::Scatter;
use super::walk::{float_type, for_row_blocks};
use crate::error::{Result, rule};
use crate::ops::{CrossEntropy, CrossEntropyGrad};
use crate::{Cpu, Float, Input, Kernel, Op, Output};

/// Partial results of a row; fixes the order of summation whatever the vector width.
const LANES: usize = 32;
/// Elements summed in f32 before the sum moves to f64.
const BLOCK: usize = 128 * LANES;

multiversion! {
    /// Largest element; NaN is passed over (it shows in the sum).
    fn largest<T: Float>(x: &[T]) -> f32 {
        let mut acc = [f32::NEG_INFINITY; LANES];
        let chunks = x.chunks_exact(LANES);
        for (a, x) in acc.iter_mut().zip(chunks.remainder()) {
            *a = x.to_f32().max(*a);
        }
        for chunk in chunks {
            for (a, x) in acc.iter_mut().zip(chunk) {
                let x = x.to_f32();
                *a = if x > *a { x } else { *a };
            }
        }
        acc.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}

multiversion! {
    /// `Σ exp(x − max)` of at most [`BLOCK`] elements.
    fn sum_exp<T: Float>(x: &[T], max: f32) -> f64 {
        let mut acc = [0.0f32; LANES];
        let chunks = x.chunks_exact(LANES);
        for (a, x) in acc.iter_mut().zip(chunks.remainder()) {
            *a += exp(x.to_f32() - max);
        }
        for chunk in chunks {
            for (a, x) in acc.iter_mut().zip(chunk) {
                *a += exp(x.to_f32() - max);
            }
        }
        acc.iter().map(|&a| f64::from(a)).sum()
    }
}

/// The largest element of a row and `Σ exp(x − largest)`, in one pass over memory: a block is read twice, the
/// second time from the cache.
fn max_and_sum<T: Float>(row: &[T]) -> (f32, f64) {
    let (mut max, mut total) = (f32::NEG_INFINITY, 0.0f64);
    for block in row.chunks(BLOCK) {
        let here = largest(block);
        if here > max {
            total *= f64::from(max - here).exp();
            max = here;
        }
        // While all are −∞ their sum is 0 (or NaN if there is one), whatever is subtracted.
        total += sum_exp(block, if max == f32::NEG_INFINITY { 0.0 } else { max });
    }
    (max, total)
}

multiversion! {
    /// `out = g·exp(x − lse)`.
    fn softmax_times<T: Float>(x: &[T], lse: f32, g: f32, out: &mut [T]) {
        for (y, x) in out.iter_mut().zip(x) {
            *y = T::from_f32(g * exp(x.to_f32() - lse));
        }
    }
}

/// Row `r` of a matrix; copied into `gathered` if its elements do not lie side by side.
fn row<'a, T: Float>(x: &Input<'_, Cpu>, data: &'a [T], r: usize, gathered: &'a mut Vec<T>) -> &'a [T] {
    let (n, at, step) = (x.layout.dims[1], r * x.layout.strides[0], x.layout.strides[1]);
    if step == 1 || n == 0 {
        return &data[at.min(data.len())..][..n];
    }
    gathered.resize(n, T::zeroed());
    copy_row(data, at, step, gathered);
    gathered
}

/// The labels, all of them in `0..vocabulary` or `ignore`.
fn labels<'a>(
    op: &'static str,
    labels: &Input<'a, Cpu>,
    ignore: i32,
    vocabulary: usize,
) -> Result<Cow<'a, [i32]>> {
    let labels = flat::<i32>(labels);
    let outside = |&l: &i32| l != ignore && usize::try_from(l).map_or(true, |l| l >= vocabulary);
    match labels.iter().position(outside) {
        None => Ok(labels),
        Some(r) => Err(rule!(
            op,
            "label {} of row {r} is neither {ignore} (ignored) nor below the vocabulary of {vocabulary}",
            labels[r]
        )),
    }
}

fn forward<T: Float>(
    op: &CrossEntropy,
    inputs: &[Input<'_, Cpu>],
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let x = &inputs[0];
    let (rows, n) = (x.layout.dims[0], x.layout.dims[1]);
    let labels = labels(CrossEntropy::NAME, &inputs[1], op.ignore, n)?;
    let [loss, lse] = outputs else { unreachable!("two outputs by the rule") };
    let (loss, lse) = (Scatter::new(loss.slice_mut::<f32>()?), Scatter::new(lse.slice_mut::<f32>()?));
    let data = x.slice::<T>();
    for_row_blocks(rows, n, |first, count| {
        let mut gathered = Vec::new();
        for r in first..first + count {
            let (mut row_loss, mut row_lse) = (0.0, 0.0);
            if labels[r] != op.ignore {
                let row = row(x, data, r, &mut gathered);
                let (max, sum) = max_and_sum(row);
                let log_sum = sum.ln() as f32;
                row_lse = max + log_sum;
                // Not lse − logit: where the label is the largest, its small loss keeps all its digits.
                row_loss = (max - row[labels[r] as usize].to_f32()) + log_sum;
            }
            // SAFETY: each task has its own rows.
            unsafe { (loss.set(r, row_loss), lse.set(r, row_lse)) };
        }
    });
    Ok(())
}

impl Kernel<CrossEntropy> for Cpu {
    fn run(
        &self,
        op: &CrossEntropy,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[0].dtype, T => forward::<T>(op, inputs, outputs))
    }
}

fn backward<T: Float>(
    op: &CrossEntropyGrad,
    inputs: &[Input<'_, Cpu>],
    out: &mut Output<'_, Cpu>,
) -> Result<()> {
    let [x, ids, lse, g] = inputs else { unreachable!("four inputs by the rule") };
    let (rows, n) = (x.layout.dims[0], x.layout.dims[1]);
    let labels = labels(CrossEntropyGrad::NAME, ids, op.ignore, n)?;
    let (lse, g) = (flat::<f32>(lse), flat::<f32>(g));
    let out = Scatter::new(out.slice_mut::<T>()?);
    let data = x.slice::<T>();
    for_row_blocks(rows, n, |first, count| {
        let mut gathered = Vec::new();
        for r in first..first + count {
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(r * n, n) };
            if labels[r] == op.ignore {
                out.fill(T::from_f32(0.0));
                continue;
            }
            let row = row(x, data, r, &mut gathered);
            softmax_times(row, lse[r], g[r], out);
            let label = labels[r] as usize;
            out[label] = T::from_f32(g[r] * (exp(row[label].to_f32() - lse[r]) - 1.0));
        }
    });
    Ok(())
}

impl Kernel<CrossEntropyGrad> for Cpu {
    fn run(
        &self,
        op: &CrossEntropyGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[0].dtype, T => backward::<T>(op, inputs, &mut outputs[0]))
    }
}
