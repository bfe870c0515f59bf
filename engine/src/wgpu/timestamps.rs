//! When the device ran each operation, for profiles: timestamps before and after each launch while somebody records.

use std::time::Duration;

use ::wgpu;
use tracing::Span;

use super::problems::poll;
use crate::profile;

/// Launches of a batch, twice: before and after.
const QUERIES: u32 = 512;
const TICK: u64 = 8;
/// Longest wait for a callback whose commands have ended.
const TOLD: Duration = Duration::from_secs(5);

/// A batch whose timestamps have not been read.
struct Batch {
    ticks: wgpu::Buffer,
    spans: Vec<Span>,
}

/// Timestamps of a queue.
pub(super) struct Timestamps {
    device: wgpu::Device,
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    /// Nanoseconds of a tick.
    period: f64,
    /// A tick, and when it was on the recorder's axis.
    origin: (u64, f64),
    /// Operations of the batch that gathers, one for each launch.
    spans: Vec<Span>,
    batches: Vec<Batch>,
}

/// The operation that runs, if its times are wanted.
pub(super) fn wanted() -> Option<Span> {
    tracing::span_enabled!(target: profile::OP, tracing::Level::TRACE)
        .then(Span::current)
        .filter(|span| span.metadata().is_some_and(|metadata| metadata.target() == profile::OP))
}

fn map(device: &wgpu::Device, ticks: &wgpu::Buffer, count: usize) -> Option<Vec<u64>> {
    let (tell, told) = std::sync::mpsc::channel();
    ticks.map_async(wgpu::MapMode::Read, ..count as u64 * TICK, move |result| {
        let _ = tell.send(result);
    });
    poll(device, wgpu::PollType::wait_indefinitely()).ok()?;
    told.recv_timeout(TOLD).ok()?.ok()?;
    let mapped = ticks.get_mapped_range(..count as u64 * TICK).ok()?;
    Some((0..count).map(|i| u64::from_le_bytes(std::array::from_fn(|b| mapped[8 * i + b]))).collect())
}

impl Timestamps {
    /// `None` if the device has none, or nobody's clock is there to map them to.
    pub(super) fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Option<Self> {
        let needed = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::TIMESTAMP_QUERY_INSIDE_PASSES;
        if !device.features().contains(needed) {
            return None;
        }
        profile::now()?;
        let queries = device.create_query_set(&wgpu::QuerySetDescriptor {
            label: None,
            ty: wgpu::QueryType::Timestamp,
            count: QUERIES,
        });
        let resolved = device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: u64::from(QUERIES) * TICK,
            usage: wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        let mut all = Self {
            device: device.clone(),
            queries,
            resolved,
            period: f64::from(queue.get_timestamp_period()),
            origin: (0, 0.0),
            spans: Vec::new(),
            batches: Vec::new(),
        };
        // A tick between two looks at the other clock ties them.
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.write_timestamp(&all.queries, 0);
        pass.write_timestamp(&all.queries, 1);
        drop(pass);
        let ticks = all.copy_out(&mut encoder, 2);
        let before = profile::now()?;
        queue.submit([encoder.finish()]);
        poll(device, wgpu::PollType::wait_indefinitely()).ok()?;
        let after = profile::now()?;
        all.origin = (map(device, &ticks, 2)?[0], (before + after) as f64 / 2.0);
        Some(all)
    }

    fn copy_out(&self, encoder: &mut wgpu::CommandEncoder, count: u32) -> wgpu::Buffer {
        let size = u64::from(count) * TICK;
        let ticks = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &ticks, 0, size);
        ticks
    }

    /// Before a launch of the operation `span`; returns the query for its end.
    pub(super) fn begin(&mut self, pass: &mut wgpu::ComputePass<'static>, span: Span) -> Option<u32> {
        let at = 2 * self.spans.len() as u32;
        if at + 2 > QUERIES {
            return None;
        }
        pass.write_timestamp(&self.queries, at);
        self.spans.push(span);
        Some(at + 1)
    }

    /// After the launch.
    pub(super) fn end(&self, pass: &mut wgpu::ComputePass<'static>, at: u32) {
        pass.write_timestamp(&self.queries, at);
    }

    /// The batch is about to be submitted.
    pub(super) fn submit(&mut self, encoder: &mut wgpu::CommandEncoder) {
        if !self.spans.is_empty() {
            let ticks = self.copy_out(encoder, 2 * self.spans.len() as u32);
            self.batches.push(Batch { ticks, spans: std::mem::take(&mut self.spans) });
        }
    }

    /// All that was submitted has run: tells the recorder. Launches of one operation are one stretch.
    pub(super) fn tell(&mut self) {
        for Batch { ticks, spans } in std::mem::take(&mut self.batches) {
            let Some(read) = map(&self.device, &ticks, 2 * spans.len()) else { continue };
            let at = |tick: u64| {
                let ns = self.origin.1 + tick.wrapping_sub(self.origin.0).cast_signed() as f64 * self.period;
                ns.max(0.0) as u64
            };
            let mut open: Option<(usize, u64, u64)> = None;
            for (i, span) in spans.iter().enumerate() {
                let (start, end) = (at(read[2 * i]), at(read[2 * i + 1]));
                open = match open {
                    Some((first, since, _)) if spans[first].id() == span.id() => Some((first, since, end)),
                    other => {
                        if let Some((first, since, until)) = other {
                            profile::device_time(&spans[first], since, until);
                        }
                        Some((i, start, end))
                    }
                };
            }
            if let Some((first, since, until)) = open {
                profile::device_time(&spans[first], since, until);
            }
        }
    }
}
