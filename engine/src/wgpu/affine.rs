use super::Wgpu;
use crate::ops::Affine;
use crate::{Input, Kernel, Op, Output, Result};

impl Kernel<Affine> for Wgpu {
    fn run(&self, op: &Affine, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, y) = (&inputs[0], &outputs[0]);
        let mut k = self.kernel("affine", Affine::NAME);
        k.input("x", x)?.output("y", y)?.word(y.layout.count())?.float(op.mul).float(op.add);
        k.run_elements(y.layout.count(), y.lanes())
    }
}
