use super::Wgpu;
use super::launch::Launch;
use crate::ops::Dropout;
use crate::{Input, Kernel, Op, Output, Result, Rng};

impl Launch<'_> {
    /// The four parameters of `shaders/common/dropout.wgsl`.
    pub(super) fn dropout(&mut self, op: &Dropout) -> Result<&mut Self> {
        let key = Rng::new(op.seed).bits();
        let (low, high) = (key as u32, (key >> 32) as u32);
        self.word(low as usize)?.word(high as usize)?.word(op.threshold() as usize)?;
        Ok(self.float(op.scale()))
    }
}

impl Kernel<Dropout> for Wgpu {
    fn run(&self, op: &Dropout, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let y = &outputs[0];
        let mut k = self.kernel(Dropout::NAME, Dropout::NAME);
        k.input("x", &inputs[0])?.output("y", y)?.word(y.layout.count())?.dropout(op)?;
        k.run_elements(y.layout.count(), y.lanes())
    }
}
