//! The CUDA backend: kernels of `cuda/` on NVIDIA GPUs, through the driver library alone. One file per operation or family, named as in
//! [`crate::ops`], that launches `cuda/<op>.cu` by the convention of `cuda/README.md`.
//!
//! The driver and NVRTC are looked for when a device is asked for, not when the program starts. Launches are queued in one stream and run
//! later: what a kernel finds wrong (an id outside its table) is reported by the next read.

mod availability;
mod buffer;
mod graphs;
mod launch;
mod modules;
mod nvrtc;
mod sources;
mod staging;
mod stream;
mod timing;
mod view;

mod attention;
mod burst;
mod cast;
mod cross_entropy;
mod elementwise;
mod embedding;
mod linear_nf4;
mod lora;
mod matmul;
mod norms;
mod optimisers;
mod quantize;
mod reduce;
mod rope;
mod top_k;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaStream};

pub use availability::{Availability, DeviceFacts, availability};
pub use buffer::CudaBuffer;
pub use graphs::Counts;
pub use modules::write_images;

use buffer::Pool;
use modules::Modules;
use stream::{STATUS, Stream};

use crate::{Backend, Device, Error, Result};

/// Waits for every launch by itself, so that an error names its operation and shapes.
const SYNC: &str = "ROENTGEN_CUDA_SYNC";

/// Bytes up to which a write within a step travels as a kernel's argument: `cuda/upload.cu`.
const SMALL: usize = 64;

/// Tables that kernels read, by what they are.
type Constants = HashMap<(&'static str, u64), Arc<CudaBuffer>>;

/// An NVIDIA GPU. Fields go in the order of declaration: what uses the stream before it.
pub struct Cuda {
    constants: Mutex<Constants>,
    /// Address of the words in which kernels report faults.
    status: u64,
    stream: Mutex<Stream>,
    modules: Modules,
    pool: Arc<Pool>,
    facts: DeviceFacts,
    sync: bool,
}

impl Cuda {
    /// Opens the driver's device number `ordinal`.
    ///
    /// # Errors
    /// If there is none, in the words of [`Availability`], or it refuses.
    pub fn open(ordinal: usize) -> Result<Self> {
        let facts = match availability() {
            Availability::Usable(devices) => {
                let count = devices.len();
                devices.into_iter().find(|d| d.ordinal == ordinal).ok_or_else(|| {
                    Error::Device(format!(
                        "cuda: no usable device {ordinal}; there are {count}, see `devices`"
                    ))
                })?
            }
            other => return Err(Error::Device(format!("cuda: {other}"))),
        };
        let refuses =
            |e| Error::Device(format!("cuda: {} refuses to open: {}", facts.name, availability::text(e)));
        let context = CudaContext::new(ordinal).map_err(refuses)?;
        let stream: Arc<CudaStream> = context.new_stream().map_err(refuses)?;
        let pool = Arc::new(Pool::new(stream.clone()));
        let status = pool
            .lend(STATUS, || {})
            .ok_or_else(|| Error::Device(format!("cuda: {} has no memory", facts.name)))?;
        Ok(Self {
            constants: Mutex::default(),
            status: status.address(),
            stream: Mutex::new(Stream::new(stream, status)?),
            modules: Modules::new(context, facts.clone()),
            pool,
            facts,
            sync: std::env::var_os(SYNC).is_some_and(|v| v == "1"),
        })
    }

    /// What the device is.
    pub fn facts(&self) -> &DeviceFacts {
        &self.facts
    }

    /// Kernels that ran, or will, since the device was opened.
    pub fn launches(&self) -> u64 {
        self.stream.lock().unwrap().total_launches()
    }

    /// Names of the kernels that ran so far.
    pub fn kernels(&self) -> Vec<String> {
        self.modules.names()
    }

    /// Whether work that comes again becomes graphs: it does unless `ROENTGEN_CUDA_GRAPHS=0`.
    pub fn use_graphs(&self, on: bool) {
        self.stream.lock().unwrap().use_graphs(on);
    }

    /// Graphs made and launched since the device was opened.
    pub fn graphs(&self) -> Counts {
        self.stream.lock().unwrap().counts()
    }

    fn lend(&self, bytes: usize) -> Option<CudaBuffer> {
        self.pool.lend(bytes, || self.stream.lock().unwrap().launch_noted())
    }

    /// Bytes of device memory: that tensors hold, that are kept for reuse, and the most that both were at one time.
    pub fn buffer_bytes(&self) -> [usize; 3] {
        self.pool.bytes()
    }

    /// Data that is the same for all launches: made once, by `key`.
    fn constant_data(
        &self,
        key: (&'static str, u64),
        make: impl FnOnce() -> Vec<u8>,
    ) -> Result<Arc<CudaBuffer>> {
        let mut constants = self.constants.lock().unwrap();
        if let Some(buffer) = constants.get(&key) {
            return Ok(buffer.clone());
        }
        let data = make();
        let buffer = Arc::new(self.temporary(key.0, data.len())?);
        self.stream.lock().unwrap().upload(&buffer, 0, &data)?;
        constants.insert(key, buffer.clone());
        Ok(buffer)
    }

    /// Room for a kernel's intermediate values.
    fn temporary(&self, op: &'static str, bytes: usize) -> Result<CudaBuffer> {
        self.lend(bytes).ok_or_else(|| Error::OutOfMemory {
            device: format!("{} ({op})", Self::NAME),
            bytes,
            in_use: self.pool.bytes()[0],
        })
    }

    /// As [`Self::temporary`], all zeros.
    fn zeros(&self, op: &'static str, bytes: usize) -> Result<CudaBuffer> {
        let buffer = self.temporary(op, bytes)?;
        self.clear(&buffer)?;
        Ok(buffer)
    }

    /// A write that can be noted: unlike a copy from pinned memory it holds its bytes itself.
    fn write_by_kernel(&self, buffer: &CudaBuffer, at: usize, data: &[u8]) -> Result<()> {
        assert!(at <= buffer.len() && data.len() <= buffer.len() - at);
        let mut words = [0_u32; SMALL / 4];
        bytemuck::cast_slice_mut(&mut words)[..data.len()].copy_from_slice(data);
        let mut k = self.kernel("upload", "upload_u8", "upload");
        k.at(buffer.address() + at as u64).layout(&words).word(data.len());
        k.run([1, 1, 1], [SMALL as u32, 1], 0)
    }

    fn clear(&self, buffer: &CudaBuffer) -> Result<()> {
        self.stream.lock().unwrap().clear(buffer)
    }
}

impl Device {
    /// The NVIDIA GPU that the driver numbers `ordinal`.
    ///
    /// # Errors
    /// If there is none, or no driver, and so on: [`Availability`]; or it refuses.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Self::new(Cuda::open(ordinal)?))
    }
}

impl Backend for Cuda {
    const NAME: &'static str = "cuda";
    type Buffer = CudaBuffer;

    fn allocate(&self, bytes: usize) -> Option<CudaBuffer> {
        let buffer = self.lend(bytes)?;
        // A device that fails here fails the next call too, which can say why.
        let _ = self.clear(&buffer);
        Some(buffer)
    }

    fn allocate_for_output(&self, bytes: usize) -> Option<CudaBuffer> {
        self.lend(bytes)
    }

    fn write(&self, buffer: &CudaBuffer, at: usize, data: &[u8]) -> Result<()> {
        if !data.is_empty() && data.len() <= SMALL && self.stream.lock().unwrap().notes() {
            return self.write_by_kernel(buffer, at, data);
        }
        self.stream.lock().unwrap().upload(buffer, at, data)
    }

    fn read(&self, buffer: &CudaBuffer, at: usize, data: &mut [u8]) -> Result<()> {
        self.stream.lock().unwrap().download(buffer, at, data)
    }

    /// Also where a kernel's bad index, and times for the profiler, come to light.
    fn synchronize(&self) -> Result<()> {
        self.stream.lock().unwrap().finish()
    }

    fn trim(&self) {
        self.pool.trim(|| self.stream.lock().unwrap().launch_noted());
    }

    fn begin_step(&self, name: &'static str) {
        if !self.sync {
            self.pool.settle();
            self.stream.lock().unwrap().begin_step(name);
        }
    }

    fn end_step(&self) {
        if !self.sync {
            self.stream.lock().unwrap().end_step();
        }
    }

    fn start_clock(&self) -> Result<bool> {
        self.stream.lock().unwrap().start_clock().map(|()| true)
    }

    fn stop_clock(&self) -> Result<Duration> {
        self.stream.lock().unwrap().stop_clock()
    }

    fn description(&self) -> String {
        let [major, minor] = self.facts.capability;
        format!("cuda:{}: {} (compute capability {major}.{minor})", self.facts.ordinal, self.facts.name)
    }
}
