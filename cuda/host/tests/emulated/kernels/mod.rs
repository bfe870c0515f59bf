//! Each kernel against the operation in f64, under the four schedules; once more with sanitizers (`sanitized`); on a GPU with
//! `ROENTGEN_CUDA=device`.

mod attention;
mod elementwise;
mod linear_nf4;
mod matmul;
mod norms;

use half::bf16;

/// Values in [-1, 1), the same every time.
pub(crate) struct Values(u64);

impl Values {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn draw<T: Element>(&mut self, count: usize) -> Vec<T> {
        (0..count).map(|_| T::of(self.next())).collect()
    }
}

/// f32 roundings of a sum of `n` terms, in whatever order: a chain of n additions is off by n roundings at worst; kernels cut chains at
/// some hundred terms, and over the partial sums the errors have both signs.
pub(crate) fn sum_roundings(n: usize) -> f64 {
    4.0 + n.min(256) as f64 + 2.0 * (n as f64).sqrt()
}

/// Of a normalisation over `n` values.
pub(crate) fn norm_roundings(n: usize) -> f64 {
    12.0 + sum_roundings(n)
}

/// An element type of kernels.
pub(crate) trait Element: cudarc::driver::DeviceRepr + Copy + Default {
    /// Half the distance between neighbours, relative.
    const ROUNDOFF: f64;
    /// As in kernel names.
    const NAME: &'static str;
    fn of(value: f32) -> Self;
    fn f64(self) -> f64;
}

impl Element for f32 {
    const ROUNDOFF: f64 = 1.0 / (1 << 24) as f64;
    const NAME: &'static str = "f32";
    fn of(value: f32) -> Self {
        value
    }
    fn f64(self) -> f64 {
        self.into()
    }
}

impl Element for bf16 {
    const ROUNDOFF: f64 = 1.0 / 256.0;
    const NAME: &'static str = "bf16";
    fn of(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn f64(self) -> f64 {
        self.to_f64()
    }
}

/// Asserts that `got` is `expected` up to `roundings` of the element type and `f32_roundings` of f32 relative to `scale`, which bounds the
/// terms that were added on the way.
pub(crate) fn close<T: Element>(
    got: &[T],
    expected: &[(f64, f64)],
    roundings: f64,
    f32_roundings: f64,
    what: &str,
) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (got, (value, scale))) in got.iter().zip(expected).enumerate() {
        let allowed = roundings * T::ROUNDOFF * value.abs() + f32_roundings * f32::ROUNDOFF * scale;
        let error = (got.f64() - value).abs();
        assert!(
            error <= allowed,
            "{what}, element {i}: {} instead of {value}, off by {error:e} of {allowed:e}",
            got.f64()
        );
    }
}
