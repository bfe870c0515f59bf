//! Elementary functions in f32 without branches or calls, so that loops over them vectorise.
//!
//! Polynomials are Chebyshev fits. Multiplies and adds stay separate: the result is the same on every
//! instruction set, and the portable one has no fused instruction. Errors are given in units in the last
//! place of the result and tested below.

use std::f32::consts::LOG2_E;

/// `if c { a } else { b }`, which compiles to a select.
#[inline(always)]
fn select(c: bool, a: f32, b: f32) -> f32 {
    if c { a } else { b }
}

/// eˣ to 1.5 ulp (subnormal results to 1 unit of theirs); overflows to ∞, underflows to 0, NaN comes through.
///
/// `x = n·ln 2 + r` with `|r| ≤ ½ ln 2`; the polynomial gives `eʳ = 1 + r + r²·p(r)`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5·2²³: adding it rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has so few bits that `n` times it is exact.
    const LN2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
    // Comparisons with NaN fail, so that NaN stays.
    let x = select(x > 89.0, 89.0, x);
    let x = select(x < -104.0, -104.0, x);
    let shifted = x * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2[0] - n * LN2[1];
    let p = 1.392_691_8e-3;
    let p = p * r + 8.363_767e-3;
    let p = p * r + 4.166_655e-2;
    let p = p * r + 1.666_657_3e-1;
    let p = p * r + 0.5;
    let y = p * (r * r) + r + 1.0;
    // Two factors: 2ⁿ alone would leave the range of normal numbers at both ends.
    let n = shifted.to_bits().wrapping_sub(ROUND.to_bits()).cast_signed();
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23).cast_unsigned());
    y * power(n >> 1) * power(n.wrapping_sub(n >> 1))
}

/// 1 / (1 + e⁻ˣ) to 3 ulp, in both tails.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    // From the side where the exponential is small: nothing overflows and no digit cancels.
    let e = exp(-x.abs());
    select(x < 0.0, e, 1.0) / (1.0 + e)
}

/// tanh x to 2 ulp.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let z = x * x;
    let p = -6.045_165e-3;
    let p = p * z + 2.096_133e-2;
    let p = p * z - 5.384_326_3e-2;
    let p = p * z + 1.333_271_9e-1;
    let p = p * z - 3.333_332_8e-1;
    let near = x + x * (z * p);
    let far = 1.0 - 2.0 / (exp(2.0 * x.abs()) + 1.0);
    select(x.abs() < 0.625, near, far).copysign(x)
}

/// erf x to 2 ulp: a polynomial in x² near 0, `1 − exp(t·q(t))` with `q(t) = ln(erfc t)/t` beyond.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let z = x * x;
    let p = -5.979_258e-4;
    let p = p * z + 4.991_231_4e-3;
    let p = p * z - 2.676_556e-2;
    let p = p * z + 1.128_179_7e-1;
    let p = p * z - 3.761_249_3e-1;
    // 2/√π − 1: the whole of x is added last, exactly.
    let p = p * z + 1.283_791_7e-1;
    let near = x + x * p;
    // From 4 on the result is 1.
    let t = select(x.abs() > 4.0, 4.0, x.abs());
    let q = 2.774_853e-7;
    let q = q * t - 4.499_955e-6;
    let q = q * t + 1.279_368_2e-5;
    let q = q * t + 2.762_448_4e-4;
    let q = q * t - 3.668_697e-3;
    let q = q * t + 2.402_030_3e-2;
    let q = q * t - 1.066_690_2e-1;
    let q = q * t - 6.348_386_4e-1;
    let q = q * t - 1.128_734_2;
    let far = 1.0 - exp(q * t);
    select(x.abs() < 0.92, near, far).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// erf in f64: the series with positive terms, which loses nothing to cancellation.
    fn exact_erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        let mut n = 1.0;
        while term.abs() > 1e-18 * sum.abs() {
            n += 2.0;
            term *= 2.0 * x * x / n;
            sum += term;
        }
        std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
    }

    /// Units in the last place of `want` between it and `got`.
    fn ulps(got: f32, want: f64) -> f64 {
        let near = (want.abs() as f32).max(f32::MIN_POSITIVE);
        let ulp = f64::from(f32::from_bits(near.to_bits() + 1)) - f64::from(near);
        (f64::from(got) - want).abs() / ulp
    }

    /// Largest error over the floats from -`limit` to `limit`, every 997th of both signs.
    fn worst(limit: f32, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for bits in (0..=limit.to_bits()).step_by(997) {
            for x in [f32::from_bits(bits), -f32::from_bits(bits)] {
                let want = exact(f64::from(x));
                if want < f64::from(f32::MAX) {
                    let error = ulps(f(x), want);
                    if error > worst.0 || error.is_nan() {
                        worst = (error, x);
                    }
                }
            }
        }
        worst
    }

    fn check(name: &str, most: f64, limit: f32, f: impl Fn(f32) -> f32, exact: impl Fn(f64) -> f64) {
        let (error, x) = worst(limit, f, exact);
        println!("{name}: {error:.2} ulp at {x:e}");
        assert!(error <= most, "{name}({x:e}) is {error} ulp off");
    }

    #[test]
    fn errors_are_as_documented() {
        check("exp", 1.5, 104.5, exp, f64::exp);
        check("sigmoid", 3.0, 104.5, sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        check("tanh", 2.0, 20.0, tanh, f64::tanh);
        check("erf", 2.0, 5.0, erf, exact_erf);
    }

    #[test]
    fn limits_and_nan() {
        for (f, low, high) in [
            (exp as fn(f32) -> f32, 0.0, f32::INFINITY),
            (sigmoid, 0.0, 1.0),
            (tanh, -1.0, 1.0),
            (erf, -1.0, 1.0),
        ] {
            assert!(f(f32::NAN).is_nan());
            for big in [200.0, 1e30, f32::INFINITY] {
                assert_eq!((f(-big), f(big)), (low, high));
            }
        }
        assert_eq!((exp(0.0), exp(-0.0), sigmoid(0.0)), (1.0, 1.0, 0.5));
        assert_eq!((tanh(-0.0).to_bits(), erf(-0.0).to_bits()), ((-0.0f32).to_bits(), (-0.0f32).to_bits()));
        assert_eq!(exp(88.72), (f64::from(88.72f32).exp()) as f32);
    }
}
