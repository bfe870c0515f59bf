use super::Wgpu;
use crate::ops::{Gelu, GeluGrad, GeluKind};
use crate::{Input, Kernel, Op, Output, Result};

fn number(kind: GeluKind) -> u32 {
    match kind {
        GeluKind::Tanh => 0,
        GeluKind::Erf => 1,
    }
}

impl Kernel<Gelu> for Wgpu {
    fn run(&self, op: &Gelu, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        self.map(Gelu::NAME, number(op.kind), &[("x", &inputs[0])], &outputs[0])
    }
}

impl Kernel<GeluGrad> for Wgpu {
    fn run(&self, op: &GeluGrad, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        self.map(GeluGrad::NAME, number(op.kind), &[("x", &inputs[0]), ("g", &inputs[1])], &outputs[0])
    }
}
