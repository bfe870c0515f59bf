//! The stream: launches and copies of a device in their order, and what is found out when someone waits for them.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::CudaStream;
use cudarc::driver::result::{self, DriverError};

use super::availability::text;
use super::buffer::CudaBuffer;
use super::graphs::{Counts, Failed, Graphs, Shape, launch_kernel};
use super::modules::Function;
use super::staging::Staging;
use super::timing::Timing;
use crate::fault::Fault;
use crate::{Error, Result};

/// Bytes of the status block: which fault, where, what stood there, and a spare word.
pub(super) const STATUS: usize = 16;

/// Commands on their way to the device.
pub(super) struct Stream {
    stream: Arc<CudaStream>,
    staging: Staging,
    timing: Timing,
    graphs: Graphs,
    /// What went wrong where nobody could be told; the next wait tells.
    late: Option<Error>,
    /// Zero while all is well; the first kernel that meets a bad index writes it.
    status: CudaBuffer,
    /// What launches since the last read would report, by number from 1.
    faults: Vec<Fault>,
    /// Operations since the last wait, for messages.
    first: &'static str,
    last: &'static str,
    /// Launches since the device was opened.
    total: u64,
}

impl Stream {
    pub(super) fn new(stream: Arc<CudaStream>, status: CudaBuffer) -> Result<Self> {
        let mut new = Self {
            staging: Staging::new(stream.clone()),
            timing: Timing::new(stream.clone()),
            graphs: Graphs::new(stream.clone()),
            late: None,
            stream,
            status,
            faults: Vec::new(),
            first: "",
            last: "",
            total: 0,
        };
        new.clear_status()?;
        Ok(new)
    }

    /// An error of the driver, with what was under way.
    fn error(&self, e: DriverError) -> Error {
        let under_way = match (self.first, self.last) {
            ("", _) => String::new(),
            (first, last) => {
                format!(" (in work from {first} to {last}; {}=1 waits for each launch)", super::SYNC)
            }
        };
        Error::Device(format!("cuda: {}{under_way}", text(e)))
    }

    pub(super) fn total_launches(&self) -> u64 {
        self.total
    }

    fn clear_status(&mut self) -> Result<()> {
        self.faults.clear();
        self.fill_zero(self.status.address(), STATUS)
    }

    /// The number by which a launch reports `fault`, from 1.
    pub(super) fn watch(&mut self, fault: Fault) -> u32 {
        self.faults.push(fault);
        self.faults.len() as u32
    }

    /// What was launched since the device was opened, and how.
    pub(super) fn counts(&self) -> Counts {
        self.graphs.counts()
    }

    pub(super) fn use_graphs(&mut self, on: bool) {
        self.launch_noted();
        self.graphs.use_graphs(on);
    }

    /// From here to [`Self::end_step`] work is noted, and launched as graphs where it has come before.
    pub(super) fn begin_step(&mut self, name: &'static str) {
        self.graphs.begin(name);
    }

    /// The end of a step; of the outermost, if they nest.
    pub(super) fn end_step(&mut self) {
        if self.graphs.end() {
            self.launch_noted();
        }
    }

    /// Whether a small upload is better a kernel that can be noted.
    pub(super) fn notes(&self) -> bool {
        self.graphs.notes() && !Timing::listens()
    }

    /// Launches what was noted, where an error cannot be returned.
    pub(super) fn launch_noted(&mut self) {
        if let Err(e) = self.flush() {
            self.late.get_or_insert(e);
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.graphs.flush().map_err(|Failed { what, error }| {
            let Error::Device(text) = self.error(error) else { unreachable!("as it was made") };
            Error::Device(if what.is_empty() { text } else { format!("{what}: {text}") })
        })
    }

    /// Launches a kernel for operation `op`, or notes it. `words` are the kernel's parameters as they lie in a launch.
    ///
    /// # Safety
    /// The values must be what the kernel takes, and its pointers of memory that it may read or write as it does.
    pub(super) unsafe fn launch(
        &mut self,
        op: &'static str,
        function: &Arc<Function>,
        shape: Shape,
        words: &[u64],
    ) -> Result<()> {
        if self.notes() {
            self.graphs.note_kernel(op, function, shape, words);
            if self.graphs.full() {
                self.flush()?;
            }
        } else {
            self.flush()?;
            // SAFETY: passed on to the caller.
            unsafe { self.launch_now(function, shape, words) }.map_err(|e| self.error(e))?;
        }
        if self.first.is_empty() {
            self.first = op;
        }
        self.last = op;
        self.total += 1;
        Ok(())
    }

    /// # Safety
    /// As [`Self::launch`].
    unsafe fn launch_now(
        &mut self,
        function: &Function,
        shape: Shape,
        words: &[u64],
    ) -> Result<(), DriverError> {
        self.stream.context().bind_to_thread()?;
        self.timing.begin()?;
        // SAFETY: passed on to the caller.
        unsafe { launch_kernel(&self.stream, function, shape, words) }?;
        self.timing.end()
    }

    fn fill_zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|e| self.error(e))?;
        // SAFETY: the callers' buffers live until commands after this one use their memory.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.error(e))
    }

    /// Fills a buffer with zeros.
    pub(super) fn clear(&mut self, buffer: &CudaBuffer) -> Result<()> {
        if buffer.len() > 0 && self.notes() {
            self.graphs.note_clear(buffer.address(), buffer.len());
            return if self.graphs.full() { self.flush() } else { Ok(()) };
        }
        self.flush()?;
        self.fill_zero(buffer.address(), buffer.len())
    }

    /// Copies `data` to byte `at`.
    pub(super) fn upload(&mut self, buffer: &CudaBuffer, at: usize, data: &[u8]) -> Result<()> {
        assert!(at <= buffer.len() && data.len() <= buffer.len() - at);
        self.flush()?;
        let to = buffer.address() + at as u64;
        self.staging.upload(to, data).map_err(|e| self.error(e))
    }

    /// Copies from byte `at`, after all that was launched before; an error if a kernel met a bad index meanwhile.
    pub(super) fn download(&mut self, buffer: &CudaBuffer, at: usize, data: &mut [u8]) -> Result<()> {
        assert!(at <= buffer.len() && data.len() <= buffer.len() - at);
        self.flush()?;
        let mut status = [0; STATUS];
        let from = buffer.address() + at as u64;
        let head = (self.status.address(), &mut status[..]);
        self.staging.download(head, from, data).map_err(|e| self.error(e))?;
        self.settle(status)
    }

    /// Waits until all is done.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.flush()?;
        let mut status = [0; STATUS];
        let head = (self.status.address(), &mut status[..]);
        self.staging.download(head, self.status.address(), &mut []).map_err(|e| self.error(e))?;
        self.settle(status)
    }

    /// The time that [`Self::stop_clock`] tells begins when all that was launched before is done.
    pub(super) fn start_clock(&mut self) -> Result<()> {
        self.flush()?;
        self.timing.start().map_err(|e| self.error(e))
    }

    /// Waits until all is done.
    pub(super) fn stop_clock(&mut self) -> Result<Duration> {
        self.flush()?;
        let stopped = self.timing.mark().map_err(|e| self.error(e))?;
        self.finish()?;
        self.timing.since_start(stopped).map_err(|e| self.error(e))
    }

    /// Everything before has run, and left this status.
    fn settle(&mut self, status: [u8; STATUS]) -> Result<()> {
        self.timing.tell().map_err(|e| self.error(e))?;
        (self.first, self.last) = ("", "");
        if let Some(late) = self.late.take() {
            return Err(late);
        }
        let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|b| status[4 * i + b]));
        let [number, place, value] = [word(0), word(1), word(2)];
        if number == 0 {
            self.faults.clear();
            return Ok(());
        }
        let fault = self.faults.get(number as usize - 1).copied();
        self.clear_status()?;
        Err(fault.map_or_else(
            || Error::Device(format!("cuda: a kernel reports fault {number} at {place} with {value}")),
            |fault| fault.error(value, place),
        ))
    }
}
