//! The queue: commands gather in one encoder and are submitted when someone reads, when enough have gathered, or when
//! they are estimated to take so long that a driver's watchdog might stop them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::wgpu;

use super::buffer::WgpuBuffer;
use super::problems::{Problems, poll, watched};
use super::timestamps::{self, Timestamps};
use crate::Error;
use crate::error::Result;
use crate::fault::Fault;

/// Bytes of launch parameters that one batch holds.
const PARAMS: u64 = 256 << 10;
/// Parameters of a launch begin at multiples of this: the largest alignment that WebGPU allows a device to ask for.
const SLOT: usize = 256;
/// Launches of a batch.
const LAUNCHES: usize = 192;
/// Operations (multiply-adds, loads) of a batch: below half a second on a processor that plays GPU, where watchdogs
/// wait two.
const WORK: u64 = 3_000_000_000;
/// Multiply-adds of one dispatch of a product: somewhat more than half a second on a slow integrated GPU (20 GMAC/s).
pub(super) const DISPATCH: usize = 4 * WORK as usize;
/// Batches on their way; the next submission waits for the oldest.
const IN_FLIGHT: usize = 4;
/// Bytes that cross to or from the device at a time. The queue copies what it is to write: two parts of so many bytes
/// are all that the host holds of a model while it is loaded.
const CHUNK: usize = 16 << 20;
/// Longest wait for a batch before the device is given up.
const PATIENCE: Duration = Duration::from_mins(2);
/// Words of a fault report.
const FAULT: usize = 4;

/// Timestamps are made when somebody first wants them.
enum Clock {
    Unasked,
    Absent,
    There(Box<Timestamps>),
}

impl Clock {
    fn asked(timestamps: Option<Timestamps>) -> Self {
        if let Some(timestamps) = timestamps {
            return Self::There(Box::new(timestamps));
        }
        tracing::warn!(
            "this GPU has no timestamps: times of operations are those of the calls that record them"
        );
        Self::Absent
    }

    fn there(&mut self) -> Option<&mut Timestamps> {
        match self {
            Self::There(timestamps) => Some(timestamps),
            Self::Unasked | Self::Absent => None,
        }
    }
}

/// Commands on their way to the device.
pub(super) struct Stream {
    device: wgpu::Device,
    queue: wgpu::Queue,
    problems: Arc<Problems>,
    /// Before the encoder: a pass must end first.
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: Option<wgpu::CommandEncoder>,
    /// Number of the batch that gathers, from 1.
    batch: u64,
    params: wgpu::Buffer,
    staged: Vec<u8>,
    launches: usize,
    work: u64,
    /// Operations of the batch, for messages.
    first: &'static str,
    last: &'static str,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    /// Bytes that the queue has copied and not yet been told to write.
    copied: usize,
    /// The part before, on its way.
    writing: Option<wgpu::SubmissionIndex>,
    readback: Option<wgpu::Buffer>,
    fault: wgpu::Buffer,
    faults: Vec<Fault>,
    /// Launches since the device was opened.
    total: u64,
    timestamps: Clock,
}

impl Stream {
    pub(super) fn new(device: wgpu::Device, queue: wgpu::Queue, problems: Arc<Problems>) -> Self {
        let buffer = |size, usage| {
            let usage = usage | wgpu::BufferUsages::COPY_DST;
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let params = buffer(PARAMS, wgpu::BufferUsages::UNIFORM);
        let fault = buffer(4 * FAULT as u64, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC);
        Self {
            device,
            queue,
            problems,
            pass: None,
            encoder: None,
            batch: 1,
            params,
            staged: Vec::new(),
            launches: 0,
            work: 0,
            first: "",
            last: "",
            in_flight: VecDeque::new(),
            copied: 0,
            writing: None,
            readback: None,
            fault,
            faults: Vec::new(),
            total: 0,
            timestamps: Clock::Unasked,
        }
    }

    pub(super) fn params(&self) -> &wgpu::Buffer {
        &self.params
    }

    pub(super) fn fault_buffer(&self) -> &wgpu::Buffer {
        &self.fault
    }

    pub(super) fn batch(&self) -> u64 {
        self.batch
    }

    pub(super) fn total_launches(&self) -> u64 {
        self.total
    }

    /// The number by which a launch reports `fault`, from 1.
    pub(super) fn watch(&mut self, fault: Fault) -> u32 {
        self.faults.push(fault);
        self.faults.len() as u32
    }

    /// Puts a launch's parameters in the batch; returns their place. Submits first if they do not fit.
    pub(super) fn stage(&mut self, params: &[u8]) -> Result<u32> {
        if self.staged.len() + params.len().next_multiple_of(SLOT) > PARAMS as usize {
            self.submit()?;
        }
        let at = self.staged.len();
        self.staged.extend_from_slice(params);
        self.staged.resize(self.staged.len().next_multiple_of(SLOT), 0);
        Ok(at as u32)
    }

    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.encoder.get_or_insert_with(|| {
            self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
        })
    }

    /// Records a launch of `work` operations.
    pub(super) fn launch(
        &mut self,
        op: &'static str,
        pipeline: &wgpu::ComputePipeline,
        group: &wgpu::BindGroup,
        params_at: u32,
        grid: [u32; 3],
        work: u64,
    ) -> Result<()> {
        if self.pass.is_none() {
            let pass =
                self.encoder().begin_compute_pass(&wgpu::ComputePassDescriptor::default()).forget_lifetime();
            self.pass = Some(pass);
        }
        let clock = timestamps::wanted().and_then(|span| {
            let (device, queue) = (&self.device, &self.queue);
            if matches!(self.timestamps, Clock::Unasked) {
                self.timestamps = Clock::asked(Timestamps::new(device, queue));
            }
            self.timestamps.there().map(|clock| (clock, span))
        });
        let pass = self.pass.as_mut().expect("begun above");
        let clock = clock.and_then(|(clock, span)| Some((clock.begin(pass, span)?, clock)));
        pass.set_pipeline(pipeline);
        pass.set_bind_group(0, group, &[params_at]);
        pass.dispatch_workgroups(grid[0], grid[1], grid[2]);
        if let Some((query, clock)) = clock {
            clock.end(pass, query);
        }
        if self.launches == 0 {
            self.first = op;
        }
        self.last = op;
        self.launches += 1;
        self.total += 1;
        self.work = self.work.saturating_add(work);
        if self.launches >= LAUNCHES || self.work >= WORK {
            self.submit()?;
        }
        Ok(())
    }

    /// Fills a buffer with zeros, in the order of commands.
    pub(super) fn clear(&mut self, buffer: &WgpuBuffer) {
        self.pass = None;
        self.encoder().clear_buffer(buffer.raw(), 0, None);
        buffer.used_in(self.batch);
    }

    /// The operations of the batch, for messages.
    fn batch_text(&self) -> String {
        format!("in a batch from {} to {}", self.first, self.last)
    }

    /// An error if the device is gone: `doing` says what could not be done.
    pub(super) fn alive(&self, doing: impl FnOnce() -> String) -> Result<()> {
        self.problems.alive(doing)
    }

    /// An error if the device has reported one.
    pub(super) fn check(&self) -> Result<()> {
        let hint = || format!("{}; ROENTGEN_WGPU_SYNC=1 submits launches one by one", self.batch_text());
        self.problems.check(|| self.batch_text(), hint)
    }

    /// Hands the batch to the device.
    pub(super) fn submit(&mut self) -> Result<()> {
        self.pass = None;
        let Some(mut encoder) = self.encoder.take() else { return self.check() };
        if let Some(clock) = self.timestamps.there() {
            clock.submit(&mut encoder);
        }
        if !self.staged.is_empty() {
            self.queue.write_buffer(&self.params, 0, &self.staged);
            self.staged.clear();
        }
        let index = self.queue.submit([encoder.finish()]);
        self.copied = 0;
        self.batch += 1;
        self.launches = 0;
        self.work = 0;
        self.in_flight.push_back(index);
        if self.in_flight.len() > IN_FLIGHT
            && let Some(oldest) = self.in_flight.pop_front()
        {
            self.wait(Some(oldest))?;
        }
        self.check()
    }

    fn wait(&self, index: Option<wgpu::SubmissionIndex>) -> Result<()> {
        let wait = wgpu::PollType::Wait { submission_index: index, timeout: Some(PATIENCE) };
        let waited = poll(&self.device, wait);
        self.check()?;
        waited.map_err(|e| {
            Error::Device(format!("wgpu: the device does not answer: {e} ({})", self.batch_text()))
        })
    }

    /// Submits and waits until the device is idle.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.submit()?;
        self.in_flight.clear();
        self.writing = None;
        self.wait(None)?;
        self.tell_times();
        Ok(())
    }

    /// What has run is told to the recorder, if there is one.
    fn tell_times(&mut self) {
        if let Some(clock) = self.timestamps.there() {
            clock.tell();
        }
    }

    /// Copies `data` to byte `at`.
    pub(super) fn upload(&mut self, buffer: &WgpuBuffer, at: usize, data: &[u8]) -> Result<()> {
        assert!(at <= buffer.len() && data.len() <= buffer.len() - at);
        self.alive(|| format!("writing {} bytes", data.len()))?;
        if buffer.last_use() == self.batch {
            // What is written goes before the commands of the next submission.
            self.submit()?;
        }
        let whole = at.is_multiple_of(4) && (data.len().is_multiple_of(4) || at + data.len() == buffer.len());
        if !whole {
            // Words are the least that can be written: the others' bytes in them are read first.
            let start = at / 4 * 4;
            let end = (at + data.len()).next_multiple_of(4);
            let mut words = vec![0; end - start];
            self.download_words(buffer, start, &mut words)?;
            words[at - start..at - start + data.len()].copy_from_slice(data);
            self.queue.write_buffer(buffer.raw(), start as u64, &words);
            return self.check();
        }
        for (i, part) in data.chunks(CHUNK).enumerate() {
            let to = (at + i * CHUNK) as u64;
            let words = part.len() / 4 * 4;
            if words > 0 {
                self.queue.write_buffer(buffer.raw(), to, &part[..words]);
            }
            if words < part.len() {
                let mut last = [0; 4];
                last[..part.len() - words].copy_from_slice(&part[words..]);
                self.queue.write_buffer(buffer.raw(), to + words as u64, &last);
            }
            self.copied += part.len();
            if self.copied >= CHUNK {
                self.let_go()?;
            }
        }
        self.check()
    }

    /// Has the queue write what it copied, and waits until the part before is on the device.
    fn let_go(&mut self) -> Result<()> {
        let part = self.queue.submit([]);
        self.copied = 0;
        self.writing.replace(part).map_or(Ok(()), |before| self.wait(Some(before)))
    }

    /// Copies from byte `at`, after all that was recorded before; an error if a kernel met a bad index meanwhile.
    pub(super) fn download(&mut self, buffer: &WgpuBuffer, at: usize, data: &mut [u8]) -> Result<()> {
        assert!(at <= buffer.len() && data.len() <= buffer.len() - at);
        self.alive(|| format!("reading {} bytes", data.len()))?;
        if data.is_empty() {
            // The shape alone tells the values, but not that all went well.
            return self.download_words(buffer, 0, &mut []);
        }
        let start = at / 4 * 4;
        if start == at && data.len().is_multiple_of(4) {
            return self.download_words(buffer, at, data);
        }
        let mut words = vec![0; (at + data.len()).next_multiple_of(4) - start];
        self.download_words(buffer, start, &mut words)?;
        data.copy_from_slice(&words[at - start..at - start + data.len()]);
        Ok(())
    }

    /// A buffer of at least so many bytes that the host can read.
    fn staging(&self, bytes: u64) -> Result<wgpu::Buffer> {
        let descriptor = wgpu::BufferDescriptor {
            label: None,
            size: bytes.next_power_of_two().max(4096),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        match watched(&self.device, || self.device.create_buffer(&descriptor)) {
            (buffer, None) => Ok(buffer),
            (_, Some(e)) => Err(Error::Device(format!("wgpu: no room to read {bytes} bytes through: {e}"))),
        }
    }

    /// As [`Self::download`] of several, with one submission where they are whole words and not too many.
    pub(super) fn download_several(&mut self, parts: &mut [(&WgpuBuffer, usize, &mut [u8])]) -> Result<()> {
        for (buffer, at, data) in &*parts {
            assert!(*at <= buffer.len() && data.len() <= buffer.len() - at);
        }
        let words = parts.iter().all(|(_, at, data)| at.is_multiple_of(4) && data.len().is_multiple_of(4));
        let bytes = parts.iter().map(|(_, _, data)| data.len()).sum::<usize>();
        if !words || bytes > CHUNK {
            return parts.iter_mut().try_for_each(|(buffer, at, data)| self.download(buffer, *at, data));
        }
        self.alive(|| format!("reading {bytes} bytes"))?;
        self.trip(parts)
    }

    /// As [`Self::download`], whole words.
    fn download_words(&mut self, buffer: &WgpuBuffer, at: usize, data: &mut [u8]) -> Result<()> {
        if data.is_empty() {
            return self.trip(&mut []);
        }
        let mut parts = data.chunks_mut(CHUNK).enumerate();
        parts.try_for_each(|(i, part)| self.trip(&mut [(buffer, at + i * CHUNK, part)]))
    }

    /// Submits, waits, and brings these parts, whole words and at most [`CHUNK`] bytes in all, and what a kernel found wrong.
    fn trip(&mut self, parts: &mut [(&WgpuBuffer, usize, &mut [u8])]) -> Result<()> {
        let bytes = 4 * FAULT as u64 + parts.iter().map(|(_, _, data)| data.len() as u64).sum::<u64>();
        let staging = match self.readback.take().filter(|b| b.size() >= bytes) {
            Some(staging) => staging,
            None => self.staging(bytes)?,
        };
        self.pass = None;
        let fault = self.fault.clone();
        let encoder = self.encoder();
        encoder.copy_buffer_to_buffer(&fault, 0, &staging, 0, 4 * FAULT as u64);
        let mut to = 4 * FAULT as u64;
        for (buffer, at, data) in parts.iter().filter(|(_, _, data)| !data.is_empty()) {
            encoder.copy_buffer_to_buffer(buffer.raw(), *at as u64, &staging, to, data.len() as u64);
            to += data.len() as u64;
        }
        self.submit()?;
        let (tell, told) = std::sync::mpsc::channel();
        staging.map_async(wgpu::MapMode::Read, ..bytes, move |result| {
            let _ = tell.send(result);
        });
        self.wait(None)?;
        self.in_flight.clear();
        self.tell_times();
        match told.recv_timeout(PATIENCE) {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(Error::Device(format!("wgpu: cannot read from the device: {e}"))),
            Err(_) => return Err(Error::Device("wgpu: the device does not answer a read".into())),
        }
        let fault = {
            let mapped = staging
                .get_mapped_range(..bytes)
                .map_err(|e| Error::Device(format!("wgpu: cannot read from the device: {e}")))?;
            let mut from = 4 * FAULT;
            for (_, _, data) in &mut *parts {
                data.copy_from_slice(&mapped[from..from + data.len()]);
                from += data.len();
            }
            let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|b| mapped[4 * i + b]));
            [word(0), word(1), word(2), word(3)]
        };
        staging.unmap();
        self.readback = Some(staging);
        if fault[0] != 0 {
            self.queue.write_buffer(&self.fault, 0, &[0; 4 * FAULT]);
            let kind = self.faults.get((fault[3] as usize).wrapping_sub(1)).copied();
            self.faults.clear();
            return Err(kind.map_or_else(
                || Error::Device(format!("wgpu: a kernel reports {fault:?}")),
                |kind| kind.error(fault[1], fault[2]),
            ));
        }
        self.faults.clear();
        Ok(())
    }
}
