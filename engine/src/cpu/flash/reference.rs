//! Attention as it is defined: all scores of a query, their softmax, the weighted sum of the values. One thread. The
//! bottom rung of `docs/kernels/attention.md`.

use super::Problem;
use crate::Float;

pub(super) fn forward<T: Float>(p: &Problem<'_, T>, out: &mut [T], lse: &mut [f32]) {
    for b in 0..p.batch {
        for h in 0..p.hq {
            for i in 0..p.sq {
                let out = &mut out[((b * p.sq + i) * p.hq + h) * p.dim..][..p.dim];
                lse[(b * p.hq + h) * p.sq + i] = query(p, b, h, i, out);
            }
        }
    }
}

/// One query of one head; returns its log-sum-exp.
fn query<T: Float>(p: &Problem<'_, T>, b: usize, h: usize, i: usize, out: &mut [T]) -> f32 {
    let kv = h / p.group;
    let keys: Vec<usize> = (0..p.visible(b, i)).map(|j| p.keys[b].at(j)).collect();
    let q = p.q.row(b, i, h);
    let dot = |k: &[T]| q.iter().zip(k).map(|(q, k)| q.to_f32() * k.to_f32()).sum::<f32>();
    let scores: Vec<f32> = keys.iter().map(|&j| p.params.scale * dot(p.k.row(b, j, kv))).collect();
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if largest == f32::NEG_INFINITY {
        out.fill(T::from_f32(0.0));
        return largest;
    }
    let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
    let total: f32 = weights.iter().sum();
    let mut sums = vec![0.0; p.dim];
    for (&j, weight) in keys.iter().zip(&weights) {
        for (sum, v) in sums.iter_mut().zip(p.v.row(b, j, kv)) {
            *sum += weight * v.to_f32();
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = T::from_f32(sum / total);
    }
    largest + total.ln()
}
