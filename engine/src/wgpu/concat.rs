use super::Wgpu;
use crate::ops::Concat;
use crate::{Input, Kernel, Op, Output, Result};

impl Kernel<Concat> for Wgpu {
    fn run(&self, op: &Concat, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let out = &outputs[0];
        let mut start = 0;
        for x in inputs {
            let len = x.layout.dims[op.axis];
            let layout = out.layout.narrow(op.axis, start, len)?;
            start += len;
            self.write_view(Concat::NAME, x, out.buffer, out.dtype, &layout)?;
        }
        Ok(())
    }
}
