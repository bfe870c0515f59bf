use super::Wgpu;
use crate::ops::{Binary, BinaryKind};
use crate::{Input, Kernel, Op, Output, Result};

impl Kernel<Binary> for Wgpu {
    fn run(&self, op: &Binary, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let kind = match op.kind {
            BinaryKind::Add => 0,
            BinaryKind::Sub => 1,
            BinaryKind::Mul => 2,
            BinaryKind::Div => 3,
        };
        self.map(Binary::NAME, kind, &[("a", &inputs[0]), ("b", &inputs[1])], &outputs[0])
    }
}
