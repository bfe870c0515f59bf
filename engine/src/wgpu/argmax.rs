use super::source::Access;
use super::{Wgpu, WgpuBuffer};
use crate::ops::{Argmax, TopK};
use crate::{DType, Input, Kernel, Layout, Op, Output, Result};

/// Most elements that are looked for one by one.
const FEW: usize = 8;
/// Elements that a workgroup sorts.
const CHUNK: usize = 1024;
/// Most elements that are looked for among those of each chunk; for more the rows are sorted.
const SOME: usize = CHUNK / 2;

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
    /// The first `k` of each chunk, then of chunks of these, until one is left.
    fn by_chunks(
        &self,
        k: usize,
        [rows, n]: [usize; 2],
        x: &Input<'_, Self>,
        outputs: &[Output<'_, Self>],
    ) -> Result<()> {
        let mut old: Option<(WgpuBuffer, WgpuBuffer)> = None;
        let mut left = n;
        loop {
            let chunks = left.div_ceil(CHUNK);
            let bytes = 4 * rows * chunks * k;
            let kept = (self.temporary(TopK::NAME, bytes)?, self.temporary(TopK::NAME, bytes)?);
            let mut launch = self.kernel("top_k_chunks", TopK::NAME);
            launch.constant("LOAD", old.is_none()).input("x", x)?;
            if let Some((keys, places)) = &old {
                launch.scratch("old_keys", keys, DType::U32, Access::Read)?;
                launch.scratch("old_places", places, DType::U32, Access::Read)?;
            }
            launch.scratch("keys", &kept.0, DType::U32, Access::Whole)?;
            launch.scratch("places", &kept.1, DType::U32, Access::Whole)?;
            launch.word(rows)?.word(left)?.word(chunks)?.word(k)?.work(rows * chunks * CHUNK * 64);
            launch.run_linear(rows * chunks, 1)?;
            drop(launch);
            if chunks == 1 {
                return self.take(k, [rows, n, k], x, &kept.1, outputs);
            }
            left = chunks * k;
            old = Some(kept);
        }
    }

    /// The first `k` of rows of places that are `size` apart, and their values from `x`.
    fn take(
        &self,
        k: usize,
        [rows, n, size]: [usize; 3],
        x: &Input<'_, Self>,
        places: &WgpuBuffer,
        outputs: &[Output<'_, Self>],
    ) -> Result<()> {
        let mut launch = self.kernel("top_k_take", TopK::NAME);
        launch.input("x", x)?.scratch("places", places, DType::U32, Access::Read)?;
        launch.output("values", &outputs[0])?.output("indices", &outputs[1])?;
        launch.word(rows * k)?.word(n)?.word(k)?.word(size)?;
        launch.run_elements(rows * k, 1)
    }

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
        self.take(k, [rows, n, size], x, &places, outputs)
    }
}

impl Kernel<TopK> for Wgpu {
    fn run(&self, op: &TopK, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let [rows, n] = rows_of(inputs[0].layout);
        if op.k == 0 {
            return Ok(());
        }
        if op.k > FEW && op.k <= SOME {
            return self.by_chunks(op.k, [rows, n], &inputs[0], outputs);
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
