//! The forward pass over blocks of queries.

use super::Problem;
use std::ops::Range;

use super::kernels::{BLOCK, Mask, Product, Softmax, Start, State};
use super::pack::{Transpose, WriteRow, pack_pairs, pack_rows, width};
use super::scratch::{Scratch, floats};
use super::simd::Simd;
use crate::Float;
use crate::cpu::threads::{Scatter, parallel_for};

/// Keys in a block.
pub(super) const KEYS: usize = 64;

/// Blocks of queries that share one packing of K and V, at most: packing then costs about 1 % of the
/// products.
const BLOCKS_PER_TASK: usize = 8;
/// Lanes that are treated together where a block of keys lies on the diagonal of a causal mask.
const PART: usize = 32;
/// Tasks wanted before they grow to that.
const TASKS: usize = 16;

/// A query block: the lanes' queries of one head.
struct Block {
    b: usize,
    h: usize,
    /// First query, and how many.
    i0: usize,
    queries: usize,
}

/// Packed operands of one KV head.
struct Packed<'a> {
    /// K in the layout *rows*, V in the layout *pairs*; see `super::pack`.
    k: &'a [u32],
    v: &'a [u32],
}

/// Working memory of one block of queries.
struct Room<'a> {
    /// Queries as rows, then the output as rows.
    rows: &'a mut [u32],
    /// Queries transposed, `[words of dim][BLOCK]`.
    q: &'a mut [u32],
    /// Scores, then probabilities, `[KEYS][BLOCK]`.
    s: &'a mut [u32],
    /// Output transposed, `[dim][BLOCK]`.
    o: &'a mut [u32],
}

pub(super) fn forward<T: Float, S: Simd>(isa: S, p: &Problem<'_, T>, out: &mut [T], lse: &mut [f32]) {
    let blocks = p.sq.div_ceil(BLOCK);
    // All blocks of the query heads of one KV head, cut into tasks that depend on shapes alone.
    let of_head = p.group * blocks;
    let per_task = (p.batch * p.hkv * of_head).div_ceil(TASKS).clamp(1, BLOCKS_PER_TASK.min(of_head));
    let tasks = of_head.div_ceil(per_task);
    let (out, lse) = (Scatter::new(out), Scatter::new(lse));
    let (wide, narrow) = (width(p.dim), width(p.dim.div_ceil(S::GROUP)));
    parallel_for(p.batch * p.hkv * tasks, |task| {
        let (b, hk) = (task / tasks / p.hkv, task / tasks % p.hkv);
        let first = task % tasks * per_task;
        let blocks = (first..of_head.min(first + per_task)).map(|t| {
            // Last queries first: under a causal mask they cost most.
            let i0 = (blocks - 1 - t % blocks) * BLOCK;
            Block { b, h: hk * p.group + t / blocks, i0, queries: BLOCK.min(p.sq - i0) }
        });
        let seen = blocks.clone().map(|t| p.visible(b, t.i0 + t.queries - 1)).max().unwrap_or(0);
        let sizes = [
            seen * narrow,
            seen.div_ceil(S::GROUP) * wide,
            BLOCK * wide,
            narrow * BLOCK,
            KEYS * BLOCK,
            wide * BLOCK,
        ];
        Scratch::with(sizes, |[k, v, rows, q, s, o]| {
            let keys = &p.keys[b];
            pack_rows(isa, seen, |j| p.k.row(b, keys.at(j), hk), narrow, k);
            pack_pairs(isa, seen, |j| p.v.row(b, keys.at(j), hk), wide, v);
            let mut room = Room { rows, q, s, o };
            for block in blocks {
                attend(isa, p, &block, &Packed { k, v }, &mut room, out, lse);
            }
        });
    });
}

fn attend<T: Float, S: Simd>(
    isa: S,
    p: &Problem<'_, T>,
    block: &Block,
    kv: &Packed<'_>,
    room: &mut Room<'_>,
    out: Scatter<T>,
    lse: Scatter<f32>,
) {
    let &Block { b, h, i0, queries } = block;
    let (wide, narrow) = (width(p.dim), width(p.dim.div_ceil(S::GROUP)));
    let n = queries.next_multiple_of(S::LANES);
    load_queries(isa, queries, |i| p.q.row(b, i0 + i, h), narrow, room.rows, room.q);

    let visible = visible_lanes(p, b, i0, queries);
    let most = visible[BLOCK - 1];
    // A lane that sees nothing may be passed over below.
    let all_start = visible[0] > 0;
    if !all_start {
        room.o.fill(0);
    }
    let mut state = State::new();
    for j0 in (0..most).step_by(KEYS) {
        let first = j0 == 0 && all_start;
        if visible[0] >= most.min(j0 + KEYS) {
            step(isa, p, kv, room, &mut state, &visible, j0, 0..n, first);
        } else {
            // On the diagonal the first queries see fewer keys than the last.
            for x in (0..n).step_by(PART) {
                step(isa, p, kv, room, &mut state, &visible, j0, x..n.min(x + PART), first);
            }
        }
    }
    isa.run(Transpose { from: room.o, from_row: BLOCK, to: room.rows, to_row: wide, rows: p.dim, cols: n });
    for i in 0..queries {
        let sum = state.sum[i];
        let factor = if sum == 0.0 { 0.0 } else { sum.recip() };
        let at = ((b * p.sq + i0 + i) * p.hq + h) * p.dim;
        // SAFETY: each query row of each head belongs to one block, and each block to one task.
        let to = unsafe { out.slice(at, p.dim) };
        isa.run(WriteRow { from: &floats(room.rows)[i * wide..][..p.dim], factor, to });
    }
    // SAFETY: as above.
    let lse = unsafe { lse.slice((b * p.hq + h) * p.sq + i0, queries) };
    for (i, lse) in lse.iter_mut().enumerate() {
        *lse = state.log2_sum(i) * std::f32::consts::LN_2;
    }
}

/// One block of keys, from `j0` on, for some lanes of the block of queries. Their output starts from
/// zero if they are the `first`, else from what earlier keys gave, rescaled.
fn step<T: Float, S: Simd>(
    isa: S,
    p: &Problem<'_, T>,
    kv: &Packed<'_>,
    room: &mut Room<'_>,
    state: &mut State,
    visible: &[usize; BLOCK],
    j0: usize,
    lanes: Range<usize>,
    first: bool,
) {
    let rows = KEYS.min(visible[lanes.end - 1].saturating_sub(j0));
    if rows == 0 {
        return;
    }
    let (x, n) = (lanes.start, lanes.len());
    let (wide, narrow) = (width(p.dim), width(p.dim.div_ceil(S::GROUP)));
    let padded = rows.next_multiple_of(S::GROUP);
    scores(isa, p, rows, &kv.k[j0 * narrow..], &room.q[x..], n, &mut floats(room.s)[x..]);
    mask(isa, floats(room.s), rows, j0, visible);
    isa.run(Softmax { rows: padded, lanes, scores: floats(room.s), state });
    isa.run(Product {
        m: p.dim,
        n,
        depth: padded / S::GROUP,
        a: &kv.v[j0 / S::GROUP * wide..],
        a_row: 1,
        a_word: wide,
        b: &room.s[x..],
        b_row: BLOCK,
        c: &mut floats(room.o)[x..],
        c_row: BLOCK,
        start: if first { Start::Zero { factor: 1.0 } } else { Start::Rescale(&state.rescale[x..]) },
    });
}

/// Packs a block's rows as an operand with the queries across: `to` is `[words of dim][BLOCK]`, with
/// zeros beyond the last query. `rows` is left with the rows as words.
pub(super) fn load_queries<'a, T: Float, S: Simd>(
    isa: S,
    queries: usize,
    row: impl Fn(usize) -> &'a [T],
    narrow: usize,
    rows: &mut [u32],
    to: &mut [u32],
) {
    let n = queries.next_multiple_of(S::LANES);
    pack_rows(isa, queries, row, narrow, rows);
    rows[queries * narrow..n * narrow].fill(0);
    isa.run(Transpose { from: rows, from_row: narrow, to, to_row: BLOCK, rows: n, cols: narrow });
}

/// Scores of `rows` keys against a block of queries, in units of log 2.
pub(super) fn scores<T: Float, S: Simd>(
    isa: S,
    p: &Problem<'_, T>,
    rows: usize,
    k: &[u32],
    q: &[u32],
    n: usize,
    s: &mut [f32],
) {
    isa.run(Product {
        m: rows,
        n,
        depth: p.dim.div_ceil(S::GROUP),
        a: k,
        a_row: width(p.dim.div_ceil(S::GROUP)),
        a_word: 1,
        b: q,
        b_row: BLOCK,
        c: s,
        c_row: BLOCK,
        start: Start::Zero { factor: p.log2_scale() },
    });
}

/// How many keys each lane's query sees; lanes beyond the last query repeat it.
pub(super) fn visible_lanes<T: Float>(
    p: &Problem<'_, T>,
    b: usize,
    i0: usize,
    queries: usize,
) -> [usize; BLOCK] {
    if p.params.causal {
        std::array::from_fn(|i| p.visible(b, i0 + i.min(queries - 1)))
    } else {
        [p.keys[b].count; BLOCK]
    }
}

/// Overwrites with −∞ what is not visible in a block of scores that starts at key `j0`, and fills the row
/// that completes a word. `visible` does not decrease along the lanes.
pub(super) fn mask<S: Simd>(isa: S, s: &mut [f32], rows: usize, j0: usize, visible: &[usize; BLOCK]) {
    s[rows * BLOCK..rows.next_multiple_of(S::GROUP) * BLOCK].fill(f32::NEG_INFINITY);
    if j0 + rows > visible[0] {
        isa.run(Mask { rows, scores: s, visible: visible.map(|count| count.saturating_sub(j0) as u32) });
    }
}
