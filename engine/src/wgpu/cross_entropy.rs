use super::Wgpu;
use crate::fault::Fault;
use crate::ops::{CrossEntropy, CrossEntropyGrad};
use crate::{Input, Kernel, Op, Output, Result};

impl Kernel<CrossEntropy> for Wgpu {
    fn run(
        &self,
        op: &CrossEntropy,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let [rows, n] = [inputs[0].layout.dims[0], inputs[0].layout.dims[1]];
        let mut k = self.kernel(CrossEntropy::NAME, CrossEntropy::NAME);
        k.input("logits", &inputs[0])?.input("labels", &inputs[1])?;
        k.output("loss", &outputs[0])?.output("lse", &outputs[1])?;
        k.word(rows)?.word(n)?.signed(op.ignore);
        k.fault(Fault::Label { op: CrossEntropy::NAME, ignore: op.ignore, classes: n });
        k.work(2 * rows * n).run_linear(rows, 1)
    }
}

impl Kernel<CrossEntropyGrad> for Wgpu {
    fn run(
        &self,
        op: &CrossEntropyGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let y = &outputs[0];
        let (n, count) = (y.layout.dims[1], y.layout.count());
        let mut k = self.kernel(CrossEntropyGrad::NAME, CrossEntropyGrad::NAME);
        k.input("logits", &inputs[0])?.input("labels", &inputs[1])?.output("y", y)?;
        let (lse, g) = (k.read("lse", &inputs[2])?, k.read("g", &inputs[3])?);
        k.word(count)?.word(n)?.signed(op.ignore);
        k.fault(Fault::Label { op: CrossEntropyGrad::NAME, ignore: op.ignore, classes: n });
        k.word(lse.offset)?.word(lse.strides[0])?.word(g.offset)?.word(g.strides[0])?;
        k.run_elements(count, y.lanes())
    }
}
