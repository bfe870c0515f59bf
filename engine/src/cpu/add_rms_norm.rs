use super::multiversion::multiversion;
use super::rms_norm::{load_row, normalise, rows_of, vector};
use super::threads::Scatter;
use super::walk::{float_type, for_row_blocks};
use crate::ops::AddRmsNorm;
use crate::{Cpu, Float, Input, Kernel, Output, Result};

multiversion! {
    /// The sum, rounded, and once more in `x`.
    fn add_row<T: Float>(x: &mut [f32], y: &[f32], out: &mut [T]) {
        for ((x, &y), out) in x.iter_mut().zip(y).zip(out) {
            *out = T::from_f32(*x + y);
            *x = out.to_f32();
        }
    }
}

fn forward<T: Float>(eps: f32, inputs: &[Input<'_, Cpu>], outputs: &mut [Output<'_, Cpu>]) -> Result<()> {
    let (x, y) = (&inputs[0], &inputs[1]);
    let (rows, n) = rows_of(x.layout);
    let weight = vector::<T>(&inputs[2]);
    let (xs, ys) = (x.slice::<T>(), y.slice::<T>());
    let [sum, normed] = outputs else { unreachable!("two outputs by the rule") };
    let (sum, normed) = (Scatter::new(sum.slice_mut::<T>()?), Scatter::new(normed.slice_mut::<T>()?));
    for_row_blocks(rows, n, |first, count| {
        let (mut row, mut other) = (vec![0.0f32; n], vec![0.0f32; n]);
        for r in first..first + count {
            load_row(xs, x.layout, r, &mut row);
            load_row(ys, y.layout, r, &mut other);
            // SAFETY: each task has its own rows.
            let (sum, normed) = unsafe { (sum.slice(r * n, n), normed.slice(r * n, n)) };
            add_row(&mut row, &other, sum);
            normalise(&row, &weight, eps, normed);
        }
    });
    Ok(())
}

impl Kernel<AddRmsNorm> for Cpu {
    fn run(
        &self,
        op: &AddRmsNorm,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[0].dtype, T => forward::<T>(op.eps, inputs, outputs))
    }
}
