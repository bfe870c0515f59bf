use super::multiversion::multiversion;
use super::rms_norm::{row_offset, rows_of};
use super::rows::copy_row;
use super::threads::Scatter;
use super::walk::{float_type, for_row_blocks};
use crate::ops::Argmax;
use crate::{Cpu, Float, Input, Kernel, Layout, Output, Result};

/// Elements that are compared as one.
pub(super) const CHUNK: usize = 256;

/// An integer that orders as the floats do: −0 with 0, NaN above everything.
#[inline(always)]
pub(super) fn key<T: Float>(x: T) -> i32 {
    let x = x.to_f32();
    // Adding 0 turns −0 into 0. Negative floats grow downwards: all bits but the sign are flipped.
    let bits = (x + 0.0).to_bits() as i32;
    if x.is_nan() { i32::MAX } else { bits ^ (bits >> 31 & i32::MAX) }
}

/// Partial results of a chunk: lanes that the compiler keeps in vector registers. One running maximum it
/// does not vectorise.
const LANES: usize = 32;

multiversion! {
    /// The largest key.
    pub(super) fn largest_key<T: Float>(x: &[T]) -> i32 {
        let mut best = [i32::MIN; LANES];
        let chunks = x.chunks_exact(LANES);
        for (best, &x) in best.iter_mut().zip(chunks.remainder()) {
            *best = key(x).max(*best);
        }
        for chunk in chunks {
            for (best, &x) in best.iter_mut().zip(chunk) {
                *best = key(x).max(*best);
            }
        }
        best.into_iter().fold(i32::MIN, i32::max)
    }
}

/// Calls `f(row, elements)` for each row of `x` in parallel; rows whose elements do not lie side by side are
/// copied first.
pub(super) fn for_rows<T: Float>(x: &Input<'_, Cpu>, f: impl Fn(usize, &[T]) + Sync) {
    let layout: &Layout = x.layout;
    let (rows, n) = rows_of(layout);
    let step = layout.strides[layout.dims.len() - 1];
    let data = x.slice::<T>();
    for_row_blocks(rows, n, |first, count| {
        let mut gathered = vec![T::zeroed(); if step == 1 { 0 } else { n }];
        for r in first..first + count {
            let at = row_offset(layout, r);
            if n == 0 || step == 1 {
                f(r, if n == 0 { &[] } else { &data[at..at + n] });
            } else {
                copy_row(data, at, step, &mut gathered);
                f(r, &gathered);
            }
        }
    });
}

fn argmax<T: Float>(x: &Input<'_, Cpu>, out: &mut Output<'_, Cpu>) -> Result<()> {
    let out = Scatter::new(out.slice_mut::<u32>()?);
    for_rows::<T>(x, |r, row| {
        // One pass finds the chunk, a second one over that chunk the place.
        let (mut best, mut start) = (largest_key(&row[..CHUNK.min(row.len())]), 0);
        for (c, chunk) in row.chunks(CHUNK).enumerate().skip(1) {
            let largest = largest_key(chunk);
            if largest > best {
                (best, start) = (largest, c * CHUNK);
            }
        }
        let place = row[start..].iter().position(|&x| key(x) == best).expect("the largest is one of them");
        // SAFETY: each task has its own rows.
        unsafe { out.set(r, (start + place) as u32) };
    });
    Ok(())
}

impl Kernel<Argmax> for Cpu {
    fn run(&self, _: &Argmax, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        float_type!(inputs[0].dtype, T => argmax::<T>(&inputs[0], &mut outputs[0]))
    }
}
