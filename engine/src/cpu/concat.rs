use super::walk::any_type;
use super::write::write;
use crate::layout::Layout;
use crate::ops::Concat;
use crate::{Cpu, Input, Kernel, Output, Result};

impl Kernel<Concat> for Cpu {
    fn run(&self, op: &Concat, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let out = &outputs[0];
        let mut start = 0;
        for x in inputs {
            let len = x.layout.dims[op.axis];
            let layout: Layout = out.layout.narrow(op.axis, start, len)?;
            start += len;
            let mut part = Output { layout: &layout, dtype: out.dtype, buffer: out.buffer };
            any_type!(x.dtype, T => write::<T, T>(x, &mut part))?;
        }
        Ok(())
    }
}
