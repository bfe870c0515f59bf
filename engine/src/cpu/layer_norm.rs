use super::rms_norm::{ROWS_PER_PARTIAL, load_row, rows_of, sum, sum_blocks, vector};
use super::threads::{Scatter, parallel_for};
use super::walk::{float_type, for_row_blocks};
use crate::ops::{LayerNorm, LayerNormGrad};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// Mean and reciprocal deviation of a row: two passes, so that a large mean costs no digits.
fn moments(row: &[f32], eps: f32) -> (f32, f32) {
    let n = row.len();
    let mean = sum(n, |i| row[i]) / n as f32;
    let variance = sum(n, |i| (row[i] - mean) * (row[i] - mean)) / n as f32;
    (mean, 1.0 / (variance + eps).sqrt())
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
            let (mean, scale) = moments(&row, eps);
            // SAFETY: each task has its own rows.
            let out = unsafe { out.slice(r * n, n) };
            for (i, y) in out.iter_mut().enumerate() {
                *y = T::from_f32((row[i] - mean) * scale * weight[i] + bias[i]);
            }
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
            let (mean, scale) = moments(&row, eps);
            row.iter_mut().for_each(|x| *x = (*x - mean) * scale);
            let mean_h = sum(n, |i| grad[i] * weight[i]) / n as f32;
            let mean_hx = sum(n, |i| grad[i] * weight[i] * row[i]) / n as f32;
            // SAFETY: each task has its own rows.
            let dx = unsafe { dx.slice(r * n, n) };
            for i in 0..n {
                dx[i] = T::from_f32(scale * (grad[i] * weight[i] - mean_h - row[i] * mean_hx));
                dw[i] += grad[i] * row[i];
                db[i] += grad[i];
            }
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
