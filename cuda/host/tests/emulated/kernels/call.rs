//! Calling kernels by the convention of `cuda/README.md`.

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg};
use engine::{Application, BlockFormat, DType, Device, Layout, Tensor};

use crate::session::Session;

/// A strided view: sizes of 1 are gone, dimensions that continue each other are one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    sizes: [u32; 6],
    strides: [u32; 6],
    rank: u32,
}

/// A view of all dimensions but the last, and the stride of that.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    rows: View,
    step: u32,
}

/// Strides of `[B, S, H, D]`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    batch: u32,
    token: u32,
    head: u32,
}

/// Strides of `[B, S, H, D]` that lies anyhow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elements([u32; 4]);

/// Layout of a quantised tensor.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blocks {
    block: u32,
    nested_block: u32,
    offset: f32,
}

/// A weight of `linear_nf4_group`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Member {
    pointers: [u64; 6],
    blocks: Blocks,
    words: [u32; 3],
}

/// Up to four weights.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Group {
    pub(crate) members: [Member; 4],
}

impl Member {
    /// Result, parts of the weight, values of the codes, layout, and its rows with the blocks before.
    pub(crate) fn new(y: &On, parts: &[On], table: &On, format: &BlockFormat, sizes: [usize; 2]) -> Self {
        let part = |i: usize| parts.get(i).map_or(0, |part| part.address);
        let pointers = [y.address, part(0), part(1), part(2), part(3), table.address];
        Self { pointers, blocks: Blocks::of(format), words: [sizes[0] as u32, sizes[1] as u32, 0] }
    }
}

/// What `AdamW` multiplies with.
pub(crate) type Factors = [f32; 8];

macro_rules! parameters {
    ($($t:ty),*) => {$(
        // SAFETY: words without padding, as the kernels declare them.
        unsafe impl DeviceRepr for $t {}
    )*};
}
parameters!(View, Rows, Heads, Elements, Blocks, Group);

impl View {
    pub(crate) fn of(dims: &[usize], strides: &[usize]) -> Self {
        let mut view = Self { sizes: [1; 6], strides: [0; 6], rank: 0 };
        for (&size, &stride) in dims.iter().zip(strides).filter(|&(&size, _)| size != 1) {
            let (size, stride) = (size as u32, stride as u32);
            let next = view.rank as usize;
            if next > 0 && view.strides[next - 1] == size * stride {
                view.sizes[next - 1] *= size;
                view.strides[next - 1] = stride;
            } else {
                view.sizes[next] = size;
                view.strides[next] = stride;
                view.rank += 1;
            }
        }
        view.rank = view.rank.max(1);
        view
    }

    /// Of one dimension without gaps.
    pub(crate) fn dense(count: usize) -> Self {
        Self::of(&[count], &[1])
    }
}

impl Blocks {
    pub(crate) fn of(format: &BlockFormat) -> Self {
        let (nested_block, offset) = format.nested.map_or((0, 0.0), |n| (n.block as u32, n.offset));
        Self { block: format.block as u32, nested_block, offset }
    }
}

/// A tensor on the device, with the layout that it has on the CPU.
pub(crate) struct On {
    memory: CudaSlice<u8>,
    address: u64,
    pub(crate) layout: Layout,
    pub(crate) dtype: DType,
}

impl On {
    pub(crate) fn dims(&self) -> &[usize] {
        &self.layout.dims
    }

    pub(crate) fn count(&self) -> usize {
        self.layout.count()
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn name(&self) -> &'static str {
        self.dtype.name()
    }

    pub(crate) fn strides(&self) -> [u32; 6] {
        let mut strides = [0; 6];
        for (to, &stride) in strides.iter_mut().zip(self.layout.strides.iter()) {
            *to = stride as u32;
        }
        strides
    }

    /// Rows and row length.
    pub(crate) fn rows(&self) -> (usize, usize) {
        let (last, lead) = self.dims().split_last().expect("rows");
        (lead.iter().product(), *last)
    }
}

enum Arg {
    Pointer(u64),
    View(View),
    Rows(Rows),
    Heads(Heads),
    Elements(Elements),
    Blocks(Blocks),
    Factors(Factors),
    Group(Box<Group>),
    U32(u32),
    I32(i32),
    F32(f32),
}

/// A launch that is being put together.
pub(crate) struct Call<'a> {
    session: &'a Session,
    name: String,
    arguments: Vec<Arg>,
}

impl Session {
    /// The tensor's bytes, gaps included.
    pub(crate) fn on(&self, tensor: &Tensor) -> On {
        self.on_after(tensor, 0)
    }

    /// The same, `lead` elements after a multiple of 256 bytes.
    pub(crate) fn on_after(&self, tensor: &Tensor, lead: usize) -> On {
        let bytes = tensor.to_strided_bytes().expect("a CPU tensor");
        let lead = lead * tensor.dtype().size();
        let memory = self.upload(&[vec![0xff; lead], bytes].concat());
        let mut layout = *tensor.layout();
        layout.offset = 0;
        self.placed(memory, lead, layout, tensor.dtype())
    }

    /// The inputs of an application; every second one lies one element after an aligned place.
    pub(crate) fn inputs(&self, application: &Application) -> Vec<On> {
        application.inputs().iter().enumerate().map(|(i, t)| self.on_after(t, i % 2)).collect()
    }

    /// A contiguous output, filled with NaNs.
    pub(crate) fn output(&self, dims: &[usize], dtype: DType) -> On {
        let layout = Layout::contiguous(engine::Dims::new(dims).expect("dimensions"));
        let memory = self.empty(layout.count() * dtype.size());
        self.placed(memory, 0, layout, dtype)
    }

    /// The same, filled with zeros.
    pub(crate) fn zeros(&self, dims: &[usize], dtype: DType) -> On {
        self.on(&Tensor::zeros(dims, dtype, &Device::cpu()).expect("zeros"))
    }

    /// Outputs as the operation declares them.
    pub(crate) fn outputs(&self, application: &Application) -> Vec<On> {
        let specs = application.output_specs().expect("checked when it was captured");
        specs.iter().map(|spec| self.output(&spec.dims, spec.dtype)).collect()
    }

    fn placed(&self, memory: CudaSlice<u8>, lead: usize, layout: Layout, dtype: DType) -> On {
        let address = memory.device_ptr(&self.stream).0 + lead as u64;
        On { memory, address, layout, dtype }
    }

    /// The tensor on the CPU, contiguous.
    pub(crate) fn back(&self, on: &On) -> Tensor {
        let all = self.download(&on.memory);
        let lead = (on.address - on.memory.device_ptr(&self.stream).0) as usize;
        let size = on.dtype.size();
        let mut bytes = Vec::new();
        for i in 0..on.count() {
            let (mut rest, mut at) = (i, 0);
            for (&d, &s) in on.layout.dims.iter().zip(on.layout.strides.iter()).rev() {
                at += rest % d * s;
                rest /= d;
            }
            bytes.extend_from_slice(&all[lead + at * size..][..size]);
        }
        Tensor::from_bytes(&bytes, on.dims(), on.dtype, &Device::cpu()).expect("as many bytes")
    }

    pub(crate) fn back_all(&self, all: &[On]) -> Vec<Tensor> {
        all.iter().map(|on| self.back(on)).collect()
    }

    /// A contiguous copy, as a launcher makes it of what a kernel takes contiguous.
    pub(crate) fn dense(&self, x: &On) -> On {
        self.converted(x, x.dtype)
    }

    /// A contiguous copy in another type.
    pub(crate) fn converted(&self, x: &On, dtype: DType) -> On {
        let y = self.output(x.dims(), dtype);
        let name = format!("cast_{}_{}", x.name(), dtype.name());
        self.call(name).pointers(&[&y, x]).view(x).size(x.count()).over(x.count());
        y
    }

    pub(crate) fn call(&self, name: impl Into<String>) -> Call<'_> {
        Call { session: self, name: name.into(), arguments: Vec::new() }
    }

    /// No fault yet.
    pub(crate) fn no_fault(&self) -> On {
        self.zeros(&[4], DType::U32)
    }
}

impl Call<'_> {
    pub(crate) fn pointers(mut self, tensors: &[&On]) -> Self {
        self.arguments.extend(tensors.iter().map(|t| Arg::Pointer(t.address)));
        self
    }

    pub(crate) fn optional(mut self, tensor: Option<&On>) -> Self {
        self.arguments.push(Arg::Pointer(tensor.map_or(0, |t| t.address)));
        self
    }

    /// A pointer some elements into a tensor.
    pub(crate) fn pointer_at(mut self, tensor: &On, elements: usize) -> Self {
        self.arguments.push(Arg::Pointer(tensor.address + (elements * tensor.dtype.size()) as u64));
        self
    }

    pub(crate) fn view(self, x: &On) -> Self {
        self.view_of(View::of(&x.layout.dims, &x.layout.strides))
    }

    pub(crate) fn view_of(mut self, view: View) -> Self {
        self.arguments.push(Arg::View(view));
        self
    }

    pub(crate) fn rows(mut self, x: &On) -> Self {
        let last = x.dims().len() - 1;
        let rows = View::of(&x.layout.dims[..last], &x.layout.strides[..last]);
        self.arguments.push(Arg::Rows(Rows { rows, step: x.layout.strides[last] as u32 }));
        self
    }

    pub(crate) fn heads(mut self, x: &On) -> Self {
        let [batch, token, head, ..] = x.strides();
        self.arguments.push(Arg::Heads(Heads { batch, token, head }));
        self
    }

    pub(crate) fn elements(mut self, x: &On) -> Self {
        let [batch, token, head, element, ..] = x.strides();
        self.arguments.push(Arg::Elements(Elements([batch, token, head, element])));
        self
    }

    pub(crate) fn blocks(mut self, format: &BlockFormat) -> Self {
        self.arguments.push(Arg::Blocks(Blocks::of(format)));
        self
    }

    pub(crate) fn factors(mut self, factors: Factors) -> Self {
        self.arguments.push(Arg::Factors(factors));
        self
    }

    pub(crate) fn group(mut self, group: &Group) -> Self {
        self.arguments.push(Arg::Group(Box::new(*group)));
        self
    }

    pub(crate) fn size(self, size: usize) -> Self {
        self.word(u32::try_from(size).expect("small tensors"))
    }

    pub(crate) fn sizes(self, sizes: &[usize]) -> Self {
        sizes.iter().fold(self, |call, &size| call.size(size))
    }

    pub(crate) fn word(mut self, word: u32) -> Self {
        self.arguments.push(Arg::U32(word));
        self
    }

    pub(crate) fn signed(mut self, value: i32) -> Self {
        self.arguments.push(Arg::I32(value));
        self
    }

    pub(crate) fn float(mut self, value: f32) -> Self {
        self.arguments.push(Arg::F32(value));
        self
    }

    /// E(count): few blocks, so that threads take several steps.
    pub(crate) fn over(self, count: usize) {
        let blocks = count.div_ceil(1024).min(2);
        self.launch([blocks, 1, 1], [256, 1], 0);
    }

    /// R(rows)
    pub(crate) fn per_row(self, rows: usize) {
        self.launch([rows, 1, 1], [256, 1], 256);
    }

    /// W(things)
    pub(crate) fn per_warp(self, things: usize) {
        self.launch([things.div_ceil(4), 1, 1], [128, 1], 0);
    }

    /// Launches blocks of two dimensions, with so many bytes of shared memory.
    pub(crate) fn launch(self, grid: [usize; 3], block: [u32; 2], shared: usize) {
        let function = self.session.function(&self.name);
        if shared > 48 * 1024 {
            let attribute =
                cudarc::driver::sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared as i32).expect("a limit of shared memory");
        }
        let config = LaunchConfig {
            grid_dim: (grid[0] as u32, grid[1] as u32, grid[2] as u32),
            block_dim: (block[0], block[1], 1),
            shared_mem_bytes: shared as u32,
        };
        let mut launch = self.session.stream.launch_builder(&function);
        for argument in &self.arguments {
            match argument {
                Arg::Pointer(x) => launch.arg(x),
                Arg::View(x) => launch.arg(x),
                Arg::Rows(x) => launch.arg(x),
                Arg::Heads(x) => launch.arg(x),
                Arg::Elements(x) => launch.arg(x),
                Arg::Blocks(x) => launch.arg(x),
                Arg::Factors(x) => launch.arg(x),
                Arg::Group(x) => launch.arg(&**x),
                Arg::U32(x) => launch.arg(x),
                Arg::I32(x) => launch.arg(x),
                Arg::F32(x) => launch.arg(x),
            };
        }
        // SAFETY: arguments are those of the convention, for buffers that are as large as they say; the emulator checks both.
        unsafe { launch.launch(config) }.unwrap_or_else(|e| panic!("{}: {e}", self.name));
        // A fault shows at once, with the name of what was launched.
        self.session.stream.synchronize().unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }
}
