//! Between tensors and operand words: packing, transposing, writing results.
//!
//! Two layouts of a matrix `[rows][dim]`, both with rows of [`width`] words and zeros in the padding:
//! *rows* (a word's elements are neighbours along dim) for products over dim, and *pairs* (neighbours
//! along rows) for products over rows. With one element in a word they are the same.

use super::simd::{Kernel, Simd};
use crate::Float;

/// Words between the rows of a packed matrix: whole vectors of any instruction set.
pub(super) fn width(dim: usize) -> usize {
    dim.next_multiple_of(16)
}

/// Rows to prefetch ahead: the rows of one head are too far apart for the hardware to foresee.
const AHEAD: usize = 8;

#[inline(always)]
unsafe fn prefetch_row<T: Float, S: Simd>(row: &[T]) {
    for line in row.chunks(64 / size_of::<T>()) {
        // SAFETY: by the caller.
        unsafe { S::prefetch(line.as_ptr()) };
    }
}

/// Packs `rows` rows, given by number, in the layout *rows*.
struct PackRows<'b, F> {
    rows: usize,
    row: F,
    width: usize,
    to: &'b mut [u32],
}

impl<'a, T: Float, F: Fn(usize) -> &'a [T]> Kernel for PackRows<'_, F> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        assert!(self.width.is_multiple_of(S::LANES));
        for (r, to) in self.to.chunks_exact_mut(self.width).take(self.rows).enumerate() {
            let from = (self.row)(r);
            // SAFETY: prefetching has no effect but time.
            unsafe { prefetch_row::<T, S>((self.row)((r + AHEAD).min(self.rows - 1))) };
            assert!(from.len() <= self.width * S::GROUP);
            for x in (0..self.width).step_by(S::LANES) {
                let done = from.len().min(x * S::GROUP);
                // SAFETY: the count is what is left of `from`, and `to` has a whole vector at x.
                unsafe {
                    let words = S::gather_words(from.as_ptr().add(done), from.len() - done);
                    S::store_words(to.as_mut_ptr().add(x), words);
                }
            }
        }
    }
}

/// Packs `rows` rows, given by number, in the layout *pairs*, where a word has two elements.
struct PackPairs<'b, F> {
    rows: usize,
    row: F,
    width: usize,
    to: &'b mut [u32],
}

impl<'a, T: Float, F: Fn(usize) -> &'a [T]> Kernel for PackPairs<'_, F> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        assert!(self.width.is_multiple_of(S::LANES));
        for (w, to) in self.to.chunks_exact_mut(self.width).take(self.rows.div_ceil(2)).enumerate() {
            let lo = (self.row)(2 * w);
            // SAFETY: prefetching has no effect but time.
            unsafe {
                prefetch_row::<T, S>((self.row)((2 * w + AHEAD).min(self.rows - 1)));
                prefetch_row::<T, S>((self.row)((2 * w + 1 + AHEAD).min(self.rows - 1)));
            }
            let hi = if 2 * w + 1 < self.rows { (self.row)(2 * w + 1) } else { lo };
            assert!(lo.len() <= self.width && hi.len() == lo.len());
            for x in (0..self.width).step_by(S::LANES) {
                let done = lo.len().min(x);
                // SAFETY: the count is what is left of both rows, and `to` has a whole vector at x.
                unsafe {
                    let words = S::zip_rows(lo.as_ptr().add(done), hi.as_ptr().add(done), lo.len() - done);
                    S::store_words(to.as_mut_ptr().add(x), words);
                }
            }
            if 2 * w + 1 == self.rows {
                // A row without a partner: zero is the second element.
                for word in to {
                    *word &= 0xffff;
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
    isa.run(PackRows { rows, row, width, to });
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
        isa.run(PackRows { rows, row, width, to });
    } else {
        isa.run(PackPairs { rows, row, width, to });
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
