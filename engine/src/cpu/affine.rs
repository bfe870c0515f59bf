use super::unary::map;
use super::walk::float_type;
use crate::ops::Affine;
use crate::{Cpu, Input, Kernel, Output, Result};

impl Kernel<Affine> for Cpu {
    fn run(&self, op: &Affine, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (mul, add) = (op.mul, op.add);
        float_type!(inputs[0].dtype, T => map::<T>(&inputs[0], &mut outputs[0], |x| mul * x + add))
    }
}
