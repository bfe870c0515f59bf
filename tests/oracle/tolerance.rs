//! How far a result may lie from the f64 oracle: the one place with such numbers.
//!
//! A result is allowed
//! `dtype roundings · u(dtype) · |oracle|  +  f32 roundings · 2⁻²⁴ · scale`
//! where `u` is the unit roundoff of the element type (2⁻²⁴ f32, 2⁻¹¹ f16, 2⁻⁸ bf16) and `scale` bounds the
//! terms that were added on the way: where they cancel, their rounding errors stay.

use std::fmt;

use engine::DType;

use crate::{Array, round, unit_roundoff};

/// Operation classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Class {
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
    /// Attention. `scale` counts for the dtype roundings too.
    Attention {
        /// Most keys that a query sees.
        keys: usize,
        /// Terms of a score: the head's width.
        width: usize,
        /// Bounds the sum of a score's terms without their signs.
        score: f64,
    },
    /// A gradient that sums so many terms. `scale` counts for the dtype roundings too.
    Gradient(usize),
}

/// Roundings to the element type, and roundings to f32.
fn roundings(class: Class) -> (f64, f64) {
    // A sum of n terms, in whatever order, is off by n roundings of the sum of their sizes at worst (Higham 2002, §4.2), and
    // it does come to that: small equal terms (an expanded view) after a large first one (a bias). The roundings that
    // its terms bring along have both signs and grow like √n.
    let long = |n: usize| n as f64 + 2.0 * (n as f64).sqrt();
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
        // matrix units and `vdpbf16ps` do. An error of a score comes in through the exponential, and through the
        // sum that it is divided by.
        Class::Attention { keys, width, score } => {
            (2.0, 64.0 + long(keys) + 2.0 * score * (2.0 + long(width)))
        }
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

/// What an operation must give.
#[derive(Clone, Debug)]
pub struct Expect {
    /// The oracle's values.
    pub values: Array,
    /// Element type of the result.
    pub dtype: DType,
    /// How it is computed.
    pub class: Class,
    /// What rounding errors on the way are relative to, like `values`.
    pub scale: Array,
}

impl Expect {
    /// `values` as `dtype`; f32 rounding errors on the way are relative to the result.
    pub fn new(values: Array, dtype: DType, class: Class) -> Self {
        let scale = values.map(f64::abs);
        Self { values, dtype, class, scale }
    }

    /// f32 rounding errors on the way are relative to `scale` (where larger terms cancel).
    ///
    /// # Panics
    /// If `scale` has another shape than the values.
    #[must_use]
    pub fn scale(mut self, scale: Array) -> Self {
        assert_eq!(scale.dims, self.values.dims);
        self.scale = scale;
        self
    }
}

/// A result that lies too far from the oracle's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mismatch {
    /// Place in row-major order.
    pub element: usize,
    /// The result.
    pub got: f64,
    /// The oracle's.
    pub want: f64,
    /// Distance.
    pub off: f64,
    /// Distance that the class allows.
    pub allowed: f64,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { element, got, want, off, allowed } = self;
        write!(f, "element {element}: {got}, the oracle gives {want}; off by {off:e}, allowed {allowed:e}")
    }
}

/// Compares element by element. Returns the largest share of its allowance that an element took (0 to 1), or the
/// element that is farthest outside its own.
///
/// # Errors
/// If an element lies farther off than its class allows.
pub fn close(got: &[f64], expect: &Expect) -> Result<f64, Mismatch> {
    let (own, f32s) = roundings(expect.class);
    let (mut tiny, huge) = range(expect.dtype);
    if matches!(expect.class, Class::Norm(_)) {
        // The first rounding may hit a subnormal; weights of the tests, standard normal, stay below 8.
        tiny *= 8.0;
    }
    let u = unit_roundoff(expect.dtype);
    let mut largest = 0f64;
    let mut worst: Option<Mismatch> = None;
    let pairs = got.iter().zip(&expect.values.data).zip(&expect.scale.data);
    for (element, ((&got, &want), &scale)) in pairs.enumerate() {
        let rounded = round(want, expect.dtype);
        if got == rounded || (got.is_nan() && rounded.is_nan()) {
            continue;
        }
        let by_scale = matches!(expect.class, Class::Gradient(_) | Class::Rotation | Class::Attention { .. });
        let relative = if by_scale { scale } else { want.abs() };
        let allowed = match expect.class {
            Class::Exact => 0.0,
            _ => own * u * relative + f32s * 2f64.powi(-24) * scale + tiny,
        };
        let overflows =
            got.is_infinite() && want.signum() == got.signum() && want.abs() + allowed >= huge * (1.0 - u);
        if overflows {
            continue;
        }
        let off = (got - want).abs();
        if off > allowed || off.is_nan() {
            // NaN is as far off as can be.
            let excess = |m: &Mismatch| if m.off.is_nan() { f64::INFINITY } else { m.off - m.allowed };
            let this = Mismatch { element, got, want, off, allowed };
            if worst.is_none_or(|worst| excess(&this) > excess(&worst)) {
                worst = Some(this);
            }
        } else {
            largest = largest.max(off / allowed);
        }
    }
    worst.map_or(Ok(largest), Err)
}
