//! `argmax` and `top_k`.

use super::Cuda;
use super::cast::typed;
use crate::ops::{Argmax, TopK};
use crate::{Input, Kernel, Layout, Op, Output, Result};

/// Rows and row length of a view with at least one dimension.
pub(super) fn rows_of(layout: &Layout) -> [usize; 2] {
    let last = layout.dims.len() - 1;
    [layout.dims[..last].iter().product(), layout.dims[last]]
}

impl Kernel<Argmax> for Cuda {
    fn run(&self, _: &Argmax, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let x = &inputs[0];
        let [rows, n] = rows_of(x.layout);
        let mut k = self.kernel(Argmax::NAME, typed(Argmax::NAME, x.dtype), Argmax::NAME);
        k.output(&outputs[0]).rows(x).word(n).run_rows(rows)
    }
}

impl Kernel<TopK> for Cuda {
    fn run(&self, op: &TopK, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let x = &inputs[0];
        let [rows, n] = rows_of(x.layout);
        if op.k == 0 {
            return Ok(());
        }
        let mut k = self.kernel(TopK::NAME, typed(TopK::NAME, x.dtype), TopK::NAME);
        k.output(&outputs[0]).output(&outputs[1]).rows(x).words(&[n, op.k]).run_rows(rows)
    }
}
