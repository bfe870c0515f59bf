//! Launching a kernel: which tensors it binds, its parameters, its pipeline.

use std::num::NonZeroU64;
use std::sync::Arc;

use ::wgpu;

use super::Wgpu;
use super::buffer::WgpuBuffer;
use super::matmul::Machine;
use super::pipelines::Built;
use super::problems::watched;
use super::recorded::{Key, Launched};
use super::source::{Access, Binding, Value, Variant, WORKGROUP};
use super::stream::Stream;
use super::view::View;
use crate::fault::Fault;
use crate::{DType, Dims, Error, Input, Layout, Output, Result};

/// Most workgroups along one dimension of a dispatch (WebGPU's default limit).
const MOST_GROUPS: u32 = 65_535;
/// Bindings start at multiples of this (WebGPU's default limit; no device asks for more).
pub(super) const BIND_ALIGN: usize = 256;

/// A tensor bound to a kernel.
struct Bound<'a> {
    name: &'static str,
    buffer: &'a WgpuBuffer,
    dtype: DType,
    access: Access,
    /// Read 16 bytes at a time.
    wide: bool,
    /// Its view is contiguous.
    dense: bool,
    offset: u64,
    size: u64,
    /// Its shape, or how many elements may be reached: for messages.
    dims: Option<Dims>,
    span: usize,
}

/// A launch that is being put together. Parameters are pushed in the order of the kernel's `struct Params`.
pub(super) struct Launch<'a> {
    gpu: &'a Wgpu,
    kernel: &'static str,
    op: &'static str,
    /// In the order in which they were set: the last of a name counts.
    constants: Vec<(&'static str, Value)>,
    bound: Vec<Bound<'a>>,
    params: Vec<u8>,
    faults: Vec<(usize, Fault)>,
    /// Where the first row of tiles stands among the parameters.
    row_tile: Option<usize>,
    work: u64,
}

/// A name as a word of a key: where the text lies, which is never freed.
fn word_of(name: &'static str) -> u64 {
    // Of two texts that begin at one address the lengths differ.
    (name.as_ptr() as u64) ^ ((name.len() as u64) << 56)
}

impl Wgpu {
    /// A launch of `shaders/<kernel>.wgsl` for operation `op`.
    pub(super) fn kernel<'a>(&'a self, kernel: &'static str, op: &'static str) -> Launch<'a> {
        let mut constants = Vec::with_capacity(8);
        constants.push(("SUBGROUPS", self.facts.subgroup_variants().into()));
        Launch {
            gpu: self,
            kernel,
            op,
            constants,
            bound: Vec::with_capacity(8),
            params: Vec::with_capacity(256),
            faults: Vec::new(),
            row_tile: None,
            work: 0,
        }
    }
}

impl<'a> Launch<'a> {
    /// Value of a `#const`.
    pub(super) fn constant(&mut self, name: &'static str, value: impl Into<Value>) -> &mut Self {
        self.constants.push((name, value.into()));
        self
    }

    /// A `u32` parameter.
    pub(super) fn word(&mut self, word: usize) -> Result<&mut Self> {
        let word = u32::try_from(word).map_err(|_| {
            Error::Device(format!("wgpu: {}: {word} elements are more than a kernel can count", self.op))
        })?;
        self.params.extend_from_slice(&word.to_le_bytes());
        Ok(self)
    }

    /// An `i32` parameter.
    pub(super) fn signed(&mut self, x: i32) -> &mut Self {
        self.params.extend_from_slice(&x.to_le_bytes());
        self
    }

    /// An `f32` parameter.
    pub(super) fn float(&mut self, x: f32) -> &mut Self {
        self.params.extend_from_slice(&x.to_le_bytes());
        self
    }

    /// A `View` parameter. Views come first: they are aligned to 16 bytes.
    pub(super) fn view(&mut self, view: &View) -> &mut Self {
        assert!(self.params.len().is_multiple_of(16), "views come before other parameters");
        self.params.extend(view.words().iter().flat_map(|w| w.to_le_bytes()));
        self
    }

    /// The number under which the kernel reports `fault`, as a parameter.
    pub(super) fn fault(&mut self, fault: Fault) -> &mut Self {
        self.faults.push((self.params.len(), fault));
        self.params.extend_from_slice(&[0; 4]);
        self
    }

    /// The row of tiles that the grid begins with, as a parameter: [`Self::set_row_tile`] sets it.
    pub(super) fn row_tile(&mut self) -> Result<&mut Self> {
        self.row_tile = Some(self.params.len());
        self.word(0)
    }

    pub(super) fn set_row_tile(&mut self, first: u32) {
        let at = self.row_tile.expect("a product's kernel has the parameter");
        self.params[at..at + 4].copy_from_slice(&first.to_le_bytes());
    }

    pub(super) fn machine(&self) -> Machine {
        self.gpu.machine
    }

    /// What the launch computes, in multiply-adds or loads; without it, what its grid could.
    pub(super) fn work(&mut self, work: usize) -> &mut Self {
        self.work = work as u64;
        self
    }

    /// Binds the part of a buffer that `span` elements from `start` on lie in; returns `start` counted from the
    /// binding's own beginning.
    pub(super) fn bind(
        &mut self,
        name: &'static str,
        buffer: &'a WgpuBuffer,
        dtype: DType,
        access: Access,
        start: usize,
        span: usize,
    ) -> Result<usize> {
        let size = dtype.size();
        let most = self.gpu.limits.max_storage_buffer_binding_size;
        // Whole where that is allowed: a part that moves, as the end of a cache does, needs no binding of its own.
        let (offset, bytes) = if buffer.raw().size() <= most {
            (0, buffer.raw().size())
        } else {
            let first = start * size / BIND_ALIGN * BIND_ALIGN;
            let bytes = ((start + span.max(1)) * size).next_multiple_of(4) - first;
            // A view of nothing may point at the end.
            let first = if (first + bytes) as u64 > buffer.raw().size() { 0 } else { first as u64 };
            (first, (bytes as u64).min(buffer.raw().size() - first))
        };
        if bytes > most {
            return Err(Error::Device(format!(
                "wgpu: {}: {name} needs a binding of {bytes} bytes; {} binds at most {most}",
                self.op, self.gpu.facts.name
            )));
        }
        let access = if size == 4 && access == Access::Shared { Access::Whole } else { access };
        let (wide, dense, dims) = (false, false, None);
        self.bound.push(Bound { name, buffer, dtype, access, wide, dense, offset, size: bytes, dims, span });
        Ok(start - offset as usize / size)
    }

    /// Reads the bound tensor `name`, of which elements from `start` on are taken, 16 bytes at a time where its rows,
    /// `strides` apart, all begin at such places.
    pub(super) fn wide(&mut self, name: &'static str, start: usize, strides: &[usize]) -> bool {
        let of_name = |b: &&mut Bound<'_>| b.name == name && b.access == Access::Read;
        let Some(bound) = self.bound.iter_mut().find(of_name) else { return false };
        let lanes = 16 / bound.dtype.size();
        let size = bound.size.next_multiple_of(16);
        let fits = bound.offset + size <= bound.buffer.raw().size();
        if !fits || !start.is_multiple_of(lanes) || strides.iter().any(|s| !s.is_multiple_of(lanes)) {
            return false;
        }
        (bound.size, bound.wide) = (size, true);
        true
    }

    /// Binds a tensor for reading; returns its layout as the kernel sees it.
    pub(super) fn read(&mut self, name: &'static str, x: &Input<'a, Wgpu>) -> Result<Layout> {
        let mut layout = *x.layout;
        layout.offset = self.bind(name, x.buffer, x.dtype, Access::Read, layout.offset, layout.span())?;
        self.shape(x.layout.dims);
        Ok(layout)
    }

    /// As [`Self::read`], and pushes its view.
    pub(super) fn input(&mut self, name: &'static str, x: &Input<'a, Wgpu>) -> Result<&mut Self> {
        let view = View::new(&self.read(name, x)?);
        Ok(self.push_view(&view))
    }

    /// The shape of what was bound last.
    fn shape(&mut self, dims: Dims) {
        if let Some(bound) = self.bound.last_mut() {
            bound.dims = Some(dims);
        }
    }

    /// The view of what was bound last.
    fn push_view(&mut self, view: &View) -> &mut Self {
        if let Some(bound) = self.bound.last_mut() {
            bound.dense = view.dense();
        }
        self.view(view)
    }

    /// Binds a fresh, contiguous output whose words have one writer each.
    pub(super) fn output(&mut self, name: &'static str, y: &Output<'a, Wgpu>) -> Result<&mut Self> {
        self.bind(name, y.buffer, y.dtype, Access::Whole, 0, y.layout.count())?;
        self.shape(y.layout.dims);
        Ok(self)
    }

    /// As [`Self::output`] where words may have several writers, unless `aligned`.
    pub(super) fn output_by_rows(
        &mut self,
        name: &'static str,
        y: &Output<'a, Wgpu>,
        aligned: bool,
    ) -> Result<&mut Self> {
        let access = if aligned { Access::Whole } else { Access::Shared };
        self.bind(name, y.buffer, y.dtype, access, 0, y.layout.count())?;
        self.shape(y.layout.dims);
        Ok(self)
    }

    /// Binds an in-place target, which holds its old values, and pushes its view.
    pub(super) fn target(&mut self, name: &'static str, y: &Output<'a, Wgpu>) -> Result<&mut Self> {
        self.target_view(name, y.buffer, y.dtype, y.layout)
    }

    /// As [`Self::target`] for a view of a target.
    pub(super) fn target_view(
        &mut self,
        name: &'static str,
        buffer: &'a WgpuBuffer,
        dtype: DType,
        layout: &Layout,
    ) -> Result<&mut Self> {
        let lanes = 4 / dtype.size() as u32;
        let mut layout = *layout;
        let aligned = View::new(&layout).word_aligned(lanes);
        let access = if aligned { Access::Whole } else { Access::Shared };
        layout.offset = self.bind(name, buffer, dtype, access, layout.offset, layout.span())?;
        self.shape(layout.dims);
        Ok(self.push_view(&View::new(&layout)))
    }

    /// Binds a table of 256 f32 that lies at element `start`, a multiple of 64, of a buffer.
    pub(super) fn table(&mut self, name: &'static str, buffer: &'a WgpuBuffer, start: usize) -> &mut Self {
        self.bound.push(Bound {
            name,
            buffer,
            dtype: DType::F32,
            access: Access::Uniform,
            wide: false,
            dense: false,
            offset: 4 * start as u64,
            size: 1024,
            dims: None,
            span: 256,
        });
        self
    }

    /// Binds an intermediate buffer, contiguous from its start.
    pub(super) fn scratch(
        &mut self,
        name: &'static str,
        buffer: &'a WgpuBuffer,
        dtype: DType,
        access: Access,
    ) -> Result<&mut Self> {
        self.bind(name, buffer, dtype, access, 0, buffer.len() / dtype.size())?;
        Ok(self)
    }

    /// Launches workgroups for `items` things, `per_group` to each.
    pub(super) fn run_linear(&mut self, items: usize, per_group: usize) -> Result<()> {
        let groups = items.div_ceil(per_group);
        let fold = groups.div_ceil(MOST_GROUPS as usize);
        if fold > MOST_GROUPS as usize {
            return Err(Error::Device(format!("wgpu: {}: {items} are too many for one launch", self.op)));
        }
        self.run([groups.div_ceil(fold.max(1)) as u32, fold as u32, 1])
    }

    /// Launches an elementwise kernel over `count` elements of `lanes` a word.
    pub(super) fn run_elements(&mut self, count: usize, lanes: usize) -> Result<()> {
        self.run_linear(count, WORKGROUP as usize * lanes)
    }

    /// Launches a grid of workgroups; nothing if it is empty.
    pub(super) fn run(&mut self, grid: [u32; 3]) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        if grid.iter().any(|&n| n > MOST_GROUPS) {
            return Err(Error::Device(format!(
                "wgpu: {}: a grid of {grid:?} workgroups is too large",
                self.text()
            )));
        }
        let gpu = self.gpu;
        let size = self.params.len().next_multiple_of(16).max(16);
        self.params.resize(size, 0);
        let mut stream = gpu.stream.lock().unwrap();
        stream.alive(|| self.text())?;
        let key = self.key();
        let Launched { kernel, group } = if let Some(launched) = gpu.recorded.find(&key) {
            launched
        } else {
            let launched = self.record(&stream)?;
            gpu.recorded.keep(key, launched.clone());
            launched
        };
        for &(at, fault) in &self.faults {
            let number = stream.watch(fault);
            self.params[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let params_at = stream.stage(&self.params)?;
        let batch = stream.batch();
        self.bound.iter().for_each(|bound| bound.buffer.used_in(batch));
        let invocations = grid.iter().map(|&n| u64::from(n)).product::<u64>() * u64::from(WORKGROUP);
        let work = if self.work == 0 { invocations } else { self.work };
        stream.launch(self.op, &kernel.pipeline, &group, params_at, grid, work)?;
        if gpu.sync {
            stream.finish().map_err(|e| Error::Device(format!("{}: {e}", self.text())))?;
        }
        Ok(())
    }

    /// What tells this launch from others: all but its parameters and grid.
    fn key(&self) -> Key {
        let mut words = Vec::with_capacity(2 + 2 * self.constants.len() + 5 * self.bound.len());
        words.push(word_of(self.kernel));
        words.push(((self.params.len() as u64) << 32) | self.constants.len() as u64);
        for &(name, value) in &self.constants {
            let value = match value {
                Value::Number(n) => u64::from(n),
                Value::Flag(flag) => (1 << 32) | u64::from(flag),
            };
            words.extend([word_of(name), value]);
        }
        for b in &self.bound {
            let flags = (u64::from(b.wide) << 1) | u64::from(b.dense);
            words.extend([word_of(b.name), ((b.dtype as u64) << 16) | ((b.access as u64) << 8) | flags]);
        }
        let mut key = Key::new(words);
        self.bound.iter().for_each(|b| key.buffer(b.buffer.id(), b.offset, b.size));
        key
    }

    fn variant(&self) -> Variant {
        let names =
            |flag: fn(&Bound<'_>) -> bool| self.bound.iter().filter(|b| flag(b)).map(|b| b.name).collect();
        Variant {
            tensors: self.bound.iter().map(|b| (b.name, (b.dtype, b.access))).collect(),
            constants: self.constants.iter().copied().collect(),
            dense: names(|b| b.dense),
            wide: names(|b| b.wide),
        }
    }

    /// The kernel, and the buffers bound to it.
    fn record(&self, stream: &Stream) -> Result<Launched> {
        let told = |e: Error| match e {
            Error::Device(text) => Error::Device(format!("{text} (for {})", self.text())),
            e => e,
        };
        let kernel = self.gpu.pipelines.get(self.kernel, self.variant()).map_err(told)?;
        let group = self.bind_group(stream, &kernel)?;
        Ok(Launched { kernel, group })
    }

    fn bind_group(&self, stream: &Stream, kernel: &Arc<Built>) -> Result<wgpu::BindGroup> {
        let entries: Vec<_> = (0..)
            .zip(&kernel.bindings)
            .map(|(binding, kind)| {
                let (buffer, offset, size) = match kind {
                    Binding::Params => (stream.params(), 0, self.params.len() as u64),
                    Binding::Fault => (stream.fault_buffer(), 0, stream.fault_buffer().size()),
                    Binding::Tensor { name, .. } => {
                        let bound = self.bound.iter().find(|b| b.name == name).expect("bound by `assemble`");
                        (bound.buffer.raw(), bound.offset, bound.size)
                    }
                };
                let size = NonZeroU64::new(size);
                wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size }),
                }
            })
            .collect();
        let descriptor =
            wgpu::BindGroupDescriptor { label: Some(self.op), layout: &kernel.layout, entries: &entries };
        match watched(&self.gpu.device, || self.gpu.device.create_bind_group(&descriptor)) {
            (group, None) => Ok(group),
            (_, Some(e)) => Err(Error::Device(format!("wgpu: {}: {e}", self.text()))),
        }
    }

    /// The operation with the types and shapes of its tensors, for messages.
    fn text(&self) -> String {
        let bound: Vec<String> = self
            .bound
            .iter()
            .map(|b| match &b.dims {
                Some(dims) => format!("{} {} {dims:?}", b.name, b.dtype),
                None => format!("{} {} [{}]", b.name, b.dtype, b.span),
            })
            .collect();
        format!("{} of {}", self.op, bound.join(", "))
    }
}

#[cfg(test)]
mod tests;
