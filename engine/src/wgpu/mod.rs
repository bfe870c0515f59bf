//! The GPU backend: WGSL kernels through wgpu on Vulkan, Metal and DirectX 12. One file per operation, named as in
//! [`crate::ops`], that launches `shaders/<op>.wgsl`.
//!
//! Everything stays within WebGPU's default limits. Launches are recorded and run later: what a kernel finds wrong (an
//! id outside its table) is reported by the next read.

mod accessors;
mod adapter;
mod buffer;
mod choice;
mod cooperative;
mod known;
mod launch;
mod pipelines;
mod problems;
mod recorded;
mod source;
mod stream;
mod timestamps;
mod variants;
mod view;

mod affine;
mod argmax;
mod attention;
mod binary;
mod burst;
mod cast;
mod concat;
mod cross_entropy;
mod dropout;
mod embedding;
mod gated_silu;
mod gelu;
mod linear_nf4;
mod matmul;
mod norms;
mod optimisers;
mod quantize;
mod reduce;
mod rope;
mod unary;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub use adapter::{AdapterFacts, adapters};
pub use buffer::WgpuBuffer;
use buffer::{Pool, Refusal};
pub use cooperative::Matrices;
use matmul::Machine;
use pipelines::Pipelines;
use problems::{Problems, poll};
use recorded::Recorded;
use stream::Stream;

use ::wgpu;

use crate::{Backend, Device, Error, Result};

/// The kernels' texts, for shader compilers other than wgpu's own: browsers have theirs.
pub mod shaders {
    pub use super::source::{Access, Binding, Source, Value, Variant, assemble};
    pub use super::variants::every_variant;
}

/// Submits every launch by itself and checks it, so that an error names its operation.
const SYNC: &str = "ROENTGEN_WGPU_SYNC";

/// How products are cut, for tests: `hardware` as for a GPU also where it is the processor that plays one, `pieces` into
/// bindings and dispatches so small that tests' matrices have several.
const PLANS: &str = "ROENTGEN_WGPU_PLANS";

/// A GPU.
pub struct Wgpu {
    facts: AdapterFacts,
    device: wgpu::Device,
    limits: wgpu::Limits,
    pool: Arc<Pool>,
    pipelines: Pipelines,
    stream: Mutex<Stream>,
    recorded: Arc<Recorded>,
    problems: Arc<Problems>,
    /// Tables that kernels read, by what they are.
    constants: Mutex<HashMap<(&'static str, u64), Arc<WgpuBuffer>>>,
    reading: cooperative::Reading,
    machine: Machine,
    sync: bool,
}

impl Wgpu {
    /// Opens the adapter of this name, in any case, or whose name has it as a part; `NAME#2` is the second of those. Without a
    /// name the first there is.
    ///
    /// # Errors
    /// If there is none, the part is one of several GPUs' names, or it refuses.
    pub fn open(name: Option<&str>) -> Result<Self> {
        let adapter::Opened { facts, info, device, queue, mut limits } = adapter::open(name)?;
        let (mut processor, mut dispatch) = (facts.software, stream::DISPATCH);
        match std::env::var(PLANS).as_deref() {
            Err(_) | Ok("") => {}
            Ok("hardware") => processor = false,
            Ok("pieces") => {
                limits.max_storage_buffer_binding_size = 1 << 20;
                dispatch = 50_000;
            }
            Ok(other) => {
                return Err(Error::Device(format!("wgpu: {PLANS}={other}: unknown; use hardware or pieces")));
            }
        }
        let problems = Arc::new(Problems::default());
        let (uncaptured, lost) = (problems.clone(), problems.clone());
        device.on_uncaptured_error(Arc::new(move |error| uncaptured.note(error.to_string())));
        device.set_device_lost_callback(move |_, text| lost.lose(&text));
        let recorded = Arc::new(Recorded::default());
        let pool = Pool::new(device.clone(), limits.max_buffer_size, problems.clone(), recorded.clone());
        Ok(Self {
            facts,
            pipelines: Pipelines::new(device.clone(), info),
            stream: Mutex::new(Stream::new(device.clone(), queue, problems.clone())),
            recorded,
            problems,
            device,
            machine: Machine::new(processor, limits.max_compute_workgroup_storage_size, dispatch),
            limits,
            pool: Arc::new(pool),
            constants: Mutex::default(),
            reading: cooperative::Reading::default(),
            sync: std::env::var_os(SYNC).is_some_and(|v| v == "1"),
        })
    }

    /// What the adapter is and offers.
    pub fn facts(&self) -> &AdapterFacts {
        &self.facts
    }

    /// Launches since the device was opened.
    pub fn launches(&self) -> u64 {
        self.stream.lock().unwrap().total_launches()
    }

    /// Submissions of recorded launches since the device was opened. A read is one of them.
    pub fn submissions(&self) -> u64 {
        self.stream.lock().unwrap().batch() - 1
    }

    /// Launches that were not as an earlier one was, and so needed their buffers bound and their kernel looked up. Where a
    /// decode step follows another, none is.
    pub fn recordings(&self) -> u64 {
        self.recorded.made()
    }

    /// Destroys the device, as a driver's reset or a GPU that is pulled out would: for tests of what follows. Nothing can
    /// be done with it afterwards; memory goes back when the last tensor does.
    pub fn lose(&self) {
        self.device.destroy();
        // The loss is told to those who look.
        let _ = poll(&self.device, wgpu::PollType::Poll);
    }

    /// Bytes of buffers: those that tensors hold, and those kept for reuse.
    pub fn buffer_bytes(&self) -> [u64; 2] {
        self.pool.bytes()
    }

    /// Buffers may come to so many bytes from now on, where the GPU is shared with others: what goes beyond is an error
    /// as on a device that is full.
    pub fn limit_memory(&self, bytes: u64) {
        self.pool.limit(bytes);
    }

    /// Data that is the same for all launches: made once, by `key`.
    fn constant_data(
        &self,
        key: (&'static str, u64),
        make: impl FnOnce() -> Vec<u8>,
    ) -> Result<Arc<WgpuBuffer>> {
        let mut constants = self.constants.lock().unwrap();
        if let Some(buffer) = constants.get(&key) {
            return Ok(buffer.clone());
        }
        let data = make();
        let buffer = Arc::new(self.temporary(key.0, data.len().max(4))?);
        self.stream.lock().unwrap().upload(&buffer, 0, &data)?;
        constants.insert(key, buffer.clone());
        Ok(buffer)
    }

    /// A buffer for `bytes`, and whether it is known to be zero; `None` if the device has no room or is gone.
    fn lend(&self, bytes: usize) -> Option<(WgpuBuffer, bool)> {
        match self.pool.lend(bytes) {
            Err(Refusal::ForNow) => {
                // What went wrong is the next read's to tell.
                let _ = self.stream.lock().unwrap().finish();
                self.pool.trim();
                self.pool.lend(bytes).ok()
            }
            lent => lent.ok(),
        }
    }

    /// Room for a kernel's intermediate values.
    fn temporary(&self, op: &'static str, bytes: usize) -> Result<WgpuBuffer> {
        if let Some((buffer, _)) = self.lend(bytes) {
            return Ok(buffer);
        }
        self.problems.alive(|| format!("{op}: {bytes} bytes for intermediate values"))?;
        let in_use = self.pool.bytes()[0] as usize;
        Err(Error::OutOfMemory { device: format!("{} ({op})", Self::NAME), bytes, in_use })
    }
}

impl Device {
    /// A GPU, by name as [`Wgpu::open`] has it.
    ///
    /// # Errors
    /// As there.
    pub fn wgpu(name: Option<&str>) -> Result<Self> {
        let device = Self::new(Wgpu::open(name)?);
        cooperative::settle(&device);
        Ok(device)
    }
}

impl Backend for Wgpu {
    const NAME: &'static str = "wgpu";
    type Buffer = WgpuBuffer;

    fn allocate(&self, bytes: usize) -> Option<WgpuBuffer> {
        let (buffer, fresh) = self.lend(bytes)?;
        if !fresh {
            self.stream.lock().unwrap().clear(&buffer);
        }
        Some(buffer)
    }

    fn allocate_for_output(&self, bytes: usize) -> Option<WgpuBuffer> {
        Some(self.lend(bytes)?.0)
    }

    fn write(&self, buffer: &WgpuBuffer, at: usize, data: &[u8]) -> Result<()> {
        self.stream.lock().unwrap().upload(buffer, at, data)
    }

    fn read(&self, buffer: &WgpuBuffer, at: usize, data: &mut [u8]) -> Result<()> {
        self.stream.lock().unwrap().download(buffer, at, data)
    }

    fn read_several(&self, parts: &mut [(&WgpuBuffer, usize, &mut [u8])]) -> Result<()> {
        self.stream.lock().unwrap().download_several(parts)
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.lock().unwrap().finish()
    }

    fn trim(&self) {
        self.pool.trim();
    }

    fn health(&self) -> Result<()> {
        self.problems.alive(|| "allocating memory".into())
    }

    fn prepare(&self, work: &str, told: &mut dyn FnMut(usize, usize)) {
        self.pipelines.prepare(work, told);
    }

    fn description(&self) -> String {
        format!("{}: {} ({})", Self::NAME, self.facts.name, self.facts.driver)
    }
}

#[cfg(test)]
mod tests;
