//! Pinned memory of the host that copies to and from the device go through: the device reads and writes it by itself, while the processor
//! fills or empties the next part.
//!
//! Uploads go in the stream of the kernels, not in one of their own with events between the two: while weights are loaded the host is what everything
//! waits for. It fills parts at the speed of its memory, by one thread, at most at a third of what a `PCIe` link of the fifth generation carries; the device copies one in
//! less time than the host needs for the next, and the kernels between (a conversion, a quantisation) run at a hundred times that speed, in
//! the time that is left. A second stream would pay for its events and wait for the same host.

use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{CUdeviceptr, CUevent_flags};
use cudarc::driver::{CudaEvent, CudaStream};

/// Bytes of a part.
const PART: usize = 4 << 20;
/// Parts that uploads go through in turn.
const PARTS: usize = 4;
/// Parts that downloads go through.
const BACK: usize = 2;

/// Pinned memory.
struct Pinned {
    memory: NonNull<u8>,
    stream: Arc<CudaStream>,
}

// SAFETY: it owns its memory.
unsafe impl Send for Pinned {}

impl Pinned {
    fn new(stream: &Arc<CudaStream>) -> Result<Self, DriverError> {
        stream.context().bind_to_thread()?;
        // SAFETY: plain memory.
        let memory = unsafe { result::malloc_host(PART, 0) }?;
        let memory = NonNull::new(memory.cast()).expect("memory that was given has an address");
        Ok(Self { memory, stream: stream.clone() })
    }

    /// # Safety
    /// No copy to or from these bytes is under way.
    unsafe fn bytes(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= PART);
        // SAFETY: within the memory, which is initialised by whoever wrote it: zeroed pages, or copies.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().add(at), len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // Copies may be under way.
        let _ = self.stream.synchronize();
        let context = self.stream.context();
        // SAFETY: from `malloc_host`, freed once.
        context.record_err(unsafe { result::free_host(self.memory.as_ptr().cast()) });
    }
}

/// A part, and the event after the last copy that uses it.
struct Part {
    pinned: Pinned,
    done: CudaEvent,
}

impl Part {
    fn new(stream: &Arc<CudaStream>) -> Result<Self, DriverError> {
        let done = stream.context().new_event(Some(CUevent_flags::CU_EVENT_DISABLE_TIMING))?;
        Ok(Self { pinned: Pinned::new(stream)?, done })
    }
}

/// Copies between host and device in one stream.
pub(super) struct Staging {
    stream: Arc<CudaStream>,
    /// Made when they are first needed. The one that is being filled is the last.
    up: Vec<Part>,
    /// Bytes used of the part that is being filled.
    filled: usize,
    back: Vec<Part>,
}

impl Staging {
    pub(super) fn new(stream: Arc<CudaStream>) -> Self {
        Self { stream, up: Vec::new(), filled: PART, back: Vec::new() }
    }

    /// The rest of a part that no copy uses.
    fn next_part(&mut self) -> Result<(), DriverError> {
        if let Some(part) = self.up.last() {
            part.done.record(&self.stream)?;
        }
        if self.up.len() < PARTS {
            self.up.push(Part::new(&self.stream)?);
        } else {
            self.up.rotate_left(1);
            self.up[PARTS - 1].done.synchronize()?;
        }
        self.filled = 0;
        Ok(())
    }

    /// Copies `data` to `address` in the order of the stream. `data` is read before the call returns; the device may be behind by up to
    /// [`PARTS`] parts.
    pub(super) fn upload(&mut self, address: CUdeviceptr, data: &[u8]) -> Result<(), DriverError> {
        self.stream.context().bind_to_thread()?;
        let mut at = 0;
        while at < data.len() {
            if self.filled == PART {
                self.next_part()?;
            }
            let len = (PART - self.filled).min(data.len() - at);
            let part = self.up.last_mut().expect("made by `next_part`");
            // SAFETY: bytes from `filled` on are not used since the part's event was waited for.
            let bytes = unsafe { part.pinned.bytes(self.filled, len) };
            bytes.copy_from_slice(&data[at..at + len]);
            let to = address + at as CUdeviceptr;
            // SAFETY: the part outlives the copy (its drop waits), and is not written before its event.
            unsafe { result::memcpy_htod_async(to, bytes, self.stream.cu_stream()) }?;
            // Aligned, so that the device copies whole lines.
            self.filled = (self.filled + len).next_multiple_of(64).min(PART);
            at += len;
        }
        Ok(())
    }

    /// Copies from the `first` address and then from `address` after all earlier work of the stream. Returns when the bytes are there.
    pub(super) fn download(
        &mut self,
        (first, status): (CUdeviceptr, &mut [u8]),
        address: CUdeviceptr,
        data: &mut [u8],
    ) -> Result<(), DriverError> {
        self.stream.context().bind_to_thread()?;
        while self.back.len() < BACK {
            let part = Part::new(&self.stream)?;
            self.back.push(part);
        }
        let stream = self.stream.cu_stream();
        let room = PART - status.len();
        let pieces = data.len().div_ceil(room).max(1);
        // One piece is copied out while the next is under way.
        for piece in 0..=pieces {
            if piece < pieces {
                let part = &mut self.back[piece % BACK];
                let start = piece * room;
                let len = room.min(data.len() - start);
                // SAFETY: what was in the part was copied out one piece ago.
                let bytes = unsafe { part.pinned.bytes(0, status.len() + len) };
                let (head, body) = bytes.split_at_mut(status.len());
                // SAFETY: the part outlives the copies, and is read after its event.
                unsafe {
                    result::memcpy_dtoh_async(head, first, stream)?;
                    if len > 0 {
                        result::memcpy_dtoh_async(body, address + start as CUdeviceptr, stream)?;
                    }
                }
                part.done.record(&self.stream)?;
            }
            if let Some(before) = piece.checked_sub(1) {
                let part = &mut self.back[before % BACK];
                part.done.synchronize()?;
                let start = before * room;
                let len = room.min(data.len() - start);
                // SAFETY: the copies into it have ended.
                let bytes = unsafe { part.pinned.bytes(0, status.len() + len) };
                status.copy_from_slice(&bytes[..status.len()]);
                data[start..start + len].copy_from_slice(&bytes[status.len()..]);
            }
        }
        Ok(())
    }
}
