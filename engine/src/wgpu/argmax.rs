use super::Wgpu;
use super::source::Access;
use crate::ops::{Argmax, TopK};
use crate::{DType, Input, Kernel, Layout, Op, Output, Result};

/// Most elements that are looked for one by one; for more the rows are sorted.
const FEW: usize = 8;
/// Elements that a workgroup sorts.
const CHUNK: usize = 1024;

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

impl Wgpu {
    /// The first `k` of whole rows, sorted.
    fn sorted(
        &self,
        k: usize,
        [rows, n]: [usize; 2],
        x: &Input<'_, Self>,
        outputs: &[Output<'_, Self>],
    ) -> Result<()> {
        let size = n.next_power_of_two().max(CHUNK);
        let count = rows * size;
        let keys = self.temporary(TopK::NAME, 4 * count)?;
        let places = self.temporary(TopK::NAME, 4 * count)?;
        let chunks = |load: bool, stage: usize| -> Result<()> {
            let mut launch = self.kernel("top_k_sort", TopK::NAME);
            launch.constant("LOAD", load).input("x", x)?;
            launch.scratch("keys", &keys, DType::U32, Access::Whole)?;
            launch.scratch("places", &places, DType::U32, Access::Whole)?;
            launch.word(rows)?.word(n)?.word(size)?.word(stage)?.work(count * 64);
            launch.run_linear(count, CHUNK)
        };
        chunks(true, CHUNK)?;
        let mut stage = 2 * CHUNK;
        while stage <= size {
            let mut step = stage / 2;
            while step >= CHUNK {
                let mut launch = self.kernel("top_k_merge", TopK::NAME);
                launch.scratch("keys", &keys, DType::U32, Access::Whole)?;
                launch.scratch("places", &places, DType::U32, Access::Whole)?;
                launch.word(count / 2)?.word(size)?.word(stage)?.word(step)?;
                launch.run_elements(count / 2, 1)?;
                step /= 2;
            }
            chunks(false, stage)?;
            stage *= 2;
        }
        let mut launch = self.kernel("top_k_take", TopK::NAME);
        launch.input("x", x)?.scratch("places", &places, DType::U32, Access::Read)?;
        launch.output("values", &outputs[0])?.output("indices", &outputs[1])?;
        launch.word(rows * k)?.word(n)?.word(k)?.word(size)?;
        launch.run_elements(rows * k, 1)
    }
}

impl Kernel<TopK> for Wgpu {
    fn run(&self, op: &TopK, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let [rows, n] = rows_of(inputs[0].layout);
        if op.k == 0 {
            return Ok(());
        }
        if op.k > FEW {
            return self.sorted(op.k, [rows, n], &inputs[0], outputs);
        }
        let mut k = self.kernel(TopK::NAME, TopK::NAME);
        k.input("x", &inputs[0])?.output("values", &outputs[0])?.output("indices", &outputs[1])?;
        k.word(rows)?.word(n)?.word(op.k)?.work(rows * n * op.k);
        k.run_linear(rows, 1)
    }
}
