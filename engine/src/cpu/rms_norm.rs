use super::multiversion::multiversion;
use super::threads::{Scatter, parallel_for};
use super::walk::{float_type, for_row_blocks};
use crate::ops::{RmsNorm, RmsNormGrad};
use crate::{Cpu, Float, Input, Kernel, Layout, Output, Result};

/// Partial results of a sum, whatever the vector width: the order of summation is fixed.
const LANES: usize = 32;

/// `Σ f(x, y)` over two rows of one length, in a fixed order that vectorises.
#[inline(always)]
pub(super) fn sum(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut acc = [0.0f32; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    for ((a, &x), &y) in acc.iter_mut().zip(xs.remainder()).zip(ys.remainder()) {
        *a = f(x, y);
    }
    for (x, y) in xs.zip(ys) {
        for ((a, &x), &y) in acc.iter_mut().zip(x).zip(y) {
            *a += f(x, y);
        }
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

multiversion! {
    /// A row as f32.
    fn widen<T: Float>(x: &[T], out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(y, x)| *y = x.to_f32());
    }
}

/// Row `row` of a view as f32, into `buffer`.
pub(super) fn load_row<T: Float>(data: &[T], layout: &Layout, row: usize, buffer: &mut [f32]) {
    if buffer.is_empty() {
        return; // a row of nothing has no place in the storage
    }
    let at = row_offset(layout, row);
    let step = layout.strides[layout.dims.len() - 1];
    if step == 1 {
        widen(&data[at..at + buffer.len()], buffer);
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

multiversion! {
    pub(super) fn normalise<T: Float>(row: &[f32], weight: &[f32], eps: f32, out: &mut [T]) {
        let scale = 1.0 / (sum(row, row, |x, _| x * x) / row.len() as f32 + eps).sqrt();
        for ((y, &x), &w) in out.iter_mut().zip(row).zip(weight) {
            *y = T::from_f32(T::from_f32(x * scale).to_f32() * w);
        }
    }
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
            // SAFETY: each task has its own rows.
            normalise(&row, &weight, eps, unsafe { out.slice(r * n, n) });
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

multiversion! {
    /// Gradient of one row; `grad` is overwritten.
    fn row_grad<T: Float>(row: &[f32], grad: &mut [f32], weight: &[f32], eps: f32, dx: &mut [T], dw: &mut [f32]) {
        let n = row.len() as f32;
        let scale = 1.0 / (sum(row, row, |x, _| x * x) / n + eps).sqrt();
        for (((g, &x), &w), dw) in grad.iter_mut().zip(row).zip(weight).zip(dw) {
            *dw += *g * T::from_f32(x * scale).to_f32();
            *g *= w;
        }
        let pull = sum(grad, row, |h, x| h * x) / n * scale * scale * scale;
        for ((dx, &h), &x) in dx.iter_mut().zip(&*grad).zip(row) {
            *dx = T::from_f32(scale * h - pull * x);
        }
    }
}

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
            // SAFETY: each task has its own rows.
            row_grad(&row, &mut grad, &weight, eps, unsafe { dx.slice(r * n, n) }, dw);
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
