use super::cast::type_number;
use super::source::Access;
use super::view::View;
use super::{Wgpu, WgpuBuffer};
use crate::ops::Write;
use crate::{DType, Input, Kernel, Layout, Op, Output, Result};

impl Wgpu {
    /// Copies `x`, converted, to the view `layout` of a buffer that keeps its other elements.
    pub(super) fn write_view(
        &self,
        op: &'static str,
        x: &Input<'_, Self>,
        buffer: &WgpuBuffer,
        dtype: DType,
        layout: &Layout,
    ) -> Result<()> {
        let count = layout.count();
        let lanes = 4 / dtype.size();
        // Words that hold other elements too are written an element at a time.
        let together = if View::new(layout).word_aligned(lanes as u32) { lanes } else { 1 };
        let mut k = self.kernel("write", op);
        k.constant("FROM", type_number(x.dtype)).constant("TO", type_number(dtype));
        k.constant("TOGETHER", together as u32);
        k.input("x", x)?.target_view("y", buffer, dtype, layout)?.word(count)?;
        k.run_elements(count, together)
    }

    /// A contiguous copy of `x`, in its own type.
    pub(super) fn dense_copy(&self, op: &'static str, x: &Input<'_, Self>) -> Result<WgpuBuffer> {
        let copy = self.temporary(op, x.layout.count() * x.dtype.size())?;
        let mut k = self.kernel("cast", op);
        let number = type_number(x.dtype);
        k.constant("FROM", number).constant("TO", number);
        k.input("x", x)?.scratch("y", &copy, x.dtype, Access::Whole)?.word(x.layout.count())?;
        k.run_elements(x.layout.count(), 4 / x.dtype.size())?;
        drop(k);
        Ok(copy)
    }
}

impl Kernel<Write> for Wgpu {
    fn run(&self, _: &Write, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let y = &outputs[0];
        self.write_view(Write::NAME, &inputs[0], y.buffer, y.dtype, y.layout)
    }
}
