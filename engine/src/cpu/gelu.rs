use std::f32::consts::FRAC_1_SQRT_2;

use super::binary::{Zip, zip};
use super::math::{erf, exp, sigmoid};
use super::unary::{Map, function, map};
use super::walk::float_type;
use crate::ops::{Gelu, GeluGrad, GeluKind};
use crate::{Cpu, Input, Kernel, Output, Result};

/// 2·√(2/π)
const TWICE_SQRT_2_PI: f32 = 1.595_769;
const CUBE: f32 = 0.044_715;
/// 1/√(2π)
const DENSITY: f32 = 0.398_942_3;

// ½(1 + tanh u) is sigmoid(2u): one exponential, and no digit cancels where tanh is near −1.
function!(Tanh, |x| x * sigmoid(TWICE_SQRT_2_PI * (x + CUBE * x * x * x)), Map);
function!(Erf, |x| 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)), Map);

function!(
    TanhGrad,
    |x, g| {
        let s = sigmoid(TWICE_SQRT_2_PI * (x + CUBE * x * x * x));
        let slope = TWICE_SQRT_2_PI * (1.0 + 3.0 * CUBE * x * x);
        // Beyond ±10 the second term is 0 in f32, but x·slope could overflow.
        let bend = if x.abs() > 10.0 { 0.0 } else { x * s * (1.0 - s) * slope };
        g * (s + bend)
    },
    Zip
);
function!(
    ErfGrad,
    |x, g| {
        let bend = if x.abs() > 15.0 { 0.0 } else { x * DENSITY * exp(-0.5 * x * x) };
        g * (0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + bend)
    },
    Zip
);

impl Kernel<Gelu> for Cpu {
    fn run(&self, op: &Gelu, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, out) = (&inputs[0], &mut outputs[0]);
        float_type!(x.dtype, T => match op.kind {
            GeluKind::Tanh => map::<T>(x, out, Tanh),
            GeluKind::Erf => map::<T>(x, out, Erf),
        })
    }
}

impl Kernel<GeluGrad> for Cpu {
    fn run(&self, op: &GeluGrad, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, g, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        float_type!(x.dtype, T => match op.kind {
            GeluKind::Tanh => zip::<T>(x, g, out, TanhGrad),
            GeluKind::Erf => zip::<T>(x, g, out, ErfGrad),
        })
    }
}
