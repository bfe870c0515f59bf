use engine::DType;

use super::Array;
use super::tolerance::{Class, Expect};

/// `softmax(q·kᵀ·scale)·v` and the log-sum-exp of the scaled scores. `q [B, Sq, Hq, D]`,
/// `k, v [B, Sk, Hkv, D]`, query head `h` reads key head `h / (Hq/Hkv)`; `mask [B, Sk]` of 0 hides a key.
/// Causal: query `i` sees keys up to `i + Sk − Sq`. A query that sees no key gives zeros, and −∞.
pub fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    mask: Option<&Array>,
    scale: f64,
    causal: bool,
) -> (Array, Array) {
    let [b, sq, hq, d] = q.dims[..] else { panic!("four dimensions") };
    let (sk, group) = (k.dims[1], hq / k.dims[2].max(1));
    let mut out = Array::from_fn(&q.dims, |_| 0.0);
    let lse = Array::from_fn(&[b, hq, sq], |at| {
        let (n, h, i) = (at[0], at[1], at[2]);
        let seen = |j: &usize| mask.is_none_or(|m| m.at(&[n, *j]) != 0.0) && (!causal || j + sq <= i + sk);
        let keys: Vec<usize> = (0..sk).filter(seen).collect();
        let score =
            |j: usize| scale * (0..d).map(|e| q.at(&[n, i, h, e]) * k.at(&[n, j, h / group, e])).sum::<f64>();
        let scores: Vec<f64> = keys.iter().map(|&j| score(j)).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if keys.is_empty() {
            return f64::NEG_INFINITY;
        }
        let lse = max + scores.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
        for e in 0..d {
            let row = keys.iter().zip(&scores).map(|(&j, s)| (s - lse).exp() * v.at(&[n, j, h / group, e]));
            out.data[((n * sq + i) * hq + h) * d + e] = row.sum();
        }
        lse
    });
    (out, lse)
}

/// What [`attention`] must give: the result as `dtype`, and the log-sum-exp as f32.
pub fn expect_attention(
    [q, k, v]: [&Array; 3],
    mask: Option<&Array>,
    scale: f64,
    causal: bool,
    dtype: DType,
) -> [Expect; 2] {
    let (out, lse) = attention(q, k, v, mask, scale, causal);
    let weights = attention(q, k, &v.map(f64::abs), mask, scale, causal).0;
    let width = q.row_len();
    // By Cauchy and Schwarz no sum of |q·k| is larger.
    let longest = |x: &Array| {
        x.data.chunks(width.max(1)).map(|row| row.iter().map(|x| x * x).sum::<f64>()).fold(0.0, f64::max)
    };
    let score = scale.abs() * (longest(q) * longest(k)).sqrt();
    let class = Class::Attention { keys: k.dims[1], width, score };
    let size = lse.map(|x| if x.is_finite() { x.abs() + 1.0 } else { 1.0 });
    [Expect::new(out, dtype, class).scale(weights), Expect::new(lse, DType::F32, class).scale(size)]
}
