use super::Wgpu;
use crate::ops::{GatedSilu, GatedSiluGrad};
use crate::{Input, Kernel, Op, Output, Result};

impl Kernel<GatedSilu> for Wgpu {
    fn run(&self, _: &GatedSilu, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        self.map(GatedSilu::NAME, 0, &[("gate", &inputs[0]), ("up", &inputs[1])], &outputs[0])
    }
}

impl Kernel<GatedSiluGrad> for Wgpu {
    fn run(
        &self,
        _: &GatedSiluGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let (dgate, dup) = (&outputs[0], &outputs[1]);
        let count = dgate.layout.count();
        let mut k = self.kernel(GatedSiluGrad::NAME, GatedSiluGrad::NAME);
        k.input("gate", &inputs[0])?.input("up", &inputs[1])?.input("g", &inputs[2])?;
        k.output("dgate", dgate)?.output("dup", dup)?.word(count)?;
        k.run_elements(count, dgate.lanes())
    }
}
