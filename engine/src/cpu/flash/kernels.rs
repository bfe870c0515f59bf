//! The inner kernels of the blocked passes.
//!
//! Blocks of scores are kept **transposed**: a row is a key, the [`BLOCK`] lanes across are queries. The
//! maximum, the sum and the rescaling of the online softmax are then vertical, without a horizontal
//! reduction, and both products of the forward pass take K and V as the operand that is broadcast, so
//! that only the queries are ever transposed.

use std::ops::Range;

use super::simd::{Kernel, Simd, exp2};

/// Queries in a block, and the row length of every score buffer.
pub(super) const BLOCK: usize = 64;

/// One value per query of a block.
pub(super) type Lanes = [f32; BLOCK];

/// What a product is added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// C = factor · A·B
    Zero {
        /// Multiplies the product.
        factor: f32,
    },
    /// C += A·B
    Add,
    /// C = C · diag(factors) + A·B, one factor per column.
    Rescale(&'a [f32]),
}

/// A product of packed operands: `c[r][..n]` from Σ over `depth` words w of `a[r][w] · b[w][..n]`.
pub(super) struct Product<'a> {
    /// Rows of A and C.
    pub m: usize,
    /// Columns of B and C, a multiple of the vector length.
    pub n: usize,
    /// Words contracted.
    pub depth: usize,
    /// Word (r, w) stands at `r * a_row + w * a_word`.
    pub a: &'a [u32],
    pub a_row: usize,
    pub a_word: usize,
    /// Word (w, x) stands at `w * b_row + x`.
    pub b: &'a [u32],
    pub b_row: usize,
    /// Element (r, x) stands at `r * c_row + x`.
    pub c: &'a mut [f32],
    pub c_row: usize,
    pub start: Start<'a>,
}

impl Kernel for Product<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        if self.m == 0 || self.n == 0 {
            return;
        }
        assert!(self.n.is_multiple_of(S::LANES));
        assert!(self.depth == 0 || (self.m - 1) * self.a_row + (self.depth - 1) * self.a_word < self.a.len());
        assert!(self.depth == 0 || (self.depth - 1) * self.b_row + self.n <= self.b.len());
        assert!((self.m - 1) * self.c_row + self.n <= self.c.len());
        assert!(!matches!(self.start, Start::Rescale(f) if f.len() < self.n));
        let c = self.c.as_mut_ptr();
        let mut x = 0;
        while x < self.n {
            // Panels as even as can be: five vectors go as three and two.
            let left = (self.n - x) / S::LANES;
            let width = left.div_ceil(left.div_ceil(S::TILE_COLUMNS));
            // SAFETY: the assertions cover every word that the tiles of this panel touch.
            unsafe {
                match width {
                    1 => panel::<S, 1>(&self, c, x),
                    2 if S::TILE_COLUMNS >= 2 => panel::<S, 2>(&self, c, x),
                    3 if S::TILE_COLUMNS >= 3 => panel::<S, 3>(&self, c, x),
                    4 if S::TILE_COLUMNS >= 4 => panel::<S, 4>(&self, c, x),
                    _ => unreachable!("wider than the widest tile"),
                }
            }
            x += width * S::LANES;
        }
    }
}

/// Columns `x .. x + C · LANES` of a product: tiles of full height, then of what is left.
#[inline(always)]
unsafe fn panel<S: Simd, const C: usize>(p: &Product<'_>, c: *mut f32, x: usize) {
    let full = S::TILE_ROWS[C - 1];
    let mut r = 0;
    // SAFETY: rows r .. r + R are below m.
    unsafe {
        while p.m - r >= full {
            match full {
                16 => tile::<S, 16, C>(p, c, r, x),
                12 => tile::<S, 12, C>(p, c, r, x),
                10 => tile::<S, 10, C>(p, c, r, x),
                8 => tile::<S, 8, C>(p, c, r, x),
                6 => tile::<S, 6, C>(p, c, r, x),
                4 => tile::<S, 4, C>(p, c, r, x),
                2 => tile::<S, 2, C>(p, c, r, x),
                _ => unreachable!("no such tile"),
            }
            r += full;
        }
        while r < p.m {
            match p.m - r {
                left if left >= 8 && full > 8 => {
                    tile::<S, 8, C>(p, c, r, x);
                    r += 8;
                }
                left if left >= 4 && full > 4 => {
                    tile::<S, 4, C>(p, c, r, x);
                    r += 4;
                }
                left if left >= 2 && full > 2 => {
                    tile::<S, 2, C>(p, c, r, x);
                    r += 2;
                }
                _ => {
                    tile::<S, 1, C>(p, c, r, x);
                    r += 1;
                }
            }
        }
    }
}

/// R rows by C vectors of the product, held in registers over the whole depth.
#[inline(always)]
unsafe fn tile<S: Simd, const R: usize, const C: usize>(p: &Product<'_>, c: *mut f32, r: usize, x: usize) {
    // SAFETY: rows r .. r + R and columns x .. x + C · LANES are within the bounds that `Product::run`
    // asserted.
    unsafe {
        let mut acc = [[S::splat(0.0); C]; R];
        let mut a = p.a.as_ptr().wrapping_add(r * p.a_row);
        let mut b = p.b.as_ptr().wrapping_add(x);
        for _ in 0..p.depth {
            let mut row = [S::words(b); C];
            for i in 1..C {
                row[i] = S::words(b.add(i * S::LANES));
            }
            for j in 0..R {
                let broadcast = S::splat_word(a.add(j * p.a_row));
                for i in 0..C {
                    acc[j][i] = S::dot(acc[j][i], broadcast, row[i]);
                }
            }
            a = a.wrapping_add(p.a_word);
            b = b.wrapping_add(p.b_row);
        }
        let c = c.add(r * p.c_row + x);
        match p.start {
            Start::Zero { factor } => {
                let factor = S::splat(factor);
                for j in 0..R {
                    for i in 0..C {
                        S::store(c.add(j * p.c_row + i * S::LANES), S::mul(acc[j][i], factor));
                    }
                }
            }
            Start::Add => {
                for j in 0..R {
                    for i in 0..C {
                        let at = c.add(j * p.c_row + i * S::LANES);
                        S::store(at, S::add(S::load(at), acc[j][i]));
                    }
                }
            }
            Start::Rescale(factors) => {
                for i in 0..C {
                    let factor = S::load(factors.as_ptr().add(x + i * S::LANES));
                    for j in 0..R {
                        let at = c.add(j * p.c_row + i * S::LANES);
                        S::store(at, S::fma(S::load(at), factor, acc[j][i]));
                    }
                }
            }
        }
    }
}

/// Hides keys from queries: lane i of the scores keeps its first `visible[i]` rows, the rest become −∞.
pub(super) struct Mask<'a> {
    pub rows: usize,
    /// `[rows][BLOCK]`
    pub scores: &'a mut [f32],
    pub visible: [u32; BLOCK],
}

impl Kernel for Mask<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let rows = self.scores.as_chunks_mut::<BLOCK>().0.iter_mut().take(self.rows);
        for (r, row) in rows.enumerate() {
            for (score, &visible) in row.iter_mut().zip(&self.visible) {
                *score = if (r as u32) < visible { *score } else { f32::NEG_INFINITY };
            }
        }
    }
}

/// Running state of the online softmax of a block of queries, in units of log 2.
pub(super) struct State {
    /// Greatest score so far.
    pub max: Lanes,
    /// Σ 2^(score − max) so far.
    pub sum: Lanes,
    /// What the last block of keys multiplied earlier sums by.
    pub rescale: Lanes,
}

impl State {
    /// Before the first key. The maximum starts at a finite value, so that −∞ − max is never NaN.
    pub(super) fn new() -> Self {
        Self { max: [f32::MIN; BLOCK], sum: [0.0; BLOCK], rescale: [0.0; BLOCK] }
    }

    /// log₂ Σ 2^score of lane `i`: −∞ where nothing was visible.
    pub(super) fn log2_sum(&self, i: usize) -> f32 {
        if self.sum[i] == 0.0 { f32::NEG_INFINITY } else { self.max[i] + self.sum[i].log2() }
    }
}

/// One step of the online softmax (Milakov & Gimelshein 2018; Dao 2023, algorithm 1): takes a block of
/// scores, updates the state, and leaves 2^(score − max) as operand words in place of the scores, with
/// pairs along the keys; word row w then stands at `w * BLOCK`.
pub(super) struct Softmax<'a> {
    /// Keys; a multiple of the word's elements.
    pub rows: usize,
    /// Queries, in whole vectors.
    pub lanes: Range<usize>,
    /// Scores in units of log 2, `[rows][BLOCK]`; −∞ where a key is not visible.
    pub scores: &'a mut [f32],
    pub state: &'a mut State,
}

impl Kernel for Softmax<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Range { start: mut x, end } = self.lanes;
        assert!(end <= BLOCK && (end - x).is_multiple_of(S::LANES) && self.rows.is_multiple_of(S::GROUP));
        assert!(self.rows * BLOCK <= self.scores.len());
        let s = self.scores.as_mut_ptr();
        while x < end {
            // SAFETY: lanes x .. x + C · LANES are below the end, and all rows are within the scores.
            unsafe {
                match (end - x) / S::LANES {
                    4.. => x += softmax_panel::<S, 4>(self.rows, s, self.state, x),
                    2..4 => x += softmax_panel::<S, 2>(self.rows, s, self.state, x),
                    _ => x += softmax_panel::<S, 1>(self.rows, s, self.state, x),
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn softmax_panel<S: Simd, const C: usize>(
    rows: usize,
    s: *mut f32,
    state: &mut State,
    x: usize,
) -> usize {
    // SAFETY: by the caller; words go to rows that have been read.
    unsafe {
        let lane = |i: usize| x + i * S::LANES;
        let mut max = [S::splat(0.0); C];
        let mut sum = [S::splat(0.0); C];
        for i in 0..C {
            max[i] = S::load(state.max.as_ptr().add(lane(i)));
        }
        for r in 0..rows {
            for i in 0..C {
                max[i] = S::max(max[i], S::load(s.add(r * BLOCK + lane(i))));
            }
        }
        for w in 0..rows / S::GROUP {
            for i in 0..C {
                let lo = exp2::<S>(S::sub(S::load(s.add(w * S::GROUP * BLOCK + lane(i))), max[i]));
                let mut hi = lo;
                sum[i] = S::add(sum[i], lo);
                if S::GROUP == 2 {
                    hi = exp2::<S>(S::sub(S::load(s.add((2 * w + 1) * BLOCK + lane(i))), max[i]));
                    sum[i] = S::add(sum[i], hi);
                }
                S::store_words(s.add(w * BLOCK + lane(i)).cast(), S::zip(lo, hi));
            }
        }
        for i in 0..C {
            let before = S::load(state.max.as_ptr().add(lane(i)));
            let rescale = exp2::<S>(S::sub(before, max[i]));
            let total = S::fma(S::load(state.sum.as_ptr().add(lane(i))), rescale, sum[i]);
            S::store(state.rescale.as_mut_ptr().add(lane(i)), rescale);
            S::store(state.sum.as_mut_ptr().add(lane(i)), total);
            S::store(state.max.as_mut_ptr().add(lane(i)), max[i]);
        }
    }
    C * S::LANES
}

/// From a block of scores and of dP = V·dOᵀ to P and dS = P ∘ (dP − δ), as operand words (Dao 2023,
/// algorithm 2; the scale is left to the caller).
pub(super) struct Gradient<'a> {
    /// Keys; a multiple of the word's elements.
    pub rows: usize,
    /// Queries, up to a whole vector.
    pub n: usize,
    /// In: scores in units of log 2, `[rows][BLOCK]`. Out: P, a key's row at `row * BLOCK`, in words with
    /// pairs along the queries.
    pub scores: &'a mut [f32],
    /// In: dP. Out: dS, stored like P.
    pub slope: &'a mut [f32],
    /// Out, where a word has two elements: dS with pairs along the keys, word row w at `w * BLOCK`.
    pub pairs: &'a mut [u32],
    /// log₂ Σ 2^score of each query; +∞ for a query that sees no key.
    pub log2_sum: &'a Lanes,
    /// δ = Σ dO · O of each query.
    pub delta: &'a Lanes,
}

impl Kernel for Gradient<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        assert!(self.n <= BLOCK && self.n.is_multiple_of(S::LANES) && self.rows.is_multiple_of(S::GROUP));
        let size = self.rows * BLOCK;
        assert!(size <= self.scores.len() && size <= self.slope.len());
        assert!(S::GROUP == 1 || size / 2 <= self.pairs.len());
        let (s, d) = (self.scores.as_mut_ptr(), self.slope.as_mut_ptr());
        // SAFETY: rows and lanes are within the buffers by the assertions. In place: the words of a
        // vector at lane x go to x / GROUP of the same row, over lanes that have been read.
        unsafe {
            for w in 0..self.rows / S::GROUP {
                for x in (0..self.n).step_by(S::LANES) {
                    let log2_sum = S::load(self.log2_sum.as_ptr().add(x));
                    let delta = S::load(self.delta.as_ptr().add(x));
                    let mut last = S::splat(0.0);
                    for g in 0..S::GROUP {
                        let row = (w * S::GROUP + g) * BLOCK;
                        let p = exp2::<S>(S::sub(S::load(s.add(row + x)), log2_sum));
                        let ds = S::mul(p, S::sub(S::load(d.add(row + x)), delta));
                        S::store_narrow(s.add(row + x / S::GROUP).cast(), p);
                        S::store_narrow(d.add(row + x / S::GROUP).cast(), ds);
                        if S::GROUP == 2 && g == 1 {
                            S::store_words(self.pairs.as_mut_ptr().add(w * BLOCK + x), S::zip(last, ds));
                        }
                        last = ds;
                    }
                }
            }
        }
    }
}
