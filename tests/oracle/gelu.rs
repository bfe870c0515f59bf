use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use engine::ops::GeluKind;

use super::Array;

/// 1 − erf x for x ≥ 0, to some 1e-15: the series of erf (all terms positive) for small x, Laplace's
/// continued fraction, cut deep enough to have converged, for large.
fn erfc(x: f64) -> f64 {
    if x < 2.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= 2.0 * x * x / f64::from(2 * n + 1);
            sum += term;
        }
        return 1.0 - FRAC_2_SQRT_PI * (-x * x).exp() * sum;
    }
    let fraction = (1..200).rev().fold(x, |f, k| x + f64::from(k) / 2.0 / f);
    (-x * x).exp() / PI.sqrt() / fraction
}

/// `½x(1 + tanh(√(2/π)(x + 0.044715x³)))` or `½x(1 + erf(x/√2))`.
pub fn gelu(x: &Array, kind: GeluKind) -> Array {
    x.map(|x| match kind {
        GeluKind::Tanh => 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044_715 * x * x * x)).tanh()),
        GeluKind::Erf => {
            let tail = 0.5 * erfc(x.abs() * FRAC_1_SQRT_2);
            x * if x < 0.0 { tail } else { 1.0 - tail }
        }
    })
}
