//! The inner kernels of the decode path, which read K and V where they lie.
//!
//! Here the lanes run along the head dimension, the way a cache is stored.

use super::decode::KEYS;
use super::simd::{Kernel, Simd, exp2};
use crate::Float;

/// Asks for rows ahead of their use.
pub(super) struct Prefetch<'a, T> {
    pub data: &'a [T],
    pub offsets: &'a [usize; KEYS],
    pub dim: usize,
}

impl<T: Float> Kernel for Prefetch<'_, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for &at in self.offsets {
            for d in (0..self.dim).step_by(64 / size_of::<T>()) {
                // SAFETY: prefetching has no effect but time.
                unsafe { S::prefetch(self.data.as_ptr().wrapping_add(at + d)) };
            }
        }
    }
}

/// Scores of [`KEYS`] keys for some query rows: `out[r][j] = factor · q[r]·k[j]`. What stands beyond
/// `count` is unspecified.
pub(super) struct Scores<'a, T> {
    /// Query rows in words, zero beyond `dim`; `q_row` words each.
    pub q: &'a [u32],
    pub q_row: usize,
    pub k: &'a [T],
    /// Where each key's `dim` elements start in `k`.
    pub offsets: &'a [usize; KEYS],
    /// Keys that matter.
    pub count: usize,
    pub dim: usize,
    pub factor: f32,
    /// `[rows][KEYS]`
    pub out: &'a mut [f32],
}

impl<T: Float> Kernel for Scores<'_, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.q.len() / self.q_row;
        assert!(self.offsets.iter().all(|at| at + self.dim <= self.k.len()));
        assert!(rows * KEYS <= self.out.len() && self.count <= KEYS);
        let step = S::LANES * S::GROUP;
        assert!(self.dim.div_ceil(step) * S::LANES <= self.q_row);
        // SAFETY: keys, queries and scores are within their slices by the assertions.
        unsafe {
            let factor = S::splat(self.factor);
            for j0 in (0..self.count).step_by(S::LANES) {
                for r in 0..rows {
                    let q = self.q.as_ptr().add(r * self.q_row);
                    let mut sums = [S::splat(0.0); 16];
                    let mut d = 0;
                    while d < self.dim {
                        let q = S::words(q.add(d / S::GROUP));
                        for j in 0..S::LANES {
                            let k = self.k.as_ptr().add(self.offsets[j0 + j] + d);
                            sums[j] = S::dot(sums[j], q, S::gather_words(k, self.dim - d));
                        }
                        d += step;
                    }
                    let scores = S::mul(S::sum_each(&sums), factor);
                    S::store(self.out.as_mut_ptr().add(r * KEYS + j0), scores);
                }
            }
        }
    }
}

/// Turns one row of scores into weights 2^(score − greatest), the greatest of them and of `max`.
pub(super) struct Weights<'a> {
    pub row: &'a mut [f32; KEYS],
    pub max: f32,
}

/// What [`Weights`] found.
pub(super) struct Weighed {
    /// The greatest score, the given one included.
    pub max: f32,
    /// The sum of the weights.
    pub sum: f32,
}

impl Kernel for Weights<'_> {
    type Out = Weighed;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> Weighed {
        let row = self.row.as_mut_ptr();
        // SAFETY: all lanes are within the row.
        unsafe {
            let mut lanes = [0.0f32; 16];
            let mut max = S::splat(self.max);
            for j in (0..KEYS).step_by(S::LANES) {
                max = S::max(max, S::load(row.add(j)));
            }
            S::store(lanes.as_mut_ptr(), max);
            let greatest =
                lanes[1..S::LANES].iter().fold(lanes[0], |a, &b| if b.is_nan() || b > a { b } else { a });
            max = S::splat(greatest);
            let mut sum = S::splat(0.0);
            for j in (0..KEYS).step_by(S::LANES) {
                let weight = exp2::<S>(S::sub(S::load(row.add(j)), max));
                sum = S::add(sum, weight);
                S::store(row.add(j), weight);
            }
            S::store(lanes.as_mut_ptr(), sum);
            Weighed { max: greatest, sum: lanes[..S::LANES].iter().sum() }
        }
    }
}

/// `out[r] = factors[r] · out[r] + Σ over the keys of p[r][j] · v[j]`.
pub(super) struct Values<'a, T> {
    /// `[rows][KEYS]`
    pub p: &'a [f32],
    pub v: &'a [T],
    /// Where each key's `dim` elements start in `v`.
    pub offsets: &'a [usize; KEYS],
    pub count: usize,
    pub dim: usize,
    pub factors: &'a [f32],
    /// `[rows][out_row]`, `out_row` a whole number of vectors.
    pub out: &'a mut [f32],
    pub out_row: usize,
}

impl<T: Float> Kernel for Values<'_, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.p.len() / KEYS;
        assert!(self.offsets.iter().all(|at| at + self.dim <= self.v.len()));
        assert!(self.count <= KEYS && rows <= self.factors.len());
        assert!(rows * self.out_row <= self.out.len() && self.dim.next_multiple_of(S::LANES) <= self.out_row);
        let out = self.out.as_mut_ptr();
        let mut d = 0;
        // SAFETY: the panels cover dim, padded to whole vectors, of rows below `rows`.
        unsafe {
            while d < self.dim {
                let left = (self.dim - d).div_ceil(S::LANES);
                if left >= 4 && S::TILE_COLUMNS >= 4 {
                    values_panel::<T, S, 4>(&self, rows, out, d);
                    d += 4 * S::LANES;
                } else if left >= 2 {
                    values_panel::<T, S, 2>(&self, rows, out, d);
                    d += 2 * S::LANES;
                } else {
                    values_panel::<T, S, 1>(&self, rows, out, d);
                    d += S::LANES;
                }
            }
        }
    }
}

/// C vectors from element `d` on, for all rows, up to four rows at a time.
#[inline(always)]
unsafe fn values_panel<T: Float, S: Simd, const C: usize>(
    k: &Values<'_, T>,
    rows: usize,
    out: *mut f32,
    d: usize,
) {
    let mut r = 0;
    // SAFETY: by the caller.
    unsafe {
        while r < rows {
            r += match rows - r {
                4.. => values_tile::<T, S, 4, C>(k, out, r, d),
                3 => values_tile::<T, S, 3, C>(k, out, r, d),
                2 => values_tile::<T, S, 2, C>(k, out, r, d),
                _ => values_tile::<T, S, 1, C>(k, out, r, d),
            };
        }
    }
}

#[inline(always)]
unsafe fn values_tile<T: Float, S: Simd, const R: usize, const C: usize>(
    k: &Values<'_, T>,
    out: *mut f32,
    r: usize,
    d: usize,
) -> usize {
    // SAFETY: by the caller; a vector's count stops at `dim`.
    unsafe {
        let mut acc = [[S::splat(0.0); C]; R];
        for j in 0..k.count {
            let from = k.v.as_ptr().add(k.offsets[j] + d);
            let mut v = [S::splat(0.0); C];
            for c in 0..C {
                v[c] = S::widen(from.add(c * S::LANES), k.dim - d - c * S::LANES);
            }
            for i in 0..R {
                let weight = S::splat(*k.p.get_unchecked((r + i) * KEYS + j));
                for c in 0..C {
                    acc[i][c] = S::fma(weight, v[c], acc[i][c]);
                }
            }
        }
        for i in 0..R {
            let factor = S::splat(k.factors[r + i]);
            for c in 0..C {
                let at = out.add((r + i) * k.out_row + d + c * S::LANES);
                S::store(at, S::fma(S::load(at), factor, acc[i][c]));
            }
        }
    }
    R
}
