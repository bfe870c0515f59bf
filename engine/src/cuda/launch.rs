//! Putting a launch together by the convention of `cuda/README.md`: pointers, layouts of strided operands, scalars.

use std::borrow::Cow;

use super::graphs::Shape;
use super::view::{Heads, Rows, View};
use super::{Cuda, CudaBuffer};
use crate::fault::Fault;
use crate::{DType, Dims, Error, Input, Layout, Output, Result};

/// Threads of a block of an elementwise kernel, and elements that each block should have at least.
const ELEMENTS: [usize; 2] = [256, 1024];
/// Blocks for each multiprocessor that an elementwise kernel has at most; its threads stride.
const BLOCKS_PER_MULTIPROCESSOR: usize = 32;
/// Warps of a block of a kernel that gives each a thing.
const WARPS: usize = 4;
/// Largest grid: the driver's limits.
const MOST_BLOCKS: [usize; 3] = [0x7fff_ffff, 65_535, 65_535];

/// A launch that is being put together. What does not fit is remembered and is the error of `run`.
pub(super) struct Launch<'a> {
    gpu: &'a Cuda,
    source: &'static str,
    op: &'static str,
    entry: Cow<'static, str>,
    pointers: Vec<u64>,
    /// Layouts, each from a word of its own on, and how many 32-bit words each has.
    layouts: Vec<u64>,
    lengths: Vec<usize>,
    scalars: Vec<u32>,
    faults: Vec<(usize, Fault)>,
    /// For messages.
    tensors: Vec<(DType, Dims)>,
    refused: Option<Error>,
}

impl Cuda {
    /// A launch of `entry` of `cuda/<source>.cu` for operation `op`.
    pub(super) fn kernel(
        &self,
        source: &'static str,
        entry: impl Into<Cow<'static, str>>,
        op: &'static str,
    ) -> Launch<'_> {
        Launch {
            gpu: self,
            source,
            op,
            entry: entry.into(),
            pointers: Vec::with_capacity(12),
            layouts: Vec::new(),
            lengths: Vec::new(),
            scalars: Vec::with_capacity(12),
            faults: Vec::new(),
            tensors: Vec::new(),
            refused: None,
        }
    }
}

/// Where a view begins.
pub(super) fn address(buffer: &CudaBuffer, layout: &Layout, dtype: DType) -> u64 {
    buffer.address() + (layout.offset * dtype.size()) as u64
}

impl Launch<'_> {
    /// Pointer to memory that the launcher knows.
    pub(super) fn at(&mut self, address: u64) -> &mut Self {
        self.pointers.push(address);
        self
    }

    /// A scratch buffer or a table.
    pub(super) fn buffer(&mut self, buffer: &CudaBuffer) -> &mut Self {
        self.at(buffer.address())
    }

    /// No pointer.
    pub(super) fn null(&mut self) -> &mut Self {
        self.at(0)
    }

    /// A fresh output, contiguous.
    pub(super) fn output(&mut self, y: &Output<'_, Cuda>) -> &mut Self {
        self.tensors.push((y.dtype, y.layout.dims));
        self.at(address(y.buffer, y.layout, y.dtype))
    }

    /// An input with its `View`.
    pub(super) fn view(&mut self, x: &Input<'_, Cuda>) -> &mut Self {
        self.strided(x.buffer, x.dtype, x.layout)
    }

    /// An in-place target with its `View`.
    pub(super) fn target(&mut self, y: &Output<'_, Cuda>) -> &mut Self {
        self.strided(y.buffer, y.dtype, y.layout)
    }

    fn strided(&mut self, buffer: &CudaBuffer, dtype: DType, layout: &Layout) -> &mut Self {
        self.tensors.push((dtype, layout.dims));
        self.fits(layout.span());
        self.at(address(buffer, layout, dtype)).layout(&View::new(layout).words())
    }

    /// An input `[rows…, n]` with its `Rows`.
    pub(super) fn rows(&mut self, x: &Input<'_, Cuda>) -> &mut Self {
        self.tensors.push((x.dtype, x.layout.dims));
        self.fits(x.layout.span());
        self.at(address(x.buffer, x.layout, x.dtype)).layout(&Rows::new(x.layout).words())
    }

    /// An input `[B, S, H, D]`, D contiguous, with its `Heads`.
    pub(super) fn heads(&mut self, x: &Input<'_, Cuda>) -> &mut Self {
        self.tensors.push((x.dtype, x.layout.dims));
        self.fits(x.layout.span());
        self.at(address(x.buffer, x.layout, x.dtype)).layout(&Heads::new(x.layout).words())
    }

    /// A layout struct by its 32-bit words.
    pub(super) fn layout(&mut self, words: &[u32]) -> &mut Self {
        let pair = |pair: &[u32]| {
            let mut bytes = [0; 8];
            bytes[..4 * pair.len()].copy_from_slice(bytemuck::cast_slice(pair));
            u64::from_ne_bytes(bytes)
        };
        self.layouts.extend(words.chunks(2).map(pair));
        self.lengths.push(words.len());
        self
    }

    /// Kernels count in 32 bits.
    pub(super) fn fits(&mut self, n: usize) -> &mut Self {
        if u32::try_from(n).is_err() && self.refused.is_none() {
            let what = format!("cuda: {}: {n} elements are more than a kernel can count", self.op);
            self.refused = Some(Error::Device(what));
        }
        self
    }

    /// A `u32`.
    pub(super) fn word(&mut self, word: usize) -> &mut Self {
        self.fits(word);
        self.scalars.push(word as u32);
        self
    }

    /// Several `u32`.
    pub(super) fn words(&mut self, words: &[usize]) -> &mut Self {
        for &word in words {
            self.word(word);
        }
        self
    }

    /// An `i32`.
    pub(super) fn signed(&mut self, x: i32) -> &mut Self {
        self.scalars.push(x.cast_unsigned());
        self
    }

    /// An `f32`.
    pub(super) fn float(&mut self, x: f32) -> &mut Self {
        self.scalars.push(x.to_bits());
        self
    }

    /// The pointer to the status words.
    pub(super) fn status(&mut self) -> &mut Self {
        self.at(self.gpu.status)
    }

    /// The number under which the kernel reports `fault`, a `u32`.
    pub(super) fn fault(&mut self, fault: Fault) -> &mut Self {
        self.faults.push((self.scalars.len(), fault));
        self.word(0)
    }

    /// An elementwise kernel: rule E of the convention.
    pub(super) fn run_elements(&mut self, count: usize) -> Result<()> {
        let most = BLOCKS_PER_MULTIPROCESSOR * self.gpu.facts.multiprocessors.max(1) as usize;
        let blocks = count.div_ceil(ELEMENTS[1]).min(most);
        self.fits(count).run([blocks, 1, 1], [ELEMENTS[0] as u32, 1], 0)
    }

    /// A block for each row: rule R.
    pub(super) fn run_rows(&mut self, rows: usize) -> Result<()> {
        self.run([rows, 1, 1], [256, 1], 256)
    }

    /// A warp for each thing: rule W.
    pub(super) fn run_warps(&mut self, n: usize) -> Result<()> {
        self.run([n.div_ceil(WARPS), 1, 1], [32 * WARPS as u32, 1], 0)
    }

    /// What was launched, for messages.
    fn describe(&self, grid: [usize; 3]) -> String {
        let shapes: Vec<String> =
            self.tensors.iter().map(|(dtype, dims)| format!("{dtype}{dims:?}")).collect();
        format!("{} ({}, grid {grid:?}) on {}", self.op, self.entry, shapes.join(" "))
    }

    /// Launches a grid; nothing if it is empty.
    pub(super) fn run(&mut self, grid: [usize; 3], block: [u32; 2], shared: usize) -> Result<()> {
        if let Some(refused) = self.refused.take() {
            return Err(refused);
        }
        if grid.contains(&0) {
            return Ok(());
        }
        if grid.iter().zip(MOST_BLOCKS).any(|(&n, most)| n > most) {
            return Err(Error::Device(format!("cuda: {}: more blocks than a grid has", self.describe(grid))));
        }
        let function = self.gpu.modules.function(self.source, &self.entry)?;
        let lengths = std::iter::repeat_n(8, self.pointers.len())
            .chain(self.lengths.iter().map(|words| 4 * words))
            .chain(std::iter::repeat_n(4, self.scalars.len()));
        if !lengths.clone().eq(function.parameters.iter().map(|p| p.bytes)) {
            let given: Vec<usize> = lengths.collect();
            let takes: Vec<usize> = function.parameters.iter().map(|p| p.bytes).collect();
            return Err(Error::Device(format!(
                "cuda: {} takes arguments of {takes:?} bytes, not {given:?}",
                self.entry
            )));
        }
        let mut stream = self.gpu.stream.lock().unwrap();
        for &(at, fault) in &self.faults {
            self.scalars[at] = stream.watch(fault);
        }
        let mut words = vec![0_u64; function.words()];
        let block_of_arguments: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
        let mut rest = &self.layouts[..];
        let layouts = self.lengths.iter().map(|&words| {
            let (layout, after) = rest.split_at(words.div_ceil(2));
            rest = after;
            &bytemuck::cast_slice(layout)[..4 * words]
        });
        let values = (self.pointers.iter().map(bytemuck::bytes_of))
            .chain(layouts)
            .chain(self.scalars.iter().map(bytemuck::bytes_of));
        for (value, parameter) in values.zip(&function.parameters) {
            block_of_arguments[parameter.offset..parameter.offset + parameter.bytes].copy_from_slice(value);
        }
        let shape = Shape { grid: grid.map(|n| n as u32), block, shared: shared as u32 };
        // SAFETY: the arguments have the sizes of the kernel's parameters, compared above, and the meaning that `cuda/README.md` gives them;
        // pointers are of buffers that live until later commands of this stream reuse their memory.
        let launched = unsafe { stream.launch(self.op, &function, shape, &words) };
        let done = match launched {
            Ok(()) if self.gpu.sync => stream.finish(),
            Ok(()) => Ok(()),
            Err(e) => Err(e),
        };
        drop(stream);
        done.map_err(|e| match e {
            Error::Device(why) => Error::Device(format!("{}: {why}", self.describe(grid))),
            other => other,
        })
    }
}
