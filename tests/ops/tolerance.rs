//! How far a result may lie from the f64 oracle: the one place with such numbers.
//!
//! A result is allowed
//! `dtype roundings · u(dtype) · |oracle|  +  f32 roundings · 2⁻²⁴ · scale`
//! where `u` is the unit roundoff of the element type (2⁻²⁴ f32, 2⁻¹¹ f16, 2⁻⁸ bf16) and `scale` bounds the
//! terms that were added on the way: where they cancel, their rounding errors stay.

use engine::DType;
use proptest::test_runner::TestCaseError;

use crate::harness::{Check, Expect};
use crate::oracle::{round, unit_roundoff};

/// Operation classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Class {
    /// Moves, conversions, comparisons: the oracle's value rounded once, bit for bit.
    Exact,
    /// A sum, product, quotient or square root of the inputs.
    Arithmetic,
    /// A transcendental function.
    Function,
    /// A sum of so many products.
    Sum(usize),
    /// A normalisation over so many elements.
    Norm(usize),
    /// A rotation whose cosine, sine, products and sum are each rounded to the element type. `scale` counts
    /// for the dtype roundings too.
    Rotation,
    /// Attention over so many keys. `scale` counts for the dtype roundings too.
    Attention(usize),
    /// A gradient that sums so many terms. `scale` counts for the dtype roundings too.
    Gradient(usize),
}

/// Roundings to the element type, and roundings to f32.
fn roundings(class: Class) -> (f64, f64) {
    // A chain of n additions is off by n roundings at worst, and it comes to that where equal values are
    // added (an expanded view). Kernels cut chains at some hundred terms; over the partial sums the errors
    // have both signs and grow like √n.
    let long = |n: usize| n.min(256) as f64 + 2.0 * (n as f64).sqrt();
    match class {
        Class::Exact => (0.0, 0.0),
        // A multiply and an add, fused or not; then the result is rounded.
        Class::Arithmetic => (1.0, 2.0),
        // Polynomials are good to 2 ulp (4 half-ulps); the rest is the arithmetic around them.
        Class::Function => (1.0, 8.0),
        Class::Sum(n) => (1.0, 4.0 + long(n)),
        // The normalised value is rounded to the element type before the weight multiplies it.
        Class::Norm(n) => (2.0, 16.0 + long(n)),
        Class::Rotation => (3.0, 8.0),
        // Probabilities may be rounded to the element type before they weigh the values, which is what GPU
        // matrix units and `vdpbf16ps` do; the errors of the scores come in through the exponential.
        Class::Attention(n) => (2.0, 64.0 + long(n)),
        // A chain of a few operations, each rounding to the element type, over saved values that were
        // rounded as well. Central differences in f64 add less than 1e-9.
        Class::Gradient(n) => (6.0, 32.0 + 2.0 * long(n)),
    }
}

/// Where rounding stops being relative: half the smallest subnormal; and where it overflows.
fn range(dtype: DType) -> (f64, f64) {
    match dtype {
        DType::F16 => (2f64.powi(-25), 65504.0),
        // Kernels may flush f32 subnormals (GPUs do), and so bf16's.
        DType::BF16 => (f64::from(f32::MIN_POSITIVE), 3.389_531_389_251_535_5e38),
        DType::F32 => (f64::from(f32::MIN_POSITIVE), f64::from(f32::MAX)),
        DType::U8 | DType::U32 | DType::I32 => (0.0, f64::INFINITY),
    }
}

/// Compares element by element.
pub(crate) fn close(got: &[f64], expect: &Expect) -> Check {
    let (own, f32s) = roundings(expect.class);
    let (mut tiny, huge) = range(expect.dtype);
    if matches!(expect.class, Class::Norm(_)) {
        // The first rounding may hit a subnormal; weights of the tests, standard normal, stay below 8.
        tiny *= 8.0;
    }
    let u = unit_roundoff(expect.dtype);
    let pairs = got.iter().zip(&expect.values.data).zip(&expect.scale.data);
    for (i, ((&got, &want), &scale)) in pairs.enumerate() {
        let rounded = round(want, expect.dtype);
        if got == rounded || (got.is_nan() && rounded.is_nan()) {
            continue;
        }
        let by_scale = matches!(expect.class, Class::Gradient(_) | Class::Rotation | Class::Attention(_));
        let relative = if by_scale { scale } else { want.abs() };
        let allowed = match expect.class {
            Class::Exact => 0.0,
            _ => own * u * relative + f32s * 2f64.powi(-24) * scale + tiny,
        };
        let overflows =
            got.is_infinite() && want.signum() == got.signum() && want.abs() + allowed >= huge * (1.0 - u);
        let off = (got - want).abs();
        if !overflows && (off > allowed || off.is_nan()) {
            return Err(TestCaseError::fail(format!(
                "element {i}: {got}, the oracle gives {want}; off by {off:e}, allowed {allowed:e}"
            )));
        }
    }
    Ok(())
}
