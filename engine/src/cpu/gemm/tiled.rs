//! Products of any size: pack blocks of A and B, run the register tile over them.
//!
//! A task owns a rectangle of C. Block by block along `k` it packs its columns of B into scratch memory of
//! its thread, sized to stay in L2, and walks down its rows of A, a panel of MR at a time: in place where a
//! kernel can read them so, else packed just before use. Tasks share nothing, so one fork covers the batch and
//! all rectangles.

use super::kernel::{Kernel, SCRATCH, Scratch};
use super::pack::{Lanes, expand_along_k, expand_along_lanes, pack};
use super::{Gemm, Init, Right, from};
use crate::cpu::packed::UNIT;
use crate::cpu::threads;
use crate::dtype::{DType, Float};

/// Start values of a row of register tiles: more zeros than any kernel's NR.
static ZEROS: [f32; 64] = [0.0; 64];

/// Products of fewer operations than this stay on the calling thread.
const WORTH_A_FORK: usize = 1 << 17;

/// The cut of C into rectangles of `mp × np` register tiles.
#[derive(Clone, Copy, Debug)]
struct Grid {
    mp: usize,
    np: usize,
    down: usize,
    across: usize,
}

impl Grid {
    /// The cut whose slowest thread has the least to do, packing included. The result of the product does
    /// not depend on it.
    ///
    /// A quantised B costs more to pack, and is cut where its units end.
    fn choose<T: Float, K: Kernel<T>>(
        m: usize,
        n: usize,
        products: usize,
        threads: usize,
        quantised: bool,
    ) -> Self {
        /// What bringing an element of A into L1 costs in steps of `k` of one element of C.
        const TOUCH: usize = 2;

        /// Multiples of the coarsest cut that are tried each way.
        const FINER: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
        // The same for packing one of B.
        let (pack, whole) = if quantised { (24, (UNIT / K::NR).max(1)) } else { (8, 1) };
        let (all_m, all_n) = (m.div_ceil(K::MR), n.div_ceil(K::NR));
        let coarsest = all_n.div_ceil(K::NC);
        let np = all_n.div_ceil(coarsest).next_multiple_of(whole).min(all_n);
        let mut best = (usize::MAX, Self { mp: all_m, np, down: 1, across: all_n.div_ceil(np) });
        for down in FINER.into_iter().take_while(|&down| threads > 1 && down <= all_m) {
            for across in FINER.into_iter().map(|f| f * coarsest).take_while(|&across| across <= all_n) {
                let (mp, np) =
                    (all_m.div_ceil(down), all_n.div_ceil(across).next_multiple_of(whole).min(all_n));
                let grid = Self { mp, np, down: all_m.div_ceil(mp), across: all_n.div_ceil(np) };
                let (rows, cols) = (mp * K::MR, np * K::NR);
                let rounds = (products * grid.down * grid.across).div_ceil(threads);
                // In quarters of a task: a thread that the system holds up makes the others wait for one.
                let cost = (4 * rounds + 1) * (rows * cols + pack * cols + TOUCH * rows);
                if cost < best.0 {
                    best = (cost, grid);
                }
                if rounds > 16 {
                    break;
                }
            }
        }
        best.1
    }
}

pub(super) fn run<T: Float, O: Float, K: Kernel<T>>(g: &Gemm<T, O>) {
    let worth = g.flops() >= WORTH_A_FORK;
    let quantised = g.terms.iter().any(|t| !matches!(t.b, Right::Dense(_)));
    let threads = if worth { threads::threads() } else { 1 };
    let grid = Grid::choose::<T, K>(g.m, g.n, g.products, threads, quantised);
    let tasks = g.products * grid.down * grid.across;
    let task = |t: usize| {
        // Neighbours share columns of B: down first, then across, then the next product.
        let (i, rest) = (t % grid.down, t / grid.down);
        let (j, p) = (rest % grid.across, rest / grid.across);
        SCRATCH.with_borrow_mut(|scratch| {
            rectangle::<T, O, K>(
                g,
                p,
                (i * grid.mp * K::MR, grid.mp * K::MR),
                (j * grid.np * K::NR, grid.np * K::NR),
                scratch,
            );
        });
    };
    if worth {
        threads::parallel_for(tasks, task);
    } else {
        (0..tasks).for_each(task);
    }
}

/// Computes the rectangle of C that starts at `(m0, n0)` and is at most `rows × cols`.
fn rectangle<T: Float, O: Float, K: Kernel<T>>(
    g: &Gemm<T, O>,
    product: usize,
    (m0, rows): (usize, usize),
    (n0, cols): (usize, usize),
    scratch: &mut Scratch,
) {
    let (rows, cols) = (rows.min(g.m - m0), cols.min(g.n - n0));
    let (mp, np) = (rows.div_ceil(K::MR), cols.div_ceil(K::NR));
    let (a_at, b_at, c) = g.product(product);

    let most = g.terms.iter().map(|t| Blocks::of::<T, K>(t.a.cols).words::<T, K>()).max().unwrap_or(0);
    let rounds: usize = g.terms.iter().map(|t| Blocks::of::<T, K>(t.a.cols).count).sum();
    let a_words = scratch.a.get(K::MR * most);
    let b_words = scratch.b.get(np * K::NR * most);
    // Sums of register tiles that cannot be written to C as they are; one is enough when there is one round.
    let slots = if rounds == 1 { 1 } else { mp * np };
    let sums: &mut [f32] = bytemuck::cast_slice_mut(scratch.sums.get(slots * K::MR * K::NR));
    let bias: &mut [f32] = bytemuck::cast_slice_mut(scratch.bias.get(np * K::NR));
    if let Init::Bias(values) = g.init {
        for (bias, value) in bias.iter_mut().zip(&values[n0..n0 + cols]) {
            *bias = value.to_f32();
        }
    }

    let mut round = 0;
    for term in g.terms {
        let a = Lanes { data: from(term.a.data, a_at), lane: term.a.rs, step: term.a.cs };
        let blocks = Blocks::of::<T, K>(term.a.cols);
        for block in 0..blocks.count {
            let (start, k) = blocks.range(block, term.a.cols);
            let words = k.div_ceil(K::DEPTH);
            if k > 0 {
                match term.b {
                    Right::Dense(b) => {
                        let b = Lanes { data: from(b.data, b_at), lane: b.cs, step: b.rs };
                        pack::<T, K>(b, (n0, cols), (start, k), K::NR, b_words);
                    }
                    Right::PackedT(w) => {
                        expand_along_k::<T, K>(&w, (n0, cols), (start, k), b_words, &mut scratch.values);
                    }
                    Right::Packed(w) => {
                        expand_along_lanes::<T, K>(&w, (n0, cols), (start, k), b_words, &mut scratch.values);
                    }
                }
            }
            for ip in 0..mp {
                let i = ip * K::MR;
                let valid_rows = K::MR.min(rows - i);
                let in_place =
                    K::IN_PLACE && k > 0 && a.step == 1 && valid_rows == K::MR && k.is_multiple_of(K::DEPTH);
                let (a_panel, a_row, a_step) = if in_place {
                    (a.data[(m0 + i) * a.lane + start..].as_ptr().cast(), a.lane * size_of::<T>(), 4)
                } else {
                    if k > 0 {
                        pack::<T, K>(a, (m0 + i, valid_rows), (start, k), K::MR, a_words);
                    }
                    (a_words.as_ptr().cast::<u8>(), 4, 4 * K::MR)
                };
                for jp in 0..np {
                    let j = jp * K::NR;
                    let valid_cols = K::NR.min(cols - j);
                    let at = c + (m0 + i) * g.c_rs + n0 + j;
                    // SAFETY: `run` checked that C's elements are within its slice.
                    let c = unsafe { g.c.as_mut_ptr().add(at) };
                    let direct = O::DTYPE == DType::F32 && valid_rows == K::MR && valid_cols == K::NR;
                    let (out, out_rs) = if direct {
                        (c.cast::<f32>(), g.c_rs)
                    } else {
                        let slot = if rounds == 1 { 0 } else { ip * np + jp };
                        (sums[slot * K::MR * K::NR..][..K::MR * K::NR].as_mut_ptr(), K::NR)
                    };
                    let (init, init_rs) = match (round, g.init) {
                        (0, Init::Zero) => (ZEROS.as_ptr(), 0),
                        (0, Init::Bias(_)) => (bias[j..j + K::NR].as_ptr(), 0),
                        (0, Init::Add) if !direct => {
                            // SAFETY: the valid part of the tile is this task's to read; `out` is a slot.
                            unsafe { widen(c, g.c_rs, valid_rows, valid_cols, out, K::NR) };
                            (out.cast_const(), out_rs)
                        }
                        _ => (out.cast_const(), out_rs),
                    };
                    // SAFETY: A's panel is packed or has MR rows of `k` elements within its slice, which `run`
                    // checked; panel `jp` of B was packed with `words` steps; `init` and `out` are a whole tile: a
                    // slot, NR start values, or MR×NR elements of C that are this task's own.
                    unsafe {
                        K::tile(
                            words,
                            a_panel,
                            a_row,
                            a_step,
                            b_words[j * words..].as_ptr(),
                            init,
                            init_rs,
                            out,
                            out_rs,
                        );
                        if !direct && round + 1 == rounds {
                            K::store(out, valid_rows, valid_cols, c, g.c_rs);
                        }
                    }
                }
            }
            round += 1;
        }
    }
}

/// A term's blocks along `k`, as even as their granularity allows; `k` = 0 is one empty block.
struct Blocks {
    count: usize,
    length: usize,
}

impl Blocks {
    fn of<T: Float, K: Kernel<T>>(k: usize) -> Self {
        let count = k.div_ceil(K::KC * K::DEPTH).max(1);
        Self { count, length: k.div_ceil(count).next_multiple_of(K::DEPTH) }
    }

    fn words<T: Float, K: Kernel<T>>(&self) -> usize {
        self.length.div_ceil(K::DEPTH)
    }

    /// First step and number of steps of a block.
    fn range(&self, block: usize, k: usize) -> (usize, usize) {
        let start = (block * self.length).min(k);
        (start, self.length.min(k - start))
    }
}

/// Loads a part of C into a slot, to add to it.
///
/// # Safety
/// `c` holds `rows` rows of `cols` at stride `rs`; `slot` as many at stride `nr`.
unsafe fn widen<O: Float>(c: *const O, rs: usize, rows: usize, cols: usize, slot: *mut f32, nr: usize) {
    for i in 0..rows {
        for j in 0..cols {
            // SAFETY: by the caller's promise.
            unsafe { *slot.add(i * nr + j) = (*c.add(i * rs + j)).to_f32() };
        }
    }
}
