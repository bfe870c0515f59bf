//! Work that shows what a device can do at most.

use crate::error::{Result, rule};
use crate::op::{Cost, Op, Spec, apply_one};
use crate::ops::{arity, shape};
use crate::{DType, Tensor};

/// A kernel with no other use than to reach a ceiling of the roofline (Williams, Waterman & Patterson 2009), on f32.
/// It shares nothing with the kernels that are held against the ceiling. The processor's ceilings are found without it,
/// by loops for each of its instruction sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Burst {
    /// Multiply-adds on registers, eight independent sums an element: each begins at `x` and takes `s ← s/2 + 1/2` as
    /// often as said; `y [n]` is their sum.
    MultiplyAdds {
        /// Multiply-adds of each sum, a multiple of 16.
        rounds: usize,
    },
    /// The same with what the device has for products of bf16 matrices, where it has something: each of the eight sums
    /// begins at `x` and takes `s ← s + 2⁻⁴ · 2⁻⁴` as often as said.
    Products {
        /// Multiply-adds of each sum, a multiple of 16.
        rounds: usize,
    },
    /// Reading: `y [sums]`, `y[j] = Σᵢ x[j + i·sums]`.
    Read {
        /// Of how many sums; divides the elements.
        sums: usize,
    },
    /// The triad of `STREAM` (`McCalpin` 1995): `y = x + 3·c`.
    Triad,
}

/// Independent sums of an element: more than latency times width needs.
pub(crate) const SUMS: usize = 8;
/// Multiply-adds of each sum in one matrix instruction, and elements that it takes together.
const TURN: usize = 16;
const TILE: usize = 128;

impl Op for Burst {
    const NAME: &'static str = "burst";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, if *self == Self::Triad { 2 } else { 1 })?;
        let x = &inputs[0];
        let (DType::F32, [n]) = (x.dtype, &x.dims[..]) else {
            return Err(rule!(Self::NAME, "x is {} {:?}, expected f32 [n]", x.dtype, x.dims));
        };
        match *self {
            Self::MultiplyAdds { rounds } | Self::Products { rounds } if rounds % TURN != 0 => {
                Err(rule!(Self::NAME, "{rounds} rounds are no multiple of {TURN}"))
            }
            Self::Products { .. } if n % TILE != 0 => {
                Err(rule!(Self::NAME, "{n} elements are no multiple of {TILE}"))
            }
            Self::Read { sums } if sums == 0 || n % sums != 0 => {
                Err(rule!(Self::NAME, "{n} elements cannot be divided into {sums} sums"))
            }
            Self::Read { sums } => Ok(vec![Spec::new(&[sums], DType::F32)?]),
            Self::Triad => {
                shape(Self::NAME, "c", &inputs[1], &[*n])?;
                if inputs[1].dtype != DType::F32 {
                    return Err(rule!(Self::NAME, "c is {}, expected f32", inputs[1].dtype));
                }
                Ok(vec![*x])
            }
            _ => Ok(vec![*x]),
        }
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        let n = inputs[0].dims.count();
        let flops = match *self {
            Self::MultiplyAdds { rounds } | Self::Products { rounds } => 2 * SUMS * rounds * n,
            Self::Read { .. } => n,
            Self::Triad => 2 * n,
        };
        Cost::streaming(flops, inputs, outputs)
    }
}

impl Tensor {
    /// Multiply-adds on registers, `rounds` on each of eight sums an element: [`Burst::MultiplyAdds`].
    pub fn burst_multiply_adds(&self, rounds: usize) -> Result<Self> {
        apply_one(Burst::MultiplyAdds { rounds }, &[self])
    }

    /// The same in products of bf16 matrices: [`Burst::Products`].
    pub fn burst_products(&self, rounds: usize) -> Result<Self> {
        apply_one(Burst::Products { rounds }, &[self])
    }

    /// Every `sums`-th element summed: [`Burst::Read`].
    pub fn burst_read(&self, sums: usize) -> Result<Self> {
        apply_one(Burst::Read { sums }, &[self])
    }

    /// `self + 3·c`: [`Burst::Triad`].
    pub fn burst_triad(&self, c: &Self) -> Result<Self> {
        apply_one(Burst::Triad, &[self, c])
    }
}
