//! Launching a kernel: which tensors it binds, its parameters, its pipeline.

use ::wgpu;

use super::Wgpu;
use super::buffer::WgpuBuffer;
use super::source::{Access, Binding, Value, Variant, WORKGROUP};
use super::view::View;
use crate::fault::Fault;
use crate::{DType, Error, Input, Layout, Output, Result};

/// Most workgroups along one dimension of a dispatch (WebGPU's default limit).
const MOST_GROUPS: u32 = 65_535;
/// Bindings start at multiples of this (WebGPU's default limit; no device asks for more).
const BIND_ALIGN: usize = 256;

/// A tensor bound to a kernel.
struct Bound<'a> {
    name: &'static str,
    buffer: &'a WgpuBuffer,
    offset: u64,
    size: u64,
}

/// A launch that is being put together. Parameters are pushed in the order of the kernel's `struct Params`.
pub(super) struct Launch<'a> {
    gpu: &'a Wgpu,
    kernel: &'static str,
    op: &'static str,
    variant: Variant,
    bound: Vec<Bound<'a>>,
    params: Vec<u8>,
    faults: Vec<(usize, Fault)>,
    work: u64,
}

impl Wgpu {
    /// A launch of `shaders/<kernel>.wgsl` for operation `op`.
    pub(super) fn kernel<'a>(&'a self, kernel: &'static str, op: &'static str) -> Launch<'a> {
        let mut variant = Variant::default();
        variant.constants.insert("SUBGROUPS", self.facts.subgroup_variants().into());
        Launch {
            gpu: self,
            kernel,
            op,
            variant,
            bound: Vec::new(),
            params: Vec::new(),
            faults: Vec::new(),
            work: 0,
        }
    }
}

impl<'a> Launch<'a> {
    /// Value of a `#const`.
    pub(super) fn constant(&mut self, name: &'static str, value: impl Into<Value>) -> &mut Self {
        self.variant.constants.insert(name, value.into());
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
        let first = start * size / BIND_ALIGN * BIND_ALIGN;
        let bytes = ((start + span.max(1)) * size).next_multiple_of(4) - first;
        if bytes as u64 > self.gpu.limits.max_storage_buffer_binding_size {
            return Err(Error::Device(format!(
                "wgpu: {}: {name} needs a binding of {bytes} bytes; {} binds at most {}",
                self.op, self.gpu.facts.name, self.gpu.limits.max_storage_buffer_binding_size
            )));
        }
        let access = if size == 4 && access == Access::Shared { Access::Whole } else { access };
        self.variant.tensors.insert(name, (dtype, access));
        let (offset, size) = (first as u64, bytes as u64);
        // A view of nothing may point at the end.
        let offset = if offset + size > buffer.raw().size() { 0 } else { offset };
        let size = size.min(buffer.raw().size() - offset);
        self.bound.push(Bound { name, buffer, offset, size });
        Ok(start - offset as usize / dtype.size())
    }

    /// Reads the bound tensor `name`, of which elements from `start` on are taken, 16 bytes at a time where its rows,
    /// `strides` apart, all begin at such places.
    pub(super) fn wide(&mut self, name: &'static str, start: usize, strides: &[usize]) -> bool {
        let Some(&(dtype, Access::Read)) = self.variant.tensors.get(name) else { return false };
        let lanes = 16 / dtype.size();
        let Some(bound) = self.bound.iter_mut().find(|b| b.name == name) else { return false };
        let size = bound.size.next_multiple_of(16);
        let fits = bound.offset + size <= bound.buffer.raw().size();
        if !fits || !start.is_multiple_of(lanes) || strides.iter().any(|s| !s.is_multiple_of(lanes)) {
            return false;
        }
        bound.size = size;
        self.variant.wide.insert(name);
        true
    }

    /// Binds a tensor for reading; returns its layout as the kernel sees it.
    pub(super) fn read(&mut self, name: &'static str, x: &Input<'a, Wgpu>) -> Result<Layout> {
        let mut layout = *x.layout;
        layout.offset = self.bind(name, x.buffer, x.dtype, Access::Read, layout.offset, layout.span())?;
        Ok(layout)
    }

    /// As [`Self::read`], and pushes its view.
    pub(super) fn input(&mut self, name: &'static str, x: &Input<'a, Wgpu>) -> Result<&mut Self> {
        let view = View::new(&self.read(name, x)?);
        self.push_view(name, &view);
        Ok(self)
    }

    fn push_view(&mut self, name: &'static str, view: &View) {
        if view.dense() {
            self.variant.dense.insert(name);
        }
        self.view(view);
    }

    /// Binds a fresh, contiguous output whose words have one writer each.
    pub(super) fn output(&mut self, name: &'static str, y: &Output<'a, Wgpu>) -> Result<&mut Self> {
        self.bind(name, y.buffer, y.dtype, Access::Whole, 0, y.layout.count())?;
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
        self.push_view(name, &View::new(&layout));
        Ok(self)
    }

    /// Binds a table of 256 f32 that lies at element `start`, a multiple of 64, of a buffer.
    pub(super) fn table(&mut self, name: &'static str, buffer: &'a WgpuBuffer, start: usize) -> &mut Self {
        self.variant.tensors.insert(name, (DType::F32, Access::Uniform));
        self.bound.push(Bound { name, buffer, offset: 4 * start as u64, size: 1024 });
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
                self.op
            )));
        }
        let gpu = self.gpu;
        let kernel = gpu.pipelines.get(self.kernel, std::mem::take(&mut self.variant))?;
        let size = self.params.len().next_multiple_of(16).max(16);
        self.params.resize(size, 0);
        let mut stream = gpu.stream.lock().unwrap();
        for &(at, fault) in &self.faults {
            let number = stream.watch(fault);
            self.params[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        let params_at = stream.stage(&self.params)?;
        let batch = stream.batch();
        let entries: Vec<_> = (0..)
            .zip(&kernel.bindings)
            .map(|(binding, kind)| {
                let (buffer, offset, size) = match kind {
                    Binding::Params => (stream.params(), 0, size as u64),
                    Binding::Fault => (stream.fault_buffer(), 0, stream.fault_buffer().size()),
                    Binding::Tensor { name, .. } => {
                        let bound = self.bound.iter().find(|b| b.name == name).expect("bound by `assemble`");
                        bound.buffer.used_in(batch);
                        (bound.buffer.raw(), bound.offset, bound.size)
                    }
                };
                let size = std::num::NonZeroU64::new(size);
                wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size }),
                }
            })
            .collect();
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(self.op),
            layout: &kernel.layout,
            entries: &entries,
        });
        let invocations = grid.iter().map(|&n| u64::from(n)).product::<u64>() * u64::from(WORKGROUP);
        let work = if self.work == 0 { invocations } else { self.work };
        stream.launch(self.op, &kernel.pipeline, &group, params_at, grid, work)?;
        if gpu.sync {
            let shapes: Vec<String> =
                self.bound.iter().map(|b| format!("{} ({} bytes)", b.name, b.size)).collect();
            stream
                .finish()
                .map_err(|e| Error::Device(format!("{} with {}: {e}", self.op, shapes.join(", "))))?;
        }
        Ok(())
    }
}
