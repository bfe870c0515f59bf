//! Rows by their ids: `embedding`, its gradient, `scatter_rows`.

use super::Cuda;
use super::cast::typed;
use super::launch::address;
use crate::fault::Fault;
use crate::ops::{Embedding, EmbeddingGrad, ScatterRows};
use crate::{Input, Kernel, Op, Output, Result};

/// Columns of a block of `embedding_grad`, and its shared memory.
const GRAD_COLUMNS: usize = 1024;
const GRAD_SHARED: usize = 1312;

impl Kernel<Embedding> for Cuda {
    fn run(&self, _: &Embedding, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let name = Embedding::NAME;
        let (table, ids, y) = (&inputs[0], &inputs[1], &outputs[0]);
        let (rows, n) = (table.layout.dims[0], table.layout.dims[1]);
        let (count, dense) = (ids.layout.count(), self.dense(name, ids)?);
        let mut k = self.kernel(name, format!("embedding_{}", y.dtype.size()), name);
        k.output(y).at(address(table.buffer, table.layout, table.dtype)).at(dense.address).status();
        k.words(&[count, rows, n, table.layout.strides[0], table.layout.strides[1]]);
        k.fault(Fault::Id { op: name, dims: ids.layout.dims, rows }).run_warps(count)
    }
}

impl Kernel<EmbeddingGrad> for Cuda {
    fn run(
        &self,
        op: &EmbeddingGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = EmbeddingGrad::NAME;
        let (ids, g, y) = (&inputs[0], &inputs[1], &outputs[0]);
        let (count, n) = (ids.layout.count(), y.layout.dims[1]);
        self.clear(y.buffer)?;
        let (dense, grad) = (self.dense(name, ids)?, self.dense(name, g)?);
        let mut k = self.kernel(name, typed(name, y.dtype), name);
        k.output(y).at(dense.address).at(grad.address).status().words(&[count, op.rows, n]);
        k.fault(Fault::Id { op: name, dims: ids.layout.dims, rows: op.rows });
        k.run([count, n.div_ceil(GRAD_COLUMNS).max(1), 1], [256, 1], GRAD_SHARED)
    }
}

impl Kernel<ScatterRows> for Cuda {
    fn run(
        &self,
        _: &ScatterRows,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = ScatterRows::NAME;
        let [base, replacements, index] = inputs else { unreachable!("three inputs by the rule") };
        let y = &outputs[0];
        let (rows, n, count) = (base.layout.dims[0], base.layout.dims[1], index.layout.count());
        // Of each row, the number of its replacement from 1 on.
        let source = self.zeros(name, rows * 4)?;
        let dense = self.dense(name, index)?;
        let mut k = self.kernel(name, "scatter_rows_index", name);
        k.buffer(&source).at(dense.address).status().words(&[count, rows]);
        k.fault(Fault::Id { op: name, dims: index.layout.dims, rows }).fault(Fault::Twice { op: name });
        k.run_elements(count)?;
        if n == 0 {
            return Ok(());
        }
        let mut k = self.kernel(name, format!("scatter_rows_{}", y.dtype.size()), name);
        k.output(y).rows(base).rows(replacements).buffer(&source).word(n).run_rows(rows)
    }
}
