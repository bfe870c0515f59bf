//! When the device ran what, by events in the stream: each operation for the profiler, without a listener none; and a stretch of work for a clock.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::result::DriverError;
use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream};
use tracing::{Level, Span};

use crate::profile;

/// Operations that are kept before the host waits for them to be told.
const MOST: usize = 4096;

/// One operation: its span, and events before its first and after its last launch.
struct Timed {
    span: Span,
    application: u64,
    start: CudaEvent,
    end: CudaEvent,
}

pub(super) struct Timing {
    stream: Arc<CudaStream>,
    pending: Vec<Timed>,
    /// Events that were told, for reuse.
    spare: Vec<CudaEvent>,
    /// Whether the launch that has begun is timed.
    on: bool,
    /// Where the clock was started.
    started: Option<CudaEvent>,
}

impl Timing {
    pub(super) fn new(stream: Arc<CudaStream>) -> Self {
        Self { stream, pending: Vec::new(), spare: Vec::new(), on: false, started: None }
    }

    fn event(&mut self) -> Result<CudaEvent, DriverError> {
        match self.spare.pop() {
            Some(event) => Ok(event),
            None => self.stream.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)),
        }
    }

    /// Whether someone listens to operations: a recorder, or a tool that draws them around their launches.
    pub(super) fn listens() -> bool {
        tracing::enabled!(target: profile::OP, Level::TRACE)
    }

    /// Before a launch.
    pub(super) fn begin(&mut self) -> Result<(), DriverError> {
        self.on = Self::listens() && profile::now().is_some();
        if !self.on {
            return Ok(());
        }
        let span = Span::current();
        self.on = span.metadata().is_some_and(|metadata| metadata.target() == profile::OP);
        let application = profile::application();
        // A further launch of the operation that the last one was for.
        if !self.on || self.pending.last().is_some_and(|timed| timed.application == application) {
            return Ok(());
        }
        if self.pending.len() >= MOST {
            self.tell()?;
        }
        let (start, end) = (self.event()?, self.event()?);
        start.record(&self.stream)?;
        self.pending.push(Timed { span, application, start, end });
        Ok(())
    }

    /// After a launch.
    pub(super) fn end(&mut self) -> Result<(), DriverError> {
        match self.pending.last().filter(|_| self.on) {
            Some(timed) => timed.end.record(&self.stream),
            None => Ok(()),
        }
    }

    /// Waits for the pending operations and gives their times to the profiler.
    pub(super) fn tell(&mut self) -> Result<(), DriverError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        // What the device's clock says now is what the host's says now, up to the time of one wait.
        let mark = self.mark()?;
        mark.synchronize()?;
        let now = profile::now();
        for Timed { span, start, end, .. } in std::mem::take(&mut self.pending) {
            if let Some(now) = now {
                let ago = |event: &CudaEvent| -> Result<u64, DriverError> {
                    Ok((f64::from(event.elapsed_ms(&mark)?) * 1e6) as u64)
                };
                let [start, end] = [ago(&start)?, ago(&end)?].map(|ago| now.saturating_sub(ago));
                profile::device_time(&span, start, end);
            }
            self.spare.extend([start, end]);
        }
        self.spare.push(mark);
        Ok(())
    }

    /// An event here in the stream.
    pub(super) fn mark(&mut self) -> Result<CudaEvent, DriverError> {
        let event = self.event()?;
        event.record(&self.stream)?;
        Ok(event)
    }

    /// Starts the clock, here in the stream.
    pub(super) fn start(&mut self) -> Result<(), DriverError> {
        let event = self.mark()?;
        self.spare.extend(self.started.replace(event));
        Ok(())
    }

    /// From the start to the mark `stopped`, both passed by; zero without a start.
    pub(super) fn since_start(&mut self, stopped: CudaEvent) -> Result<Duration, DriverError> {
        let time = self.started.as_ref().map_or(Ok(0.0), |started| started.elapsed_ms(&stopped))?;
        self.spare.push(stopped);
        Ok(Duration::from_secs_f64(f64::from(time.max(0.0)) / 1e3))
    }
}
