use super::multiversion::multiversion;
use super::rms_norm::row_offset;
use super::rows::{copy_row, flat};
use super::threads::Scatter;
use super::walk::{float_type, for_row_blocks};
use crate::ops::{Rope, RopeKind};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// `(a·cos − b·sin, b·cos + a·sin)` with products and sums rounded to `T`.
#[inline(always)]
fn turn<T: Float>(a: T, b: T, cos: f32, sin: f32) -> (T, T) {
    let round = |x: f32| T::from_f32(x).to_f32();
    let (a, b) = (a.to_f32(), b.to_f32());
    (T::from_f32(round(a * cos) - round(b * sin)), T::from_f32(round(b * cos) + round(a * sin)))
}

multiversion! {
    /// One head, pairs `(i, i + D/2)`.
    fn turn_half<T: Float>(x: &[T], cos: &[f32], sin: &[f32], y: &mut [T]) {
        let n = cos.len();
        let ((a, b), (p, q)) = (x.split_at(n), y.split_at_mut(n));
        let (sin, b, q) = (&sin[..n], &b[..n], &mut q[..n]);
        for i in 0..n {
            (p[i], q[i]) = turn(a[i], b[i], cos[i], sin[i]);
        }
    }
}

multiversion! {
    /// One head, pairs `(2i, 2i + 1)`.
    fn turn_interleaved<T: Float>(x: &[T], cos: &[f32], sin: &[f32], y: &mut [T]) {
        let pairs = x.chunks_exact(2).zip(y.chunks_exact_mut(2));
        for ((x, y), (&cos, &sin)) in pairs.zip(cos.iter().zip(sin)) {
            (y[0], y[1]) = turn(x[0], x[1], cos, sin);
        }
    }
}

/// `theta^(−2i/D)`, i < D/2, each rounded to f32 as `1 / theta^(2i/D)` is.
fn inverse_frequencies(theta: f32, d: usize) -> Vec<f32> {
    let power = |i: usize| f64::from(theta).powf(f64::from(2.0 * i as f32 / d as f32)) as f32;
    (0..d / 2).map(|i| 1.0 / power(i)).collect()
}

fn rope<T: Float>(op: &Rope, inputs: &[Input<'_, Cpu>], out: &mut Output<'_, Cpu>) -> Result<()> {
    let x = &inputs[0];
    let [b, s, heads, d] = x.layout.dims[..] else { unreachable!("four dimensions by the rule") };
    let positions = flat::<u32>(&inputs[1]);
    let frequencies = inverse_frequencies(op.theta, d);
    let sign = if op.inverse { -1.0 } else { 1.0 };
    let step = x.layout.strides[3];
    let data = x.slice::<T>();
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_row_blocks(b * s, heads * d, |first, count| {
        let (mut cos, mut sin) = (vec![0.0f32; d / 2], vec![0.0f32; d / 2]);
        let mut gathered = vec![T::zeroed(); if step == 1 { 0 } else { d }];
        let mut known = None;
        for r in first..first + count {
            if known.replace(positions[r]) != Some(positions[r]) {
                for ((c, s), &f) in cos.iter_mut().zip(&mut sin).zip(&frequencies) {
                    let angle = positions[r] as f32 * f;
                    *c = T::from_f32(angle.cos()).to_f32();
                    *s = sign * T::from_f32(angle.sin()).to_f32();
                }
            }
            for h in 0..heads {
                let at = row_offset(x.layout, r * heads + h);
                let head = if step == 1 {
                    &data[at..at + d]
                } else {
                    copy_row(data, at, step, &mut gathered);
                    &gathered
                };
                // SAFETY: each task has its own rows.
                let out = unsafe { out.slice((r * heads + h) * d, d) };
                match op.kind {
                    RopeKind::Half => turn_half(head, &cos, &sin, out),
                    RopeKind::Interleaved => turn_interleaved(head, &cos, &sin, out),
                }
            }
        }
    });
    Ok(())
}

impl Kernel<Rope> for Cpu {
    fn run(&self, op: &Rope, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        if inputs[0].layout.count() == 0 {
            return Ok(());
        }
        float_type!(inputs[0].dtype, T => rope::<T>(op, inputs, &mut outputs[0]))
    }
}
