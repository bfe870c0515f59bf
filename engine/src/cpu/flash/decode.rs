//! Few queries over many keys: one step of generation against a KV cache.
//!
//! Bound by reading K and V. A task reads a fixed range of keys of one KV head once, for all query heads
//! of its group, straight from the cache; partial results are combined in order (flash-decoding, Dao et
//! al. 2023).

use super::decode_kernels::{Prefetch, Scores, Values, Weights};
use super::pack::{WriteRow, pack_rows, width};
use super::scratch::{Scratch, floats};
use super::simd::Simd;
use super::{Problem, View};
use crate::Float;
use crate::cpu::threads::{Scatter, parallel_for};

/// Keys that are scored before their values are read.
pub(super) const KEYS: usize = 64;
/// Keys of a task.
const RANGE: usize = 256;
/// Elements of K from which on a fork pays: below, two threads save less than they wait for each other.
const WORTH_A_FORK: usize = 1 << 14;
/// Ranges from which on combining them is worth a fork.
const PARALLEL_COMBINE: usize = 8;

pub(super) fn forward<T: Float, S: Simd>(isa: S, p: &Problem<'_, T>, out: &mut [T], lse: &mut [f32]) {
    let ranges = p.sk.div_ceil(RANGE).max(1);
    let rows = p.group * p.sq;
    // A row's partial result of one range: `wide` sums, then maximum and sum of its softmax.
    let wide = width(p.dim);
    let stride = wide + 2;
    let heads = p.batch * p.hkv;
    let mut partial = vec![0.0f32; heads * ranges * rows * stride];
    let parts = Scatter::new(&mut partial);
    let task = |task: usize| {
        let (head, range) = (task / ranges, task % ranges);
        // SAFETY: each task has its own piece.
        let part = unsafe { parts.slice(task * rows * stride, rows * stride) };
        key_range(isa, p, head / p.hkv, head % p.hkv, range * RANGE, part);
    };
    if heads * p.sk * p.dim >= WORTH_A_FORK {
        parallel_for(heads * ranges, task);
    } else {
        (0..heads * ranges).for_each(task);
    }
    let (out, lse) = (Scatter::new(out), Scatter::new(lse));
    let combine = |head: usize| {
        let (b, hk) = (head / p.hkv, head % p.hkv);
        for r in 0..rows {
            let (h, i) = (hk * p.group + r / p.sq, r % p.sq);
            // SAFETY: each row of each query head belongs to one KV head.
            let (out, lse) = unsafe {
                (
                    out.slice(((b * p.sq + i) * p.hq + h) * p.dim, p.dim),
                    lse.slice((b * p.hq + h) * p.sq + i, 1),
                )
            };
            let parts =
                (0..ranges).map(|range| &partial[((head * ranges + range) * rows + r) * stride..][..stride]);
            lse[0] = combine_row(isa, p.dim, parts, out);
        }
    };
    if ranges >= PARALLEL_COMBINE {
        parallel_for(heads, combine);
    } else {
        (0..heads).for_each(combine);
    }
}

/// Adds a row's partial results, each brought to the common maximum; returns the log-sum-exp.
fn combine_row<'a, T: Float, S: Simd>(
    isa: S,
    dim: usize,
    parts: impl Iterator<Item = &'a [f32]> + Clone,
    out: &mut [T],
) -> f32 {
    let max_and_sum = |part: &[f32]| (part[part.len() - 2], part[part.len() - 1]);
    let max = parts.clone().map(|part| max_and_sum(part).0).fold(f32::MIN, f32::max);
    let mut sum = 0.0;
    Scratch::with([width(dim)], |[total]| {
        let total = floats(total);
        total.fill(0.0);
        for part in parts {
            let (part_max, part_sum) = max_and_sum(part);
            let weight = (part_max - max).exp2();
            sum += part_sum * weight;
            for (total, x) in total.iter_mut().zip(&part[..dim]) {
                *total += x * weight;
            }
        }
        let factor = if sum == 0.0 { 0.0 } else { sum.recip() };
        isa.run(WriteRow { from: &total[..dim], factor, to: out });
    });
    if sum == 0.0 { f32::NEG_INFINITY } else { (max + sum.log2()) * std::f32::consts::LN_2 }
}

/// One task: up to [`RANGE`] of the taking-part keys from `first` on, for all rows of KV head `hk`.
fn key_range<T: Float, S: Simd>(
    isa: S,
    p: &Problem<'_, T>,
    b: usize,
    hk: usize,
    first: usize,
    part: &mut [f32],
) {
    let keys = &p.keys[b];
    let rows = p.group * p.sq;
    let (wide, narrow) = (width(p.dim), width(p.dim.div_ceil(S::GROUP)));
    let row_of = |r: usize| (hk * p.group + r / p.sq, r % p.sq);
    Scratch::with(
        [rows * narrow, rows * KEYS, rows * wide, rows, rows, rows, rows],
        |[q, s, o, max, sum, factors, visible]| {
            let (s, o, max, sum, factors) = (floats(s), floats(o), floats(max), floats(sum), floats(factors));
            pack_rows(isa, rows, |r| p.q.row(b, row_of(r).1, row_of(r).0), narrow, q);
            o.fill(0.0);
            max.fill(f32::MIN);
            sum.fill(0.0);
            for r in 0..rows {
                visible[r] = p.visible(b, row_of(r).1) as u32;
            }
            let last = (first + RANGE).min(visible[..rows].iter().copied().max().unwrap_or(0) as usize);
            // Where a block's rows start; a short block repeats its last.
            let offsets = |view: &View<'_, T>, j0: usize| -> [usize; KEYS] {
                std::array::from_fn(|j| view.offset(b, keys.at((j0 + j).min(last - 1)), hk))
            };
            let mut k_next = if first < last { offsets(&p.k, first) } else { [0; KEYS] };
            for j0 in (first..last).step_by(KEYS) {
                let count = KEYS.min(last - j0);
                let (k_at, v_at) = (k_next, offsets(&p.v, j0));
                // The values arrive while the keys are scored, and the next keys while the values are summed.
                isa.run(Prefetch { data: p.v.data, offsets: &v_at, dim: p.dim });
                isa.run(Scores {
                    q: &q[..rows * narrow],
                    q_row: narrow,
                    k: p.k.data,
                    offsets: &k_at,
                    count,
                    dim: p.dim,
                    factor: p.log2_scale(),
                    out: s,
                });
                for (r, s) in s.as_chunks_mut::<KEYS>().0.iter_mut().take(rows).enumerate() {
                    let seen = (visible[r] as usize).saturating_sub(j0).min(count);
                    s[seen..].fill(f32::NEG_INFINITY);
                    let weights = isa.run(Weights { row: s, max: max[r] });
                    factors[r] = (max[r] - weights.max).exp2();
                    max[r] = weights.max;
                    sum[r] = sum[r] * factors[r] + weights.sum;
                }
                if j0 + KEYS < last {
                    k_next = offsets(&p.k, j0 + KEYS);
                    isa.run(Prefetch { data: p.k.data, offsets: &k_next, dim: p.dim });
                }
                isa.run(Values {
                    p: &s[..rows * KEYS],
                    v: p.v.data,
                    offsets: &v_at,
                    count,
                    dim: p.dim,
                    factors: &factors[..rows],
                    out: o,
                    out_row: wide,
                });
            }
            for (r, part) in part.chunks_exact_mut(wide + 2).enumerate() {
                part[..wide].copy_from_slice(&o[r * wide..][..wide]);
                part[wide] = max[r];
                part[wide + 1] = sum[r];
            }
        },
    );
}
