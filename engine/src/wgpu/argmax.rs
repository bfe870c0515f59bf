use super::Wgpu;
use crate::ops::{Argmax, TopK};
use crate::{Input, Kernel, Layout, Op, Output, Result};

/// Rows and row length of a view with at least one dimension.
pub(super) fn rows_of(layout: &Layout) -> [usize; 2] {
    let last = layout.dims.len() - 1;
    [layout.dims[..last].iter().product(), layout.dims[last]]
}

impl Kernel<Argmax> for Wgpu {
    fn run(&self, _: &Argmax, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let [rows, n] = rows_of(inputs[0].layout);
        let mut k = self.kernel(Argmax::NAME, Argmax::NAME);
        k.input("x", &inputs[0])?.output("y", &outputs[0])?.word(rows)?.word(n)?.work(rows * n);
        k.run_linear(rows, 1)
    }
}

impl Kernel<TopK> for Wgpu {
    fn run(&self, op: &TopK, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let [rows, n] = rows_of(inputs[0].layout);
        if op.k == 0 {
            return Ok(());
        }
        let mut k = self.kernel(TopK::NAME, TopK::NAME);
        k.input("x", &inputs[0])?.output("values", &outputs[0])?.output("indices", &outputs[1])?;
        k.word(rows)?.word(n)?.word(op.k)?.work(rows * n * op.k);
        k.run_linear(rows, 1)
    }
}
