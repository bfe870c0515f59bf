use super::Wgpu;
use super::source::Access;
use crate::fault::Fault;
use crate::ops::{Embedding, EmbeddingGrad, ScatterRows};
use crate::{DType, Error, Input, Kernel, Op, Output, Result};

impl Kernel<Embedding> for Wgpu {
    fn run(&self, _: &Embedding, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (table, ids, y) = (&inputs[0], &inputs[1], &outputs[0]);
        let (all, n, count) = (table.layout.dims[0], table.layout.dims[1], y.layout.count());
        let (down, step) = (table.layout.strides[0], table.layout.strides[1]);
        // A table that cannot be bound whole goes by ranges of rows.
        let most = self.limits.max_storage_buffer_binding_size as usize / table.dtype.size();
        let whole = table.layout.span() + 256 <= most;
        let rows = if whole { all } else { (most - 256) / down.max(1) };
        if !whole && (!n.is_multiple_of(y.lanes()) || rows == 0 || step != 1) {
            return Err(Error::Device(format!(
                "wgpu: {}: a table {:?} of {} elements apart cannot be bound in parts",
                Embedding::NAME,
                table.layout.dims,
                step
            )));
        }
        let fault = Fault::Id { op: Embedding::NAME, dims: ids.layout.dims, rows: all };
        let mut low = 0;
        loop {
            let rows = rows.min(all - low);
            let part = if whole { *table.layout } else { table.layout.narrow(0, low, rows)? };
            let mut k = self.kernel(Embedding::NAME, Embedding::NAME);
            k.constant("PART", !whole).input("ids", ids)?;
            let table = Input { layout: &part, dtype: table.dtype, buffer: table.buffer };
            let at = k.read("table", &table)?.offset;
            k.output("y", y)?;
            for word in [count, n, low, rows, all, at, down, step] {
                k.word(word)?;
            }
            k.fault(fault).run_elements(count, y.lanes())?;
            low += rows;
            if low >= all {
                return Ok(());
            }
        }
    }
}

impl Kernel<EmbeddingGrad> for Wgpu {
    fn run(
        &self,
        op: &EmbeddingGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let (ids, g, y) = (&inputs[0], &inputs[1], &outputs[0]);
        let (places, n) = (ids.layout.count(), y.layout.dims[1]);
        self.stream.lock().unwrap().clear(y.buffer);
        let mut k = self.kernel(EmbeddingGrad::NAME, EmbeddingGrad::NAME);
        k.input("ids", ids)?.input("g", g)?.output_by_rows("y", y, n.is_multiple_of(y.lanes()))?;
        k.word(places)?.word(n)?.word(op.rows)?;
        k.fault(Fault::Id { op: EmbeddingGrad::NAME, dims: ids.layout.dims, rows: op.rows });
        k.work(places * (places + n)).run_linear(places, 1)
    }
}

impl Kernel<ScatterRows> for Wgpu {
    fn run(
        &self,
        _: &ScatterRows,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = ScatterRows::NAME;
        let [base, rows, index] = inputs else { unreachable!("three inputs by the rule") };
        let y = &outputs[0];
        let (all, n) = (base.layout.dims[0], base.layout.dims[1]);
        let source = self.temporary(name, all * 4)?;
        self.stream.lock().unwrap().clear(&source);
        let replaced = index.layout.count();
        let mut k = self.kernel("scatter_rows_index", name);
        k.input("index", index)?.scratch("source", &source, DType::U32, Access::Whole)?;
        k.word(replaced)?.word(all)?;
        k.fault(Fault::Id { op: name, dims: index.layout.dims, rows: all });
        k.fault(Fault::Twice { op: name }).work(replaced * replaced);
        k.run_elements(replaced, 1)?;
        let mut k = self.kernel(name, name);
        k.input("base", base)?.input("rows", rows)?;
        k.scratch("source", &source, DType::U32, Access::Read)?.output("y", y)?;
        k.word(y.layout.count())?.word(n)?;
        k.run_elements(y.layout.count(), y.lanes())
    }
}
