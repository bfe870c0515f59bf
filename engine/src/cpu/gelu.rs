use super::binary::zip;
use super::unary::map;
use super::walk::float_type;
use crate::ops::{Gelu, GeluGrad, GeluKind};
use crate::{Cpu, Input, Kernel, Output, Result};

const SQRT_2_PI: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

#[inline(always)]
fn tanh(x: f32) -> f32 {
    x.tanh()
}

#[inline(always)]
fn erf(x: f32) -> f32 {
    // Abramowitz & Stegun 7.1.26 in f64 arithmetic: absolute error below 1.5e-7.
    let a = f64::from(x.abs());
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    ((1.0 - poly * (-a * a).exp()) as f32).copysign(x)
}

impl Kernel<Gelu> for Cpu {
    fn run(&self, op: &Gelu, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, out) = (&inputs[0], &mut outputs[0]);
        float_type!(x.dtype, T => match op.kind {
            GeluKind::Tanh => map::<T>(x, out, |x| 0.5 * x * (1.0 + tanh(SQRT_2_PI * (x + CUBE * x * x * x)))),
            GeluKind::Erf => map::<T>(x, out, |x| 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))),
        })
    }
}

impl Kernel<GeluGrad> for Cpu {
    fn run(&self, op: &GeluGrad, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, g, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        float_type!(x.dtype, T => match op.kind {
            GeluKind::Tanh => zip::<T>(x, g, out, |x, g| {
                let t = tanh(SQRT_2_PI * (x + CUBE * x * x * x));
                let slope = SQRT_2_PI * (1.0 + 3.0 * CUBE * x * x);
                g * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)
            }),
            GeluKind::Erf => zip::<T>(x, g, out, |x, g| {
                let cdf = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
                g * (cdf + x * 0.398_942_3 * (-0.5 * x * x).exp())
            }),
        })
    }
}
