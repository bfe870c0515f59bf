//! Packing: from any strides to the order in which a register tile reads.

use super::kernel::Kernel;
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
