use std::sync::{Arc, Mutex};

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
pub(crate) fn inverse_frequencies(theta: f32, d: usize) -> Vec<f32> {
    let power = |i: usize| f64::from(theta).powf(f64::from(2.0 * i as f32 / d as f32)) as f32;
    (0..d / 2).map(|i| 1.0 / power(i)).collect()
}

/// Cosines and sines of the positions 0, 1, …, `d/2` of each a row, in f32. Every layer of a model turns by
/// the same angles, and computing them costs more than turning.
struct Table {
    theta: u32,
    d: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Positions beyond this are computed at each call: a table would outgrow its use.
const LONGEST: usize = 1 << 16;
/// Tables kept: models that run beside each other.
const KEPT: usize = 4;

/// The table for at least `n` positions, made or lengthened if need be.
fn table(theta: f32, d: usize, n: usize) -> Arc<Table> {
    static TABLES: Mutex<Vec<Arc<Table>>> = Mutex::new(Vec::new());
    let mut tables = TABLES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let same = tables.iter().position(|t| t.theta == theta.to_bits() && t.d == d);
    if let Some(i) = same {
        if tables[i].cos.len() >= n * (d / 2) {
            return tables[i].clone();
        }
        tables.remove(i);
    }
    let frequencies = inverse_frequencies(theta, d);
    let angles = |f: fn(f32) -> f32| {
        (0..n.next_power_of_two()).flat_map(|p| frequencies.iter().map(move |&w| f(p as f32 * w))).collect()
    };
    let made = Arc::new(Table { theta: theta.to_bits(), d, cos: angles(f32::cos), sin: angles(f32::sin) });
    tables.truncate(KEPT - 1);
    tables.insert(0, made.clone());
    made
}

/// Cosines and sines of positions.
pub(super) struct Angles {
    half: usize,
    sign: f32,
    table: Option<Arc<Table>>,
    frequencies: Vec<f32>,
}

impl Angles {
    /// For heads of `d` elements at these positions.
    pub(super) fn new(theta: f32, d: usize, positions: &[u32], inverse: bool) -> Self {
        let longest = positions.iter().max().map_or(0, |&p| p as usize + 1);
        let frequencies = if longest > LONGEST { inverse_frequencies(theta, d) } else { Vec::new() };
        let table = (longest <= LONGEST).then(|| table(theta, d, longest));
        Self { half: d / 2, sign: if inverse { -1.0 } else { 1.0 }, table, frequencies }
    }

    /// Those of one position, rounded to `T`.
    pub(super) fn take<T: Float>(&self, position: u32, cos: &mut [f32], sin: &mut [f32]) {
        let row = position as usize * self.half;
        for i in 0..self.half {
            let (c, s) = if let Some(table) = &self.table {
                (table.cos[row + i], table.sin[row + i])
            } else {
                let angle = position as f32 * self.frequencies[i];
                (angle.cos(), angle.sin())
            };
            cos[i] = T::from_f32(c).to_f32();
            sin[i] = self.sign * T::from_f32(s).to_f32();
        }
    }
}

/// One head.
pub(super) fn turn_head<T: Float>(kind: RopeKind, x: &[T], cos: &[f32], sin: &[f32], y: &mut [T]) {
    match kind {
        RopeKind::Half => turn_half(x, cos, sin, y),
        RopeKind::Interleaved => turn_interleaved(x, cos, sin, y),
    }
}

fn rope<T: Float>(op: &Rope, inputs: &[Input<'_, Cpu>], out: &mut Output<'_, Cpu>) -> Result<()> {
    let x = &inputs[0];
    let [b, s, heads, d] = x.layout.dims[..] else { unreachable!("four dimensions by the rule") };
    let positions = flat::<u32>(&inputs[1]);
    let angles = Angles::new(op.theta, d, &positions, op.inverse);
    let step = x.layout.strides[3];
    let data = x.slice::<T>();
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_row_blocks(b * s, heads * d, |first, count| {
        let (mut cos, mut sin) = (vec![0.0f32; d / 2], vec![0.0f32; d / 2]);
        let mut gathered = vec![T::zeroed(); if step == 1 { 0 } else { d }];
        let mut known = None;
        for r in first..first + count {
            if known.replace(positions[r]) != Some(positions[r]) {
                angles.take::<T>(positions[r], &mut cos, &mut sin);
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
                turn_head(op.kind, head, &cos, &sin, out);
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
