//! `argmax` and `top_k`.

use super::Cuda;
use super::cast::typed;
use crate::ops::{Argmax, TopK};
use crate::{Input, Kernel, Layout, Op, Output, Result};

/// Elements of a row that a block of `top_k_split` takes, and most of k for it: each costs every block a meeting of its threads.
const SHARE: usize = 2048;
const MOST: usize = 256;

/// Rows of which `argmax` takes all the threads that a block has.
const LONG: usize = 8192;

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
        let threads = if n >= LONG { 1024 } else { 256 };
        k.output(&outputs[0]).rows(x).word(n).run([rows, 1, 1], [threads, 1], 256)
    }
}

impl Kernel<TopK> for Cuda {
    fn run(&self, op: &TopK, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let x = &inputs[0];
        let [rows, n] = rows_of(x.layout);
        if op.k == 0 {
            return Ok(());
        }
        let name = TopK::NAME;
        let parts = n.div_ceil(SHARE);
        if parts > 1 && op.k <= MOST && rows < 1 << 16 {
            let candidates = rows * parts * op.k * 4;
            let (keys, places) = (self.temporary(name, candidates)?, self.temporary(name, candidates)?);
            let mut k = self.kernel(name, format!("top_k_split_{}", x.dtype), name);
            k.buffer(&keys).buffer(&places).rows(x).words(&[n, op.k]);
            k.run([parts, rows, 1], [256, 1], 256)?;
            let mut k = self.kernel(name, format!("top_k_merge_{}", x.dtype), name);
            k.output(&outputs[0]).output(&outputs[1]).rows(x).buffer(&keys).buffer(&places);
            return k.words(&[parts * op.k, op.k]).run_rows(rows);
        }
        let mut k = self.kernel(name, typed(name, x.dtype), name);
        k.output(&outputs[0]).output(&outputs[1]).rows(x).words(&[n, op.k]).run_rows(rows)
    }
}
