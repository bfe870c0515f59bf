//! Backends, devices, and the rule that every compiled-in backend has every operation's kernel.
//!
//! A backend offers an operation by implementing [`Kernel`] for it. [`Compiled`] is the tuple of the
//! backends in this build; applying an operation `O` needs `Compiled: Offers<O>`, which holds only if
//! each of them implements `Kernel<O>`. A missing kernel is a build error, never a silent fallback:
//!
//! ```compile_fail,E0277
//! use engine::{Cost, Op, Result, Spec, Tensor};
//! #[derive(Clone, Debug)]
//! struct Cube;
//! impl Op for Cube {
//!     const NAME: &'static str = "cube";
//!     fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> { Ok(vec![inputs[0]]) }
//!     fn cost(&self, _: &[Spec], _: &[Spec]) -> Cost { Cost::default() }
//! }
//! fn cube(x: &Tensor) -> Result<Vec<Tensor>> {
//!     engine::apply(Cube, &[x]) // error: the trait bound `Cpu: Kernel<Cube>` is not satisfied
//! }
//! ```
//!
//! The same holds when one backend of several lacks the kernel; `Paper` below has no kernels at all:
//!
//! ```compile_fail,E0277
//! use engine::{Backend, Cpu, Offers, Result, ops};
//! struct Paper;
//! impl Backend for Paper {
//!     const NAME: &'static str = "paper";
//!     type Buffer = Vec<u8>;
//!     fn allocate(&self, bytes: usize) -> Option<Vec<u8>> { Some(vec![0; bytes]) }
//!     fn write(&self, _: &Vec<u8>, _: usize, _: &[u8]) -> Result<()> { Ok(()) }
//!     fn read(&self, _: &Vec<u8>, _: usize, _: &mut [u8]) -> Result<()> { Ok(()) }
//! }
//! fn complete<Set: Offers<ops::MatMul>>() {}
//! complete::<(Cpu, Paper)>(); // error: the trait bound `Paper: Kernel<MatMul>` is not satisfied
//! ```
//!
//! With the CPU alone it compiles:
//!
//! ```
//! fn complete<Set: engine::Offers<engine::ops::MatMul>>() {}
//! complete::<(engine::Cpu,)>();
//! ```

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use crate::memory::{Memory, current_tag};
use crate::{Cpu, Cuda, DType, Error, Layout, Op, Progress, Result, Tensor, Wgpu};

/// A way to hold buffers and run kernels on them.
pub trait Backend: Send + Sync + Sized + 'static {
    /// Lower-case name: `cpu`, `wgpu`, `cuda`.
    const NAME: &'static str;
    /// Memory of this backend.
    type Buffer: Send + Sync + 'static;
    /// A zero-filled buffer, or `None` if there is no memory.
    fn allocate(&self, bytes: usize) -> Option<Self::Buffer>;
    /// A buffer whose contents are unspecified (but initialised): the next kernel overwrites all of it.
    fn allocate_for_output(&self, bytes: usize) -> Option<Self::Buffer> {
        self.allocate(bytes)
    }
    /// Copies `data` to byte `at` of the buffer.
    fn write(&self, buffer: &Self::Buffer, at: usize, data: &[u8]) -> Result<()>;
    /// Copies from byte `at` of the buffer, after all work submitted before.
    fn read(&self, buffer: &Self::Buffer, at: usize, data: &mut [u8]) -> Result<()>;
    /// As [`Self::read`] of several parts of buffers: byte to start from, and room. A device that must be waited for is
    /// waited for once.
    fn read_several(&self, parts: &mut [(&Self::Buffer, usize, &mut [u8])]) -> Result<()> {
        parts.iter_mut().try_for_each(|(buffer, at, data)| self.read(buffer, *at, data))
    }
    /// Says that these parts of buffers will be read soon, the first first. A device may fetch them while it has
    /// nothing better to do; no result depends on it.
    fn will_read(&self, parts: &mut dyn Iterator<Item = (&Self::Buffer, Range<usize>)>) {
        let _ = parts;
    }
    /// Waits until all work submitted before has run, for backends that submit and go on.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }
    /// Gives memory that is kept for reuse back to the system.
    fn trim(&self) {}
    /// An error if the device can do nothing any more: then that, and no lack of memory, is why it gives none.
    fn health(&self) -> Result<()> {
        Ok(())
    }
    /// Makes ready what `work`, a text that describes a model and how it is used, needed in earlier processes, and tells how
    /// many parts of it are ready, of how many. No result depends on it.
    fn prepare(&self, work: &str, told: &mut dyn FnMut(usize, usize)) {
        let _ = (work, told);
    }
    /// What follows comes again and again, until [`Self::end_step`]: [`Device::step`]. Steps may nest.
    fn begin_step(&self, name: &'static str) {
        let _ = name;
    }
    /// The step that was begun last is over.
    fn end_step(&self) {}
    /// Starts the device's own clock behind all work submitted before; `false` if it has none.
    fn start_clock(&self) -> Result<bool> {
        Ok(false)
    }
    /// Waits for all work submitted before, and tells for how long the device was at it since the clock was started.
    fn stop_clock(&self) -> Result<Duration> {
        Err(Error::Device(format!("{} has no clock of its own", Self::NAME)))
    }
    /// The backend's name with what tells this device from others of the backend.
    fn description(&self) -> String {
        Self::NAME.into()
    }
}

/// The kernel of operation `O` on a backend.
pub trait Kernel<O: Op>: Backend {
    /// Computes `outputs` from `inputs`. Shapes and dtypes have passed [`Op::infer`]. Fresh outputs are
    /// contiguous and must be written whole; in-place targets hold their old values and may be strided.
    fn run(&self, op: &O, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()>;
}

/// A tensor that a kernel reads.
pub struct Input<'a, B: Backend> {
    /// Sizes and strides.
    pub layout: &'a Layout,
    /// Element type.
    pub dtype: DType,
    /// Memory.
    pub buffer: &'a B::Buffer,
}

/// A tensor that a kernel writes; nothing else reads or writes it meanwhile.
pub struct Output<'a, B: Backend> {
    /// Sizes and strides.
    pub layout: &'a Layout,
    /// Element type.
    pub dtype: DType,
    /// Memory.
    pub buffer: &'a B::Buffer,
}

/// The backends of this build, as a tuple.
pub type Compiled = (Cpu, Wgpu, Cuda);

/// A tuple of backends that all have a kernel for `O`.
pub trait Offers<O: Op> {
    /// Runs the kernel of the backend that `device` belongs to.
    fn dispatch(device: &Device, op: &O, inputs: &[Placed<'_>], outputs: &[Placed<'_>]) -> Result<()>;
}

/// A storage with a view of it, on the way to a kernel.
#[derive(Clone, Copy)]
pub struct Placed<'a> {
    pub(crate) storage: &'a Storage,
    pub(crate) layout: &'a Layout,
    pub(crate) dtype: DType,
}

fn buffer_of<'a, B: Backend>(placed: &Placed<'a>) -> &'a B::Buffer {
    placed.storage.buffer.downcast_ref().expect("the buffer of this backend")
}

fn run_on<O: Op, B: Kernel<O>>(
    backend: &B,
    op: &O,
    inputs: &[Placed<'_>],
    outputs: &[Placed<'_>],
) -> Result<()> {
    let inputs: Vec<Input<'_, B>> = inputs
        .iter()
        .map(|p| Input { layout: p.layout, dtype: p.dtype, buffer: buffer_of::<B>(p) })
        .collect();
    let mut outputs: Vec<Output<'_, B>> = outputs
        .iter()
        .map(|p| Output { layout: p.layout, dtype: p.dtype, buffer: buffer_of::<B>(p) })
        .collect();
    backend.run(op, &inputs, &mut outputs)
}

macro_rules! offers {
    ($($backend:ident),+) => {
        impl<O: Op, $($backend: Kernel<O>),+> Offers<O> for ($($backend,)+) {
            fn dispatch(device: &Device, op: &O, inputs: &[Placed<'_>], outputs: &[Placed<'_>]) -> Result<()> {
                $(if let Some(backend) = device.backend::<$backend>() {
                    return run_on(backend, op, inputs, outputs);
                })+
                Err(Error::Device(format!("{device} belongs to a backend that is not in this build")))
            }
        }
    };
}
offers!(A);
offers!(A, B);
offers!(A, B, C);

/// A buffer, byte to start from, and room for what is read.
type AnyPart<'a> = (&'a (dyn Any + Send + Sync), usize, &'a mut [u8]);

/// What the engine needs of a backend without knowing its type.
trait AnyBackend: Any + Send + Sync {
    fn name(&self) -> &'static str;
    fn allocate(&self, bytes: usize, zeroed: bool) -> Option<Box<dyn Any + Send + Sync>>;
    fn write(&self, buffer: &(dyn Any + Send + Sync), at: usize, data: &[u8]) -> Result<()>;
    fn read(&self, buffer: &(dyn Any + Send + Sync), at: usize, data: &mut [u8]) -> Result<()>;
    fn read_several(&self, parts: &mut [AnyPart<'_>]) -> Result<()>;
    fn will_read(&self, parts: &mut dyn Iterator<Item = (&(dyn Any + Send + Sync), Range<usize>)>);
    fn synchronize(&self) -> Result<()>;
    fn trim(&self);
    fn health(&self) -> Result<()>;
    fn prepare(&self, work: &str, told: &mut dyn FnMut(usize, usize));
    fn begin_step(&self, name: &'static str);
    fn end_step(&self);
    fn start_clock(&self) -> Result<bool>;
    fn stop_clock(&self) -> Result<Duration>;
    fn description(&self) -> String;
}

fn own<B: Backend>(buffer: &(dyn Any + Send + Sync)) -> &B::Buffer {
    buffer.downcast_ref().expect("the buffer of this backend")
}

impl<B: Backend> AnyBackend for B {
    fn name(&self) -> &'static str {
        B::NAME
    }
    fn allocate(&self, bytes: usize, zeroed: bool) -> Option<Box<dyn Any + Send + Sync>> {
        let buffer = if zeroed { Backend::allocate(self, bytes) } else { self.allocate_for_output(bytes) };
        Some(Box::new(buffer?))
    }
    fn write(&self, buffer: &(dyn Any + Send + Sync), at: usize, data: &[u8]) -> Result<()> {
        Backend::write(self, own::<B>(buffer), at, data)
    }
    fn read(&self, buffer: &(dyn Any + Send + Sync), at: usize, data: &mut [u8]) -> Result<()> {
        Backend::read(self, own::<B>(buffer), at, data)
    }
    fn read_several(&self, parts: &mut [AnyPart<'_>]) -> Result<()> {
        let mut parts: Vec<_> =
            parts.iter_mut().map(|(buffer, at, data)| (own::<B>(*buffer), *at, &mut **data)).collect();
        Backend::read_several(self, &mut parts)
    }
    fn will_read(&self, parts: &mut dyn Iterator<Item = (&(dyn Any + Send + Sync), Range<usize>)>) {
        Backend::will_read(self, &mut parts.map(|(buffer, range)| (own::<B>(buffer), range)));
    }
    fn synchronize(&self) -> Result<()> {
        Backend::synchronize(self)
    }
    fn trim(&self) {
        Backend::trim(self);
    }
    fn health(&self) -> Result<()> {
        Backend::health(self)
    }
    fn prepare(&self, work: &str, told: &mut dyn FnMut(usize, usize)) {
        Backend::prepare(self, work, told);
    }
    fn begin_step(&self, name: &'static str) {
        Backend::begin_step(self, name);
    }
    fn end_step(&self) {
        Backend::end_step(self);
    }
    fn start_clock(&self) -> Result<bool> {
        Backend::start_clock(self)
    }
    fn stop_clock(&self) -> Result<Duration> {
        Backend::stop_clock(self)
    }
    fn description(&self) -> String {
        Backend::description(self)
    }
}

/// A device: a backend and the books of its memory. Cheap to clone.
#[derive(Clone)]
pub struct Device(Arc<DeviceInner>);

struct DeviceInner {
    backend: Box<dyn AnyBackend>,
    memory: Memory,
    listener: OnceLock<Listener>,
}

type Listener = Box<dyn Fn(Progress) + Send + Sync>;

impl Device {
    /// A device of its own around `backend`.
    pub fn new<B: Backend>(backend: B) -> Self {
        let (memory, listener) = (Memory::new(B::NAME), OnceLock::new());
        Self(Arc::new(DeviceInner { backend: Box::new(backend), memory, listener }))
    }

    /// The processor. One per process.
    pub fn cpu() -> Self {
        static CPU: OnceLock<Device> = OnceLock::new();
        CPU.get_or_init(|| Self::new(Cpu::new())).clone()
    }

    /// Name of the backend.
    pub fn name(&self) -> &'static str {
        self.0.backend.name()
    }

    /// Name of the backend and what tells this device from others of it: `wgpu: NAME (DRIVER)`.
    pub fn description(&self) -> String {
        self.0.backend.description()
    }

    /// Waits until all work submitted before has run: what a clock must do before it is read.
    ///
    /// # Errors
    /// If the device failed.
    pub fn synchronize(&self) -> Result<()> {
        self.0.backend.synchronize()
    }

    /// Gives memory that is kept for reuse back to the system: after loading, whose sizes are not those of work.
    pub fn trim(&self) {
        self.0.backend.trim();
    }

    /// Has `listener` hear how far the loading of models is, from now on. The first listener stays.
    pub fn listen(&self, listener: impl Fn(Progress) + Send + Sync + 'static) {
        let _ = self.0.listener.set(Box::new(listener));
    }

    /// Tells the listener, if there is one.
    pub fn tell(&self, progress: Progress) {
        if let Some(listener) = self.0.listener.get() {
            listener(progress);
        }
    }

    /// Makes the kernels ready that a model needed in earlier processes, where the device compiles kernels: `work`
    /// describes the model and how it is used, in any words. No result depends on it.
    pub fn prepare(&self, work: &str) {
        self.0.backend.prepare(work, &mut |done, total| {
            self.tell(Progress::Kernels { done: done as u64, total: total as u64 });
        });
    }

    /// Runs `work`, which the caller will do again and again in the same form: a decode step, a micro-batch. `name` tells such works apart. A
    /// device may keep what it learns of it (on CUDA, graphs of its launches); no result depends on it. An error that the device
    /// meets at the end is the error of the next read.
    pub fn step<R>(&self, name: &'static str, work: impl FnOnce() -> R) -> R {
        /// Also where `work` panics.
        struct Step<'a>(&'a Device);
        impl Drop for Step<'_> {
            fn drop(&mut self) {
                self.0.0.backend.end_step();
            }
        }
        self.0.backend.begin_step(name);
        let _step = Step(self);
        work()
    }

    /// How long the device was at what `work` had it do, by its own clock: from the end of all that was submitted before, which the device may still be at,
    /// to the end of the last. `None` if it has no such clock; then the host waited for `work` all the same.
    ///
    /// # Errors
    /// Those of `work`, and if the device failed.
    pub fn elapsed(&self, work: impl FnOnce() -> Result<()>) -> Result<Option<Duration>> {
        let clock = self.0.backend.start_clock()?;
        let done = work();
        let time =
            if clock { self.0.backend.stop_clock().map(Some) } else { self.synchronize().map(|()| None) };
        done?;
        time
    }

    /// Bytes in use and at the peak.
    pub fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// The backend, if it is a `B`.
    pub fn backend<B: Backend>(&self) -> Option<&B> {
        let any: &dyn Any = &*self.0.backend;
        any.downcast_ref()
    }

    /// Says that these tensors will be read soon, the first first: a device may fetch them while it has nothing better
    /// to do. A later call replaces an earlier one; no result depends on it. Tensors of other devices are passed over.
    pub fn will_read<'a>(&self, tensors: impl IntoIterator<Item = &'a Tensor>) {
        let here = tensors.into_iter().filter(|t| t.device() == self);
        self.0.backend.will_read(&mut here.map(|t| {
            let (layout, size) = (t.layout(), t.dtype().size());
            let start = layout.offset * size;
            (&*t.storage().buffer, start..start + layout.span() * size)
        }));
    }

    /// Reads storages of this device, from these bytes on.
    pub(crate) fn read_several(&self, parts: &mut [(&Storage, usize, &mut [u8])]) -> Result<()> {
        let mut parts: Vec<AnyPart<'_>> =
            parts.iter_mut().map(|(storage, at, data)| (&*storage.buffer, *at, &mut **data)).collect();
        self.0.backend.read_several(&mut parts)
    }

    pub(crate) fn allocate(&self, bytes: usize, zeroed: bool) -> Result<Arc<Storage>> {
        let Some(buffer) = self.0.backend.allocate(bytes, zeroed) else {
            self.0.backend.health()?;
            let in_use = self.0.memory.total().current;
            return Err(Error::OutOfMemory { device: self.to_string(), bytes, in_use });
        };
        Ok(self.adopt(buffer, bytes))
    }

    /// Wraps a buffer that was made elsewhere (a mapped file).
    pub(crate) fn adopt(&self, buffer: Box<dyn Any + Send + Sync>, bytes: usize) -> Arc<Storage> {
        let tag = current_tag();
        self.0.memory.add(tag, bytes);
        Arc::new(Storage {
            buffer,
            bytes,
            tag,
            device: self.clone(),
            version: AtomicU64::new(0),
            access: RwLock::new(()),
        })
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A buffer that tensors share.
pub(crate) struct Storage {
    pub(crate) buffer: Box<dyn Any + Send + Sync>,
    pub(crate) bytes: usize,
    tag: &'static str,
    pub(crate) device: Device,
    /// Bumped by each in-place write, so that the tape notices when a saved tensor has changed.
    pub(crate) version: AtomicU64,
    /// Held for reading by kernels that read the buffer and for writing by in-place kernels.
    pub(crate) access: RwLock<()>,
}

impl Storage {
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn write(&self, at: usize, data: &[u8]) -> Result<()> {
        self.device.0.backend.write(&*self.buffer, at, data)
    }

    pub(crate) fn read(&self, at: usize, data: &mut [u8]) -> Result<()> {
        self.device.0.backend.read(&*self.buffer, at, data)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.device.0.memory.remove(self.tag, self.bytes);
    }
}
