use super::unary::{Map, map};
use super::walk::float_type;
use crate::ops::Affine;
use crate::{Cpu, Input, Kernel, Output, Result};

#[derive(Clone, Copy)]
struct Line {
    mul: f32,
    add: f32,
}

impl Map for Line {
    #[inline(always)]
    fn at(self, x: f32) -> f32 {
        self.mul * x + self.add
    }
}

impl Kernel<Affine> for Cpu {
    fn run(&self, op: &Affine, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let f = Line { mul: op.mul, add: op.add };
        float_type!(inputs[0].dtype, T => map::<T>(&inputs[0], &mut outputs[0], f))
    }
}
