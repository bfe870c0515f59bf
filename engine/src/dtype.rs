//! Element types.

use std::fmt;

use half::{bf16, f16};

/// Element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// bfloat16: the upper half of an f32.
    BF16,
    /// IEEE 754 binary16.
    F16,
    /// Unsigned byte: images and masks.
    U8,
    /// Unsigned 32-bit integer: token ids and row indices.
    U32,
    /// Signed 32-bit integer: labels (`-100` is ignored by the loss).
    I32,
}

impl DType {
    /// Every element type, for tests that walk them all.
    pub const ALL: [Self; 6] = [Self::F32, Self::BF16, Self::F16, Self::U8, Self::U32, Self::I32];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::U32 | Self::I32 => 4,
            Self::BF16 | Self::F16 => 2,
            Self::U8 => 1,
        }
    }

    /// Lower-case name as it stands in configurations and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
            Self::U8 => "u8",
            Self::U32 => "u32",
            Self::I32 => "i32",
        }
    }

    /// True for the types that carry gradients.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::BF16 | Self::F16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A Rust type that can be an element of a tensor.
pub trait Element: bytemuck::Pod + Send + Sync + fmt::Debug + PartialEq {
    /// Its element type.
    const DTYPE: DType;
    /// Value as f64, for display and for oracles.
    fn to_f64(self) -> f64;
    /// Nearest representable value (round to nearest even for floats, saturating for integers).
    fn from_f64(x: f64) -> Self;
}

/// `x` as f32, inexact values with the last bit set ("round to odd"). A second rounding to a type of at most
/// 22 bits then gives what one rounding of `x` would (Boldo and Melquiond 2008); rounding to nearest twice
/// would not, and `half`'s own conversions from f64 look at the upper half of its bits only.
#[inline(always)]
fn round_to_odd(x: f64) -> f32 {
    let y = x as f32;
    let bits = y.to_bits();
    if f64::from(y) == x || y.is_nan() || bits & 1 == 1 {
        return y;
    }
    // Even and inexact: the odd neighbour on the other side of `x`. An overflow to infinity steps back.
    f32::from_bits(if f64::from(y).abs() > x.abs() { bits - 1 } else { bits + 1 })
}

macro_rules! element {
    ($($t:ty => $d:ident, $to:expr, $from:expr;)*) => {$(
        impl Element for $t {
            const DTYPE: DType = DType::$d;
            #[inline(always)]
            fn to_f64(self) -> f64 { $to(self) }
            #[inline(always)]
            fn from_f64(x: f64) -> Self { $from(x) }
        }
    )*};
}

element! {
    f32 => F32, f64::from, |x| x as f32;
    bf16 => BF16, bf16::to_f64, |x| Float::from_f32(round_to_odd(x));
    f16 => F16, f16::to_f64, |x| Float::from_f32(round_to_odd(x));
    u8 => U8, f64::from, |x| x as u8;
    u32 => U32, f64::from, |x| x as u32;
    i32 => I32, f64::from, |x| x as i32;
}

/// A floating element that CPU kernels compute on by way of f32.
pub trait Float: Element {
    /// Widening is exact.
    fn to_f32(self) -> f32;
    /// Round to nearest, ties to even.
    fn from_f32(x: f32) -> Self;
}

impl Float for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Float for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        // Written out so that it vectorises; NaN keeps a quiet payload.
        let bits = x.to_bits();
        let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
        let quiet = ((bits >> 16) | 0x40) as u16;
        bf16::from_bits(if x.is_nan() { quiet } else { rounded })
    }
}

impl Float for f16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        f16::from_f32(x)
    }
}
