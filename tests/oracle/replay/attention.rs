//! Attention and its gradient.

use engine::ops::{Attention, AttentionGrad};

use super::{Case, Outcome, all, root_sum_squares, spread, whole};
use crate::tolerance::{Class, Expect};
use crate::{self as oracle, Array};

/// Queries, or keys, of a sample.
const PLACES: usize = 10;
/// Heads of a sample.
const HEADS: usize = 3;

pub(super) fn check(case: &Case<'_>) -> Option<Outcome> {
    if let Some(op) = case.op::<Attention>() {
        return Some(forward(case, op));
    }
    case.op::<AttentionGrad>().map(|op| backward(case, op))
}

/// Sizes, and who sees whom.
struct Shape<'a> {
    sq: usize,
    sk: usize,
    hq: usize,
    hkv: usize,
    d: usize,
    causal: bool,
    mask: Option<&'a super::Values>,
}

impl<'a> Shape<'a> {
    fn new(case: &'a Case<'_>, causal: bool, mask: usize) -> Self {
        let (q, k) = (&case.before[0].dims, &case.before[1].dims);
        let mask = case.before.get(mask);
        Self { sq: q[1], sk: k[1], hq: q[2], hkv: k[2], d: q[3], causal, mask }
    }

    /// Whether query `i` of sample `n` sees key `j`.
    fn sees(&self, n: usize, i: usize, j: usize) -> bool {
        (!self.causal || j + self.sq <= i + self.sk) && self.mask.is_none_or(|m| m.at(&[n, j]) != 0.0)
    }

    fn key_head(&self, head: usize) -> usize {
        head * self.hkv / self.hq
    }
}

fn forward(case: &Case<'_>, op: &Attention) -> Outcome {
    let s = Shape::new(case, op.causal, 3);
    let mut outcomes = Vec::new();
    for n in spread(case.before[0].dims[0], 2) {
        for head in spread(s.hq, HEADS) {
            let kv = vec![s.key_head(head)];
            for i in spread(s.sq, PLACES) {
                let keys: Vec<usize> = (0..s.sk).filter(|&j| s.sees(n, i, j)).collect();
                let picks = [vec![n], vec![i], vec![head], whole(s.d)];
                let q = case.before[0].block(&picks);
                let of_keys =
                    |t: usize| case.before[t].block(&[vec![n], keys.clone(), kv.clone(), whole(s.d)]);
                let (k, v) = (of_keys(1), of_keys(2));
                // One query with the keys that it sees: nothing is left to mask.
                let [out, lse] = oracle::expect_attention(
                    [&q, &k, &v],
                    None,
                    f64::from(op.scale),
                    false,
                    case.after[0].dtype,
                );
                outcomes.push(case.block(0, &picks, &out));
                outcomes.push(case.block(1, &[vec![n], vec![head], vec![i]], &lse));
            }
        }
    }
    all(outcomes)
}

/// `P = exp(scale·q·k − lse)` and `dS = P·(g·v − Σ g·out)` by the given `lse` and `out`.
fn backward(case: &Case<'_>, op: &AttentionGrad) -> Outcome {
    let s = Shape::new(case, op.causal, 6);
    let scale = f64::from(op.scale);
    let [q, k, v, out, lse, g] = [0, 1, 2, 3, 4, 5].map(|i| &case.before[i]);
    let row = |t: &super::Values, n: usize, i: usize, h: usize| -> Vec<f64> {
        (0..s.d).map(|e| t.at(&[n, i, h, e])).collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    // P and dS of one pair, from its rows.
    let pair = |n: usize, i: usize, head: usize, [q, k, v, g, out]: [&[f64]; 5]| {
        let p = (scale * dot(q, k) - lse.at(&[n, head, i])).exp();
        (p, p * (dot(g, v) - dot(g, out)))
    };
    let group = s.hq / s.hkv.max(1);
    let mut outcomes = Vec::new();
    let mut gradient = |output: usize, picks: [usize; 3], n_terms: usize, terms: &[Vec<f64>]| {
        let [n, place, head] = picks;
        let column = |e: usize| terms.iter().map(move |t| t[e]);
        let want = Array::new(&[1, 1, 1, s.d], (0..s.d).map(|e| column(e).sum()).collect());
        // Rounded terms, and a saved output whose rounding all terms share.
        let around = (0..s.d).map(|e| root_sum_squares(column(e)) + column(e).sum::<f64>().abs());
        let around: Vec<f64> = around.collect();
        let largest = around.iter().copied().fold(0.0, f64::max);
        let expect = Expect::new(want, case.after[output].dtype, Class::Gradient(n_terms))
            .scale(Array::new(&[1, 1, 1, s.d], vec![largest; s.d]));
        outcomes.push(case.block(output, &[vec![n], vec![place], vec![head], whole(s.d)], &expect));
    };
    for n in spread(q.dims[0], 2) {
        for head in spread(s.hq, HEADS) {
            let kv = s.key_head(head);
            for i in spread(s.sq, PLACES) {
                let (qi, gi, oi) = (row(q, n, i, head), row(g, n, i, head), row(out, n, i, head));
                let terms: Vec<Vec<f64>> = (0..s.sk)
                    .filter(|&j| s.sees(n, i, j))
                    .map(|j| {
                        let (kj, vj) = (row(k, n, j, kv), row(v, n, j, kv));
                        let (_, ds) = pair(n, i, head, [&qi, &kj, &vj, &gi, &oi]);
                        kj.iter().map(|k| scale * ds * k).collect()
                    })
                    .collect();
                gradient(0, [n, i, head], s.sk, &terms);
            }
        }
        for kv in spread(s.hkv, HEADS.min(2)) {
            for j in spread(s.sk, PLACES) {
                let (kj, vj) = (row(k, n, j, kv), row(v, n, j, kv));
                let (mut dk, mut dv) = (Vec::new(), Vec::new());
                for head in kv * group..(kv + 1) * group {
                    for i in (0..s.sq).filter(|&i| s.sees(n, i, j)) {
                        let (qi, gi, oi) = (row(q, n, i, head), row(g, n, i, head), row(out, n, i, head));
                        let (p, ds) = pair(n, i, head, [&qi, &kj, &vj, &gi, &oi]);
                        dk.push(qi.iter().map(|q| scale * ds * q).collect::<Vec<f64>>());
                        dv.push(gi.iter().map(|g| p * g).collect::<Vec<f64>>());
                    }
                }
                gradient(1, [n, j, kv], s.sq * group, &dk);
                gradient(2, [n, j, kv], s.sq * group, &dv);
            }
        }
    }
    all(outcomes)
}
