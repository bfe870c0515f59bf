//! Between tensors and operand words: packing, transposing, writing results.
//!
//! Two layouts of a matrix `[rows][dim]`, both with rows of [`width`] words and zeros in the padding:
//! *rows* (a word's elements are neighbours along dim) for products over dim, and *pairs* (neighbours
//! along rows) for products over rows. With one element in a word they are the same.

use half::bf16;

use super::simd::{Kernel, Simd};
use crate::Float;

/// Words between the rows of a packed matrix: whole vectors of any instruction set.
pub(super) fn width(dim: usize) -> usize {
    dim.next_multiple_of(16)
}

/// Packs one row in the layout *rows*; `to` is filled to its end.
pub(super) struct PackRow<'a, T> {
    pub from: &'a [T],
    pub to: &'a mut [u32],
}

impl<T: Float> Kernel for PackRow<'_, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let words = self.from.len().div_ceil(S::GROUP);
        let (to, padding) = self.to.split_at_mut(words);
        padding.fill(0);
        if S::GROUP == 1 {
            for (to, from) in to.iter_mut().zip(self.from) {
                *to = from.to_f32().to_bits();
            }
        } else {
            let from: &[bf16] = bytemuck::cast_slice(self.from);
            let (pairs, odd) = from.as_chunks::<2>();
            for (to, [lo, hi]) in to.iter_mut().zip(pairs) {
                *to = u32::from(lo.to_bits()) | u32::from(hi.to_bits()) << 16;
            }
            if let [last] = odd {
                to[words - 1] = u32::from(last.to_bits());
            }
        }
    }
}

/// Packs two rows into one row of the layout *pairs*, where a word has two elements; no `hi` is zero.
/// `to` is filled to its end.
pub(super) struct PackPair<'a, T> {
    pub lo: &'a [T],
    pub hi: Option<&'a [T]>,
    pub to: &'a mut [u32],
}

impl<T: Float> Kernel for PackPair<'_, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let (to, padding) = self.to.split_at_mut(self.lo.len());
        padding.fill(0);
        let lo: &[bf16] = bytemuck::cast_slice(self.lo);
        match self.hi {
            Some(hi) => {
                let hi: &[bf16] = bytemuck::cast_slice(hi);
                for ((to, lo), hi) in to.iter_mut().zip(lo).zip(hi) {
                    *to = u32::from(lo.to_bits()) | u32::from(hi.to_bits()) << 16;
                }
            }
            None => {
                for (to, lo) in to.iter_mut().zip(lo) {
                    *to = u32::from(lo.to_bits());
                }
            }
        }
    }
}

/// Packs `rows` rows, given by number, in the layout *rows*.
pub(super) fn pack_rows<'a, T: Float, S: Simd>(
    isa: S,
    rows: usize,
    row: impl Fn(usize) -> &'a [T],
    width: usize,
    to: &mut [u32],
) {
    for (r, to) in to.chunks_exact_mut(width).take(rows).enumerate() {
        isa.run(PackRow { from: row(r), to });
    }
}

/// Packs `rows` rows, given by number, in the layout *pairs*.
pub(super) fn pack_pairs<'a, T: Float, S: Simd>(
    isa: S,
    rows: usize,
    row: impl Fn(usize) -> &'a [T],
    width: usize,
    to: &mut [u32],
) {
    if S::GROUP == 1 {
        return pack_rows(isa, rows, row, width, to);
    }
    for (w, to) in to.chunks_exact_mut(width).take(rows.div_ceil(2)).enumerate() {
        let hi = (2 * w + 1 < rows).then(|| row(2 * w + 1));
        isa.run(PackPair { lo: row(2 * w), hi, to });
    }
}

/// Transposes words: `to[c][r] = from[r][c]`. Works in whole squares of the vector length, so both
/// buffers must hold `rows` and `cols` rounded up to it.
pub(super) struct Transpose<'a> {
    pub from: &'a [u32],
    pub from_row: usize,
    pub to: &'a mut [u32],
    pub to_row: usize,
    pub rows: usize,
    pub cols: usize,
}

impl Kernel for Transpose<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        if self.rows == 0 || self.cols == 0 {
            return;
        }
        let (rows, cols) = (self.rows.next_multiple_of(S::LANES), self.cols.next_multiple_of(S::LANES));
        assert!((rows - 1) * self.from_row + cols <= self.from.len());
        assert!((cols - 1) * self.to_row + rows <= self.to.len());
        for r in (0..rows).step_by(S::LANES) {
            for c in (0..cols).step_by(S::LANES) {
                // SAFETY: the square lies within both buffers by the assertions.
                unsafe {
                    S::transpose(
                        self.from.as_ptr().add(r * self.from_row + c),
                        self.from_row,
                        self.to.as_mut_ptr().add(c * self.to_row + r),
                        self.to_row,
                    );
                }
            }
        }
    }
}

/// Writes f32 times a factor as elements.
pub(super) struct WriteRow<'a, T> {
    pub from: &'a [f32],
    pub factor: f32,
    pub to: &'a mut [T],
}

impl<T: Float> Kernel for WriteRow<'_, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = T::from_f32(from * self.factor);
        }
    }
}

/// Σ a·b, in sixteen interleaved f32 sums whatever the instruction set.
pub(super) struct Inner<'a, T> {
    pub a: &'a [T],
    pub b: &'a [T],
}

impl<T: Float> Kernel for Inner<'_, T> {
    type Out = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        let mut sums = [0.0f32; 16];
        let ((a, a_rest), (b, b_rest)) = (self.a.as_chunks::<16>(), self.b.as_chunks::<16>());
        for (a, b) in a.iter().zip(b) {
            for i in 0..16 {
                sums[i] += a[i].to_f32() * b[i].to_f32();
            }
        }
        for (sum, (a, b)) in sums.iter_mut().zip(a_rest.iter().zip(b_rest)) {
            *sum += a.to_f32() * b.to_f32();
        }
        sums.iter().sum()
    }
}
