//! Plain softmax attention in f64, with the score matrix written out, and its analytic gradient.

/// A problem in f64, all tensors contiguous `[B, S, H, D]`.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    pub b: usize,
    pub sq: usize,
    pub sk: usize,
    pub hq: usize,
    pub hkv: usize,
    pub dim: usize,
    pub scale: f64,
    pub causal: bool,
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
    /// `[B, Sk]`
    pub mask: Option<Vec<u8>>,
}

/// Gradients of Σ out · dout, and for each tensor the greatest root of the sum of squares of the terms
/// that make up an element: independent roundings of the terms add up to an error in proportion to it,
/// also where the terms cancel.
pub(super) struct Grads {
    pub dq: Vec<f64>,
    pub dk: Vec<f64>,
    pub dv: Vec<f64>,
    pub spread: [f64; 3],
}

impl Reference {
    fn q_at(&self, b: usize, i: usize, h: usize) -> usize {
        ((b * self.sq + i) * self.hq + h) * self.dim
    }

    fn k_at(&self, b: usize, j: usize, h: usize) -> usize {
        ((b * self.sk + j) * self.hkv + h / (self.hq / self.hkv)) * self.dim
    }

    fn sees(&self, b: usize, i: usize, j: usize) -> bool {
        (!self.causal || j + self.sq <= i + self.sk)
            && self.mask.as_ref().is_none_or(|mask| mask[b * self.sk + j] != 0)
    }

    /// The probabilities of one row, and its log-sum-exp.
    fn row(&self, b: usize, i: usize, h: usize) -> (Vec<f64>, f64) {
        let q = &self.q[self.q_at(b, i, h)..][..self.dim];
        let scores: Vec<f64> = (0..self.sk)
            .map(|j| {
                let k = &self.k[self.k_at(b, j, h)..][..self.dim];
                let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                if self.sees(b, i, j) { dot * self.scale } else { f64::NEG_INFINITY }
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            return (vec![0.0; self.sk], max);
        }
        let sum: f64 = scores.iter().map(|s| (s - max).exp()).sum();
        (scores.iter().map(|s| (s - max).exp() / sum).collect(), max + sum.ln())
    }

    /// Output `[B, Sq, Hq, D]` and log-sum-exp `[B, Hq, Sq]`.
    pub(super) fn forward(&self) -> (Vec<f64>, Vec<f64>) {
        let mut out = vec![0.0; self.q.len()];
        let mut lse = vec![0.0; self.b * self.hq * self.sq];
        self.each_row(|b, i, h| {
            let (p, row_lse) = self.row(b, i, h);
            lse[(b * self.hq + h) * self.sq + i] = row_lse;
            let out = &mut out[self.q_at(b, i, h)..][..self.dim];
            for (j, p) in p.iter().enumerate() {
                for (out, v) in out.iter_mut().zip(&self.v[self.k_at(b, j, h)..]) {
                    *out += p * v;
                }
            }
        });
        (out, lse)
    }

    pub(super) fn backward(&self, dout: &[f64]) -> Grads {
        let (q_len, k_len) = (self.q.len(), self.k.len());
        let (mut dq, mut dk, mut dv) = (vec![0.0; q_len], vec![0.0; k_len], vec![0.0; k_len]);
        let mut squares = [vec![0.0; q_len], vec![0.0; k_len], vec![0.0; k_len]];
        let (out, _) = self.forward();
        self.each_row(|b, i, h| {
            let (p, _) = self.row(b, i, h);
            let at = self.q_at(b, i, h);
            let delta: f64 = (at..at + self.dim).map(|x| dout[x] * out[x]).sum();
            for (j, p) in p.iter().enumerate() {
                let to = self.k_at(b, j, h);
                let dp: f64 = (0..self.dim).map(|d| dout[at + d] * self.v[to + d]).sum();
                let ds = p * (dp - delta) * self.scale;
                let size = p * (dp.abs() + delta.abs()) * self.scale;
                for d in 0..self.dim {
                    dq[at + d] += ds * self.k[to + d];
                    dk[to + d] += ds * self.q[at + d];
                    dv[to + d] += p * dout[at + d];
                    squares[0][at + d] += (size * self.k[to + d]).powi(2);
                    squares[1][to + d] += (size * self.q[at + d]).powi(2);
                    squares[2][to + d] += (p * dout[at + d]).powi(2);
                }
            }
        });
        let spread = squares.map(|squares| squares.into_iter().fold(0.0, f64::max).sqrt());
        Grads { dq, dk, dv, spread }
    }

    fn each_row(&self, mut f: impl FnMut(usize, usize, usize)) {
        for b in 0..self.b {
            for i in 0..self.sq {
                for h in 0..self.hq {
                    f(b, i, h);
                }
            }
        }
    }
}

/// The analytic gradient against central differences.
#[test]
fn gradient_is_that_of_the_forward_pass() {
    let wave = |n: usize, f: f64| -> Vec<f64> { (0..n).map(|i| (i as f64 * f).sin()).collect() };
    for causal in [false, true] {
        let r = Reference {
            b: 1,
            sq: 3,
            sk: 5,
            hq: 4,
            hkv: 2,
            dim: 3,
            scale: 0.7,
            causal,
            q: wave(36, 1.3),
            k: wave(30, 0.9),
            v: wave(30, 2.1),
            mask: Some(vec![1, 0, 1, 1, 1]),
        };
        let dout = wave(36, 0.37);
        let loss = |r: &Reference| -> f64 { r.forward().0.iter().zip(&dout).map(|(o, g)| o * g).sum() };
        let g = r.backward(&dout);
        let check = |grad: &[f64], field: fn(&mut Reference) -> &mut Vec<f64>| {
            for (i, &analytic) in grad.iter().enumerate() {
                let moved = |step: f64| {
                    let mut r = r.clone();
                    field(&mut r)[i] += step;
                    loss(&r)
                };
                let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((numeric - analytic).abs() < 1e-8, "element {i}: {numeric} against {analytic}");
            }
        };
        check(&g.dq, |r| &mut r.q);
        check(&g.dk, |r| &mut r.k);
        check(&g.dv, |r| &mut r.v);
    }
}
