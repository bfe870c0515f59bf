//! Packing: from any strides to the order in which a register tile reads.

use super::kernel::{Kernel, Words};
use crate::cpu::packed::Packed;
use crate::dtype::Float;

/// A block of an operand seen lane by lane: rows of A or columns of B.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'a, T> {
    /// From lane 0 and step 0 on.
    pub(super) data: &'a [T],
    /// Elements from lane to lane.
    pub(super) lane: usize,
    /// Elements from step to step along `k`.
    pub(super) step: usize,
}

/// Packs `count` lanes × `k` steps, from lane `first` and step `from` on, as panels of `width` lanes:
/// `[panel, words, width]`, zeros where a panel exceeds the lanes.
pub(super) fn pack<T: Float, K: Kernel<T>>(
    src: Lanes<T>,
    (first, count): (usize, usize),
    (from, k): (usize, usize),
    width: usize,
    dst: &mut [u32],
) {
    assert!(width == K::MR || width == K::NR);
    let words = k.div_ceil(K::DEPTH);
    for (panel, dst) in dst.chunks_exact_mut(words * width).take(count.div_ceil(width)).enumerate() {
        let lanes = width.min(count - panel * width);
        let data = &src.data[(first + panel * width) * src.lane + from * src.step..];
        assert!((lanes - 1) * src.lane + (k - 1) * src.step < data.len());
        if src.step == 1 {
            // SAFETY: the assertions above; `dst` has the length by `chunks_exact_mut`.
            unsafe { K::pack_along_k(data.as_ptr(), src.lane, lanes, k, width, dst.as_mut_ptr()) };
        } else if src.lane == 1 {
            // SAFETY: as above.
            unsafe { K::pack_along_lanes(data.as_ptr(), src.step, lanes, k, width, dst.as_mut_ptr()) };
        } else {
            strided::<T, K>(data, src, lanes, k, width, dst);
        }
    }
}

/// Steps of `k` that are expanded at once: a part of the weight that stays in L1.
const EXPAND: usize = 128;

/// As [`pack`], from a quantised weight whose rows are the lanes: `count` rows from `first` on, `k` columns from
/// column `from` on, which is a whole number of words.
pub(super) fn expand_along_k<T: Float, K: Kernel<T>>(
    weight: &Packed,
    (first, count): (usize, usize),
    (from, k): (usize, usize),
    dst: &mut [u32],
    values: &mut Words,
) {
    let words = k.div_ceil(K::DEPTH);
    let values = values.elements::<T>(K::NR * EXPAND);
    for (panel, dst) in dst.chunks_exact_mut(words * K::NR).take(count.div_ceil(K::NR)).enumerate() {
        let lanes = K::NR.min(count - panel * K::NR);
        for part in (0..k).step_by(EXPAND) {
            let steps = EXPAND.min(k - part);
            for (lane, values) in values.chunks_exact_mut(EXPAND).take(lanes).enumerate() {
                let row = first + panel * K::NR + lane;
                weight.expand::<T, K>(row * weight.cols + from + part, &mut values[..steps]);
            }
            let dst = &mut dst[part / K::DEPTH * K::NR..];
            assert!(steps.div_ceil(K::DEPTH) * K::NR <= dst.len());
            // SAFETY: `lanes` rows of `steps` values, EXPAND apart; the assertion.
            unsafe { K::pack_along_k(values.as_ptr(), EXPAND, lanes, steps, K::NR, dst.as_mut_ptr()) };
        }
    }
}

/// As [`pack`], from a quantised weight whose columns are the lanes: `count` columns from `first` on, `k` rows from
/// row `from` on.
pub(super) fn expand_along_lanes<T: Float, K: Kernel<T>>(
    weight: &Packed,
    (first, count): (usize, usize),
    (from, k): (usize, usize),
    dst: &mut [u32],
    values: &mut Words,
) {
    /// Columns that are expanded at once: what shares a scale.
    const WIDE: usize = 64;
    const { assert!(WIDE.is_multiple_of(K::NR) && EXPAND.is_multiple_of(K::DEPTH)) };
    let words = k.div_ceil(K::DEPTH);
    let values = values.elements::<T>(EXPAND * WIDE);
    for group in (0..count).step_by(WIDE) {
        let wide = WIDE.min(count - group);
        for part in (0..k).step_by(EXPAND) {
            let steps = EXPAND.min(k - part);
            for (step, values) in values.chunks_exact_mut(WIDE).take(steps).enumerate() {
                let row = from + part + step;
                weight.expand::<T, K>(row * weight.cols + first + group, &mut values[..wide]);
            }
            for lane in (0..wide).step_by(K::NR) {
                let lanes = K::NR.min(wide - lane);
                let at = (group + lane) * words + part / K::DEPTH * K::NR;
                let dst = &mut dst[at..at + steps.div_ceil(K::DEPTH) * K::NR];
                // SAFETY: `steps` rows of `lanes` values, WIDE apart; `dst` was sliced to its length.
                unsafe {
                    K::pack_along_lanes(values[lane..].as_ptr(), WIDE, lanes, steps, K::NR, dst.as_mut_ptr());
                }
            }
        }
    }
}

/// Any strides, one element at a time. Views like this (a broadcast row, every second column) are rare.
fn strided<T: Float, K: Kernel<T>>(
    data: &[T],
    src: Lanes<T>,
    lanes: usize,
    k: usize,
    width: usize,
    dst: &mut [u32],
) {
    for (w, dst) in dst.chunks_exact_mut(width).enumerate() {
        let step = w * K::DEPTH;
        for (lane, word) in dst[..lanes].iter_mut().enumerate() {
            let at = lane * src.lane + step * src.step;
            let hi = if K::DEPTH == 2 && step + 1 < k { data[at + src.step] } else { T::from_f32(0.0) };
            *word = K::word(data[at], hi);
        }
        dst[lanes..].fill(0);
    }
}

/// Body of [`Kernel::pack_along_lanes`]; each instruction set compiles its own.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn along_lanes<T: Float, K: Kernel<T>>(
    src: *const T,
    stride: usize,
    lanes: usize,
    k: usize,
    width: usize,
    dst: *mut u32,
) {
    for w in 0..k.div_ceil(K::DEPTH) {
        let step = w * K::DEPTH;
        // SAFETY: step `step` of `lanes` contiguous elements is within `src`, row `w` within `dst`.
        let (lo, dst) = unsafe {
            (
                std::slice::from_raw_parts(src.add(step * stride), lanes),
                std::slice::from_raw_parts_mut(dst.add(w * width), width),
            )
        };
        if K::DEPTH == 2 && step + 1 < k {
            // SAFETY: step `step + 1` is within `src` too.
            let hi = unsafe { std::slice::from_raw_parts(src.add((step + 1) * stride), lanes) };
            for ((word, &lo), &hi) in dst.iter_mut().zip(lo).zip(hi) {
                *word = K::word(lo, hi);
            }
        } else {
            for (word, &lo) in dst.iter_mut().zip(lo) {
                *word = K::word(lo, T::from_f32(0.0));
            }
        }
        dst[lanes..].fill(0);
    }
}

/// Body of [`Kernel::store`]; each instruction set compiles its own.
///
/// # Safety
/// As there.
#[inline(always)]
pub(super) unsafe fn store<O: Float>(
    tile: *const f32,
    nr: usize,
    rows: usize,
    cols: usize,
    out: *mut O,
    rs: usize,
) {
    for i in 0..rows {
        // SAFETY: row `i` is within both by the caller's promise.
        let (tile, out) = unsafe {
            (
                std::slice::from_raw_parts(tile.add(i * nr), cols),
                std::slice::from_raw_parts_mut(out.add(i * rs), cols),
            )
        };
        for (out, &sum) in out.iter_mut().zip(tile) {
            *out = O::from_f32(sum);
        }
    }
}
