use super::threads::{Scatter, parallel_for};
use super::walk::{float_type, for_row_blocks};
use crate::ops::{RmsNorm, RmsNormGrad};
use crate::{Cpu, Float, Input, Kernel, Layout, Output, Result};

/// Lanes of the sums, whatever the vector width: the order of summation is fixed.
const LANES: usize = 16;

/// `Σ f(i)` over `0..n` in a fixed order that vectorises.
#[inline(always)]
pub(super) fn sum(n: usize, f: impl Fn(usize) -> f32) -> f32 {
    let mut acc = [0.0f32; LANES];
    let whole = n / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        for (l, a) in acc.iter_mut().enumerate() {
            *a += f(i + l);
        }
    }
    for i in whole..n {
        acc[i - whole] += f(i);
    }
    acc.iter().sum()
}

/// Offset of row `row` (all dimensions but the last, row-major) in a strided view.
pub(super) fn row_offset(layout: &Layout, mut row: usize) -> usize {
    let mut at = 0;
    for d in (0..layout.dims.len() - 1).rev() {
        at += row % layout.dims[d] * layout.strides[d];
        row /= layout.dims[d];
    }
    at
}

/// Row `row` of a view as f32, into `buffer`.
pub(super) fn load_row<T: Float>(data: &[T], layout: &Layout, row: usize, buffer: &mut [f32]) {
    let at = row_offset(layout, row);
    let step = layout.strides[layout.dims.len() - 1];
    if buffer.is_empty() {
        // The rows of an empty matrix start beyond its slice.
    } else if step == 1 {
        let data = &data[at..at + buffer.len()];
        buffer.iter_mut().zip(data).for_each(|(y, x)| *y = x.to_f32());
    } else {
        buffer.iter_mut().enumerate().for_each(|(i, y)| *y = data[at + i * step].to_f32());
    }
}

/// Rows and row length of a view with at least one dimension.
pub(super) fn rows_of(layout: &Layout) -> (usize, usize) {
    let n = layout.dims[layout.dims.len() - 1];
    (layout.dims[..layout.dims.len() - 1].iter().product(), n)
}

/// A one-dimensional view as f32.
pub(super) fn vector<T: Float>(x: &Input<'_, Cpu>) -> Vec<f32> {
    let mut out = vec![0.0; x.layout.dims[0]];
    load_row(x.slice::<T>(), x.layout, 0, &mut out);
    out
}

fn forward<T: Float>(eps: f32, inputs: &[Input<'_, Cpu>], out: &mut Output<'_, Cpu>) -> Result<()> {
    let x = &inputs[0];
    let (rows, n) = rows_of(x.layout);
    let weight = vector::<T>(&inputs[1]);
    let data = x.slice::<T>();
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_row_blocks(rows, n, |first, count| {
        let mut row = vec![0.0f32; n];
        for r in first..first + count {
            load_row(data, x.layout, r, &mut row);
            let scale = 1.0 / (sum(n, |i| row[i] * row[i]) / n as f32 + eps).sqrt();
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(r * n, n) };
            for ((y, &x), &w) in out.iter_mut().zip(&row).zip(&weight) {
                *y = T::from_f32(T::from_f32(x * scale).to_f32() * w);
            }
        }
    });
    Ok(())
}

impl Kernel<RmsNorm> for Cpu {
    fn run(&self, op: &RmsNorm, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        float_type!(inputs[0].dtype, T => forward::<T>(op.eps, inputs, &mut outputs[0]))
    }
}

/// Sums per-block partial rows (`blocks × n`) to one row, in block order.
pub(super) fn sum_blocks<T: Float>(partial: &[f32], n: usize, out: &mut [T]) {
    for (i, y) in out.iter_mut().enumerate() {
        *y = T::from_f32(partial.chunks_exact(n).map(|row| row[i]).sum());
    }
}

/// Rows that share one partial sum of a weight gradient.
pub(super) const ROWS_PER_PARTIAL: usize = 64;

fn backward<T: Float>(eps: f32, inputs: &[Input<'_, Cpu>], outputs: &mut [Output<'_, Cpu>]) -> Result<()> {
    let [x, _, g] = inputs else { unreachable!("three inputs by the rule") };
    let (rows, n) = rows_of(x.layout);
    let weight = vector::<T>(&inputs[1]);
    let [dx, dw] = outputs else { unreachable!("two outputs by the rule") };
    let (xs, gs) = (x.slice::<T>(), g.slice::<T>());
    let blocks = rows.div_ceil(ROWS_PER_PARTIAL);
    let mut partial = vec![0.0f32; blocks * n];
    let parts = Scatter::new(&mut partial);
    let dx = Scatter::new(dx.slice_mut::<T>()?);
    parallel_for(blocks, |block| {
        let (mut row, mut grad) = (vec![0.0f32; n], vec![0.0f32; n]);
        // SAFETY: each task has its own partial row.
        let dw = unsafe { parts.slice(block * n, n) };
        for r in block * ROWS_PER_PARTIAL..((block + 1) * ROWS_PER_PARTIAL).min(rows) {
            load_row(xs, x.layout, r, &mut row);
            load_row(gs, g.layout, r, &mut grad);
            let scale = 1.0 / (sum(n, |i| row[i] * row[i]) / n as f32 + eps).sqrt();
            let dot = sum(n, |i| grad[i] * weight[i] * row[i]) / n as f32;
            let pull = dot * scale * scale * scale;
            // SAFETY: each task has its own rows.
            let dx = unsafe { dx.slice(r * n, n) };
            for i in 0..n {
                dx[i] = T::from_f32(scale * grad[i] * weight[i] - pull * row[i]);
                dw[i] += grad[i] * T::from_f32(row[i] * scale).to_f32();
            }
        }
    });
    if n > 0 {
        sum_blocks(&partial, n, dw.slice_mut::<T>()?);
    }
    Ok(())
}

impl Kernel<RmsNormGrad> for Cpu {
    fn run(
        &self,
        op: &RmsNormGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[0].dtype, T => backward::<T>(op.eps, inputs, outputs))
    }
}
