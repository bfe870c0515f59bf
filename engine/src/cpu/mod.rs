//! The CPU backend: one file per operation, named as in [`crate::ops`], and the products they rest on.

mod buffer;
mod dynamic;
pub mod flash;
pub mod gemm;
pub mod isa;
mod math;
mod multiversion;
pub mod packed;
mod rows;
mod scratch_file;
mod slab;
pub mod threads;
mod walk;

mod adamw;
mod adamw8bit;
mod add_rms_norm;
mod affine;
mod argmax;
mod attention;
mod binary;
mod burst;
mod cast;
mod concat;
mod cross_entropy;
mod dequantize_blockwise;
mod dropout;
mod embedding;
mod gated_silu;
mod gelu;
mod layer_norm;
mod linear_nf4;
mod linear_nf4_group;
mod matmul;
mod quantize_blockwise;
mod reduce;
mod rms_norm;
mod rope;
mod rope_write;
mod scatter_rows;
mod sgd;
mod top_k;
mod unary;
mod write;

use std::ops::Range;
use std::sync::Arc;

pub(crate) use adamw::Factors as AdamWFactors;
pub use buffer::CpuBuffer;
use buffer::{Pool, Temporary};
pub(crate) use rope::inverse_frequencies;

use crate::weights::Mapping;
use crate::{Backend, Element, Error, Result};

/// The processor.
pub struct Cpu {
    pool: Arc<Pool>,
}

impl Cpu {
    /// A backend with an empty buffer pool.
    pub fn new() -> Self {
        Self { pool: Arc::default() }
    }

    /// A read-only buffer over a part of a file in memory.
    #[allow(clippy::unused_self, reason = "a buffer of this backend")]
    pub(crate) fn map(&self, file: Arc<Mapping>, range: Range<usize>) -> CpuBuffer {
        CpuBuffer::mapped(file, range)
    }

    /// Room for `n` elements with unspecified values, while a kernel runs.
    fn temporary<T: Element>(&self, n: usize) -> Result<Temporary<T>> {
        let bytes = n * size_of::<T>();
        let buffer = CpuBuffer::pooled(&self.pool, bytes, false).ok_or_else(|| Error::OutOfMemory {
            device: Self::NAME.into(),
            bytes,
            in_use: 0,
        })?;
        Ok(Temporary::new(buffer))
    }

    /// Bytes that the pool keeps for reuse, held by no tensor.
    pub fn pooled_bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// Gives the pool's idle memory back to the system.
    pub fn trim(&self) {
        self.pool.trim();
    }
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend for Cpu {
    const NAME: &'static str = "cpu";
    type Buffer = CpuBuffer;

    fn allocate(&self, bytes: usize) -> Option<CpuBuffer> {
        CpuBuffer::pooled(&self.pool, bytes, true)
    }

    fn allocate_for_output(&self, bytes: usize) -> Option<CpuBuffer> {
        CpuBuffer::pooled(&self.pool, bytes, false)
    }

    fn write(&self, buffer: &CpuBuffer, at: usize, data: &[u8]) -> Result<()> {
        buffer.write(at, data)
    }

    fn read(&self, buffer: &CpuBuffer, at: usize, data: &mut [u8]) -> Result<()> {
        data.copy_from_slice(&buffer.bytes()[at..at + data.len()]);
        Ok(())
    }

    fn will_read(&self, parts: &mut dyn Iterator<Item = (&CpuBuffer, Range<usize>)>) {
        threads::will_read(parts.map(|(buffer, range)| buffer.address_of(range)));
    }

    fn trim(&self) {
        Cpu::trim(self);
    }
}
