//! The backward pass: five products per pair of blocks, from recomputed probabilities.
//!
//! A task owns a range of keys of one KV head: it alone adds to their dK and dV, over all queries of the
//! head's group in order. Where one range covers all keys it also owns dQ; otherwise each range leaves a
//! partial dQ in f32 and those are added in order.

use super::forward::{KEYS, load_queries, mask, scores, visible_lanes};
use super::kernels::{BLOCK, Gradient, Lanes, Product, Start};
use super::pack::{Inner, Transpose, WriteRow, pack_pairs, pack_rows, width};
use super::scratch::{Scratch, floats};
use super::simd::Simd;
use super::{Backward, View};
use crate::Float;
use crate::cpu::threads::{Scatter, parallel_for};

/// Tasks wanted before heads are cut into ranges of keys.
const TASKS: usize = 16;
/// Blocks of keys in a range, at least: each range packs all queries anew.
const RANGE_BLOCKS: usize = 2;

/// Elements of a task that adds partial dQ.
const CHUNK: usize = 1 << 14;

/// The inputs, and where the results go.
struct Pass<'a, T> {
    p: &'a super::Problem<'a, T>,
    out: View<'a, T>,
    dout: View<'a, T>,
    lse: &'a [f32],
    dk: Scatter<T>,
    dv: Scatter<T>,
}

/// A task's operands and sums for its range of keys.
struct Range<'a> {
    /// K and V in the layout *rows*, K in the layout *pairs*.
    k: &'a [u32],
    v: &'a [u32],
    k_pairs: &'a [u32],
    /// Sums, `[keys][width of dim]`.
    dk: &'a mut [f32],
    dv: &'a mut [f32],
}

/// Working memory of one block of queries.
struct Room<'a> {
    /// Rows before and after transposing, `[BLOCK][width of dim]`.
    rows: &'a mut [u32],
    /// Q and dO transposed, `[words of dim][BLOCK]`.
    q: &'a mut [u32],
    dout: &'a mut [u32],
    /// Q and dO in the layout *pairs*.
    q_pairs: &'a mut [u32],
    dout_pairs: &'a mut [u32],
    /// Scores, then P; dP, then dS; `[KEYS][BLOCK]`.
    s: &'a mut [u32],
    d: &'a mut [u32],
    /// dS with pairs along the keys.
    d_pairs: &'a mut [u32],
    /// dQ transposed, `[dim][BLOCK]`.
    dq: &'a mut [u32],
}

pub(super) fn backward<T: Float, S: Simd>(isa: S, job: Backward<'_, T>) {
    let Backward { problem: p, out, lse, dout, dq, dk, dv } = job;
    let blocks = p.sk.div_ceil(KEYS);
    let wanted = TASKS.div_ceil(p.batch * p.hkv);
    let range = blocks.div_ceil(wanted).max(RANGE_BLOCKS) * KEYS;
    let ranges = p.sk.div_ceil(range);
    if p.keys.iter().any(|keys| keys.list.is_some()) {
        // Only keys that take part are written below.
        dk.fill(T::from_f32(0.0));
        dv.fill(T::from_f32(0.0));
    }
    let pass = Pass {
        p,
        out: View::contiguous(out, p.q.shape),
        dout,
        lse,
        dk: Scatter::new(dk),
        dv: Scatter::new(dv),
    };
    let tasks = p.batch * p.hkv * ranges;
    let place = |task: usize| (task / ranges / p.hkv, task / ranges % p.hkv, task % ranges);
    if ranges == 1 {
        let dq = Scatter::new(dq);
        parallel_for(tasks, |task| {
            let (b, hk, _) = place(task);
            key_range(isa, &pass, b, hk, 0, range, dq, 0);
        });
        return;
    }
    let size = dq.len();
    let mut partial = vec![0.0f32; ranges * size];
    let parts = Scatter::new(&mut partial);
    parallel_for(tasks, |task| {
        let (b, hk, r) = place(task);
        key_range(isa, &pass, b, hk, r * range, range, parts, r * size);
    });
    let dq = Scatter::new(dq);
    parallel_for(size.div_ceil(CHUNK), |task| {
        let at = task * CHUNK;
        let len = CHUNK.min(size - at);
        // SAFETY: chunks are disjoint.
        let to = unsafe { dq.slice(at, len) };
        isa.run(AddParts { parts: &partial[at..], stride: size, count: ranges, to });
    });
}

/// `to[i] = Σ parts[r * stride + i]` over r in order.
struct AddParts<'a, T> {
    parts: &'a [f32],
    stride: usize,
    count: usize,
    to: &'a mut [T],
}

impl<T: Float> super::simd::Kernel for AddParts<'_, T> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        const STEP: usize = 64;
        for (c, to) in self.to.chunks_mut(STEP).enumerate() {
            let mut sums = [0.0f32; STEP];
            for r in 0..self.count {
                for (sum, x) in sums.iter_mut().zip(&self.parts[r * self.stride + c * STEP..][..to.len()]) {
                    *sum += x;
                }
            }
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = T::from_f32(sum);
            }
        }
    }
}

/// One task: the keys `first .. first + range` of KV head `hk`. dQ goes to `dq` from `dq_at` on, in the
/// layout of the queries.
fn key_range<T: Float, S: Simd, O: Float>(
    isa: S,
    pass: &Pass<'_, T>,
    b: usize,
    hk: usize,
    first: usize,
    range: usize,
    dq: Scatter<O>,
    dq_at: usize,
) {
    let p = pass.p;
    let keys = &p.keys[b];
    let count = range.min(keys.count.saturating_sub(first));
    let (wide, narrow) = (width(p.dim), width(p.dim.div_ceil(S::GROUP)));
    let sizes = [
        count * narrow,
        count * narrow,
        count.div_ceil(S::GROUP) * wide,
        count * wide,
        count * wide,
        BLOCK * wide,
        narrow * BLOCK,
        narrow * BLOCK,
        BLOCK / S::GROUP * wide,
        BLOCK / S::GROUP * wide,
        KEYS * BLOCK,
        KEYS * BLOCK,
        KEYS / S::GROUP * BLOCK,
        wide * BLOCK,
    ];
    Scratch::with(
        sizes,
        |[k, v, k_pairs, dk, dv, rows, q, dout, q_pairs, dout_pairs, s, d, d_pairs, dq_block]| {
            let key = |j: usize| keys.at(first + j);
            pack_rows(isa, count, |j| p.k.row(b, key(j), hk), narrow, k);
            pack_rows(isa, count, |j| p.v.row(b, key(j), hk), narrow, v);
            pack_pairs(isa, count, |j| p.k.row(b, key(j), hk), wide, k_pairs);
            dk.fill(0);
            dv.fill(0);
            let mut range = Range { k, v, k_pairs, dk: floats(dk), dv: floats(dv) };
            let mut room = Room { rows, q, dout, q_pairs, dout_pairs, s, d, d_pairs, dq: dq_block };
            for h in hk * p.group..(hk + 1) * p.group {
                for i0 in (0..p.sq).step_by(BLOCK) {
                    let queries = BLOCK.min(p.sq - i0);
                    query_block(isa, pass, b, h, i0, queries, first, count, &mut range, &mut room);
                    for i in 0..queries {
                        let at = dq_at + ((b * p.sq + i0 + i) * p.hq + h) * p.dim;
                        // SAFETY: rows of one head's queries, in the part of the sums (or in the one
                        // result) that this range of keys owns.
                        let to = unsafe { dq.slice(at, p.dim) };
                        let from = &floats(room.rows)[i * wide..][..p.dim];
                        isa.run(WriteRow { from, factor: p.params.scale, to });
                    }
                }
            }
            for j in 0..count {
                let at = ((b * p.sk + key(j)) * p.hkv + hk) * p.dim;
                // SAFETY: each key of each KV head belongs to one range.
                let (dk, dv) = unsafe { (pass.dk.slice(at, p.dim), pass.dv.slice(at, p.dim)) };
                isa.run(WriteRow { from: &range.dk[j * wide..][..p.dim], factor: p.params.scale, to: dk });
                isa.run(WriteRow { from: &range.dv[j * wide..][..p.dim], factor: 1.0, to: dv });
            }
        },
    );
}

/// One block of queries against the range's keys: adds to dK and dV and leaves the block's dQ, not yet
/// scaled, in `room.rows`.
fn query_block<T: Float, S: Simd>(
    isa: S,
    pass: &Pass<'_, T>,
    b: usize,
    h: usize,
    i0: usize,
    queries: usize,
    first: usize,
    count: usize,
    range: &mut Range<'_>,
    room: &mut Room<'_>,
) {
    let p = pass.p;
    let (wide, narrow) = (width(p.dim), width(p.dim.div_ceil(S::GROUP)));
    let n = queries.next_multiple_of(S::LANES);
    // From here on keys count from the start of the range.
    let visible = visible_lanes(p, b, i0, queries).map(|seen| seen.saturating_sub(first).min(count));
    let most = visible[BLOCK - 1];
    if most == 0 {
        room.rows.fill(0);
        return;
    }
    let q_row = |i| p.q.row(b, i0 + i, h);
    let dout_row = |i| pass.dout.row(b, i0 + i, h);
    load_queries(isa, queries, q_row, narrow, room.rows, room.q);
    load_queries(isa, queries, dout_row, narrow, room.rows, room.dout);
    pack_pairs(isa, queries, q_row, wide, room.q_pairs);
    pack_pairs(isa, queries, dout_row, wide, room.dout_pairs);
    let mut log2_sum: Lanes = [f32::INFINITY; BLOCK];
    let mut delta: Lanes = [0.0; BLOCK];
    for i in 0..queries {
        let lse = pass.lse[(b * p.hq + h) * p.sq + i0 + i];
        if lse != f32::NEG_INFINITY {
            log2_sum[i] = lse * std::f32::consts::LOG2_E;
        }
        delta[i] = isa.run(Inner { a: dout_row(i), b: pass.out.row(b, i0 + i, h) });
    }

    for j0 in (0..most).step_by(KEYS) {
        let rows = KEYS.min(most - j0);
        let padded = rows.next_multiple_of(S::GROUP);
        scores(isa, p, rows, &range.k[j0 * narrow..], room.q, n, floats(room.s));
        mask(isa, floats(room.s), rows, j0, &visible);
        // dPᵀ = V·dOᵀ
        isa.run(Product {
            m: rows,
            n,
            depth: p.dim.div_ceil(S::GROUP),
            a: &range.v[j0 * narrow..],
            a_row: narrow,
            a_word: 1,
            b: room.dout,
            b_row: BLOCK,
            c: floats(room.d),
            c_row: BLOCK,
            start: Start::Zero { factor: 1.0 },
        });
        room.d[rows * BLOCK..padded * BLOCK].fill(0);
        isa.run(Gradient {
            rows: padded,
            n,
            scores: floats(room.s),
            slope: floats(room.d),
            pairs: room.d_pairs,
            log2_sum: &log2_sum,
            delta: &delta,
        });
        // dV += P·dO and dK += dS·Q
        let sums =
            [(&*room.s, &*room.dout_pairs, &mut *range.dv), (&*room.d, &*room.q_pairs, &mut *range.dk)];
        for (a, b, c) in sums {
            isa.run(Product {
                m: rows,
                n: p.dim.next_multiple_of(S::LANES),
                depth: queries.div_ceil(S::GROUP),
                a,
                a_row: BLOCK,
                a_word: 1,
                b,
                b_row: wide,
                c: &mut c[j0 * wide..],
                c_row: wide,
                start: Start::Add,
            });
        }
        // dQᵀ += Kᵀ·dS
        isa.run(Product {
            m: p.dim,
            n,
            depth: padded / S::GROUP,
            a: &range.k_pairs[j0 / S::GROUP * wide..],
            a_row: 1,
            a_word: wide,
            b: if S::GROUP == 1 { room.d } else { room.d_pairs },
            b_row: BLOCK,
            c: floats(room.dq),
            c_row: BLOCK,
            start: if j0 == 0 { Start::Zero { factor: 1.0 } } else { Start::Add },
        });
    }
    isa.run(Transpose { from: room.dq, from_row: BLOCK, to: room.rows, to_row: wide, rows: p.dim, cols: n });
}
