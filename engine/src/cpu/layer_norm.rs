use super::multiversion::multiversion;
use super::rms_norm::{ROWS_PER_PARTIAL, load_row, rows_of, sum, sum_blocks, vector};
use super::threads::{Scatter, parallel_for};
use super::walk::{float_type, for_row_blocks};
use crate::ops::{LayerNorm, LayerNormGrad};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// Mean and reciprocal deviation of a row: two passes, so that a large mean costs no digits.
#[inline(always)]
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len() as f32;
    let mean = sum(row, row, |x, _| x) / n;
    let variance = sum(row, row, |x, _| (x - mean) * (x - mean)) / n;
    (mean, 1.0 / (variance + eps).sqrt())
}

multiversion! {
    fn normalise<T: Float>(row: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [T]) {
        let (mean, scale) = moments(row, eps);
        for (((y, &x), &w), &b) in out.iter_mut().zip(row).zip(weight).zip(bias) {
            *y = T::from_f32((x - mean) * scale * w + b);
        }
    }
}

fn forward<T: Float>(eps: f32, inputs: &[Input<'_, Cpu>], out: &mut Output<'_, Cpu>) -> Result<()> {
    let x = &inputs[0];
    let (rows, n) = rows_of(x.layout);
    let (weight, bias) = (vector::<T>(&inputs[1]), vector::<T>(&inputs[2]));
    let data = x.slice::<T>();
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_row_blocks(rows, n, |first, count| {
        let mut row = vec![0.0f32; n];
        for r in first..first + count {
            load_row(data, x.layout, r, &mut row);
            // SAFETY: each task has its own rows.
            normalise(&row, &weight, &bias, eps, unsafe { out.slice(r * n, n) });
        }
    });
    Ok(())
}

impl Kernel<LayerNorm> for Cpu {
    fn run(
        &self,
        op: &LayerNorm,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[0].dtype, T => forward::<T>(op.eps, inputs, &mut outputs[0]))
    }
}

/// Partial sums of the gradients of weight and bias.
type Partial<'a> = (&'a mut [f32], &'a mut [f32]);

multiversion! {
    /// Gradient of one row; `row` and `grad` are overwritten.
    fn row_grad<T: Float>(
        row: &mut [f32], grad: &mut [f32], weight: &[f32], eps: f32, dx: &mut [T], partial: Partial<'_>,
    ) {
        let n = row.len() as f32;
        let (dw, db) = partial;
        let (mean, scale) = moments(row, eps);
        for ((((x, g), &w), dw), db) in row.iter_mut().zip(&mut *grad).zip(weight).zip(dw).zip(db) {
            *x = (*x - mean) * scale;
            *dw += *g * *x;
            *db += *g;
            *g *= w;
        }
        let mean_h = sum(grad, grad, |h, _| h) / n;
        let mean_hx = sum(grad, row, |h, x| h * x) / n;
        for ((dx, &h), &x) in dx.iter_mut().zip(&*grad).zip(&*row) {
            *dx = T::from_f32(scale * (h - mean_h - x * mean_hx));
        }
    }
}

fn backward<T: Float>(eps: f32, inputs: &[Input<'_, Cpu>], outputs: &mut [Output<'_, Cpu>]) -> Result<()> {
    let [x, _, g] = inputs else { unreachable!("three inputs by the rule") };
    let [dx, dw, db] = outputs else { unreachable!("three outputs by the rule") };
    let (rows, n) = rows_of(x.layout);
    let weight = vector::<T>(&inputs[1]);
    let (xs, gs) = (x.slice::<T>(), g.slice::<T>());
    let blocks = rows.div_ceil(ROWS_PER_PARTIAL);
    let (mut partial_w, mut partial_b) = (vec![0.0f32; blocks * n], vec![0.0f32; blocks * n]);
    let (ws, bs) = (Scatter::new(&mut partial_w), Scatter::new(&mut partial_b));
    let dx = Scatter::new(dx.slice_mut::<T>()?);
    parallel_for(blocks, |block| {
        let (mut row, mut grad) = (vec![0.0f32; n], vec![0.0f32; n]);
        // SAFETY: each task has its own partial rows.
        let (dw, db) = unsafe { (ws.slice(block * n, n), bs.slice(block * n, n)) };
        for r in block * ROWS_PER_PARTIAL..((block + 1) * ROWS_PER_PARTIAL).min(rows) {
            load_row(xs, x.layout, r, &mut row);
            load_row(gs, g.layout, r, &mut grad);
            // SAFETY: each task has its own rows.
            row_grad(&mut row, &mut grad, &weight, eps, unsafe { dx.slice(r * n, n) }, (&mut *dw, &mut *db));
        }
    });
    if n > 0 {
        sum_blocks(&partial_w, n, dw.slice_mut::<T>()?);
        sum_blocks(&partial_b, n, db.slice_mut::<T>()?);
    }
    Ok(())
}

impl Kernel<LayerNormGrad> for Cpu {
    fn run(
        &self,
        op: &LayerNormGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[0].dtype, T => backward::<T>(op.eps, inputs, outputs))
    }
}
