//! Repeats of one case: round copies of its inputs, and on a GPU many in a line.

use std::time::{Duration, Instant};

use engine::{Application, DType, Device, Tensor};

use crate::Result;
use crate::stats::{sample, sample_timed};

/// What a line of runs on a GPU takes at least.
const LINE_SECONDS: f64 = 2e-3;
/// Runs of a line.
const LONGEST_LINE: usize = 64;
/// What one piece of work that keeps a GPU busy takes at least, and the rounds of a sum that it may take for it.
const BUSY_SECONDS: f64 = 5e-4;
const MOST_ROUNDS: usize = 1 << 16;
/// A GPU is kept busy for so many times what it took the host to submit a line.
const AHEAD: f64 = 2.0;

/// Copies of an application that repeats go round, each with the outputs of its last run.
pub(super) struct Ring {
    copies: Vec<Application>,
    outputs: Vec<Vec<Tensor>>,
    /// Runs so far.
    runs: usize,
}

impl Ring {
    pub(super) fn new(application: &Application, copies: usize) -> Result<Self> {
        let copies = (0..copies).map(|_| application.duplicate()).collect::<engine::Result<Vec<_>>>()?;
        let outputs = copies.iter().map(|_| Vec::new()).collect();
        let mut ring = Self { copies, outputs, runs: 0 };
        // Twice round, so that the pool has all buffers and every page was touched.
        for _ in 0..2 * ring.copies.len() {
            ring.run()?;
        }
        Ok(ring)
    }

    /// The old outputs of the copy are dropped once there are new ones: the buffer pool then hands out the memory that
    /// was used longest ago, so that outputs come from memory too.
    fn run(&mut self) -> engine::Result<()> {
        let at = self.runs % self.copies.len();
        self.outputs[at] = self.copies[at].run()?;
        self.runs += 1;
        Ok(())
    }

    /// Seconds of a run on the processor, for about `seconds`.
    pub(super) fn calls(&mut self, seconds: f64) -> Result<Vec<f64>> {
        sample(seconds, |_| Ok(self.run()?))
    }

    /// Seconds of a run on `device`, a GPU, in lines of many, for about `seconds`.
    pub(super) fn lines(&mut self, device: &Device, seconds: f64) -> Result<Vec<f64>> {
        let line = Line::new(self, device)?;
        sample_timed(seconds, || line.seconds(self))
    }
}

/// Runs on a GPU in a line, of which the wait at its end is a small part. Where the device has a clock of its own it is kept busy until
/// all of the line is submitted: then the time is the device's alone, and none of it the host's.
struct Line<'a> {
    device: &'a Device,
    runs: usize,
    /// What keeps it busy: rounds of a sum, and how often.
    busy: Tensor,
    rounds: usize,
    times: usize,
}

impl<'a> Line<'a> {
    fn new(ring: &mut Ring, device: &'a Device) -> Result<Self> {
        let busy = Tensor::zeros(&[256], DType::F32, device)?;
        let mut line = Self { device, runs: 1, busy, rounds: 16, times: 0 };
        line.seconds(ring)?;
        let once = line.seconds(ring)?;
        line.runs = ((LINE_SECONDS / once) as usize).clamp(1, LONGEST_LINE);
        let mut submitted = Duration::ZERO;
        let begun = Instant::now();
        let own = device.elapsed(|| {
            line.submit(ring)?;
            submitted = begun.elapsed();
            Ok(())
        })?;
        if own.is_some() {
            let piece = loop {
                let time = device.elapsed(|| line.keep_busy(1))?.unwrap_or_default().as_secs_f64();
                if time >= BUSY_SECONDS || line.rounds >= MOST_ROUNDS {
                    break time;
                }
                line.rounds *= 4;
            };
            line.times = (AHEAD * submitted.as_secs_f64() / piece.max(1e-6)).ceil().clamp(1.0, 64.0) as usize;
        }
        Ok(line)
    }

    fn keep_busy(&self, times: usize) -> engine::Result<()> {
        (0..times).try_for_each(|_| self.busy.burst_multiply_adds(self.rounds).map(drop))
    }

    fn submit(&self, ring: &mut Ring) -> engine::Result<()> {
        (0..self.runs).try_for_each(|_| ring.run())
    }

    fn seconds(&self, ring: &mut Ring) -> Result<f64> {
        self.keep_busy(self.times)?;
        let begun = Instant::now();
        let own = self.device.elapsed(|| self.submit(ring))?;
        Ok(own.unwrap_or_else(|| begun.elapsed()).as_secs_f64() / self.runs as f64)
    }
}

#[cfg(test)]
mod tests {
    use engine::capture;
    use roentgen_oracle::gpu;

    use super::*;

    fn ring(device: &Device) -> Ring {
        let x = Tensor::zeros(&[64, 64], DType::F32, device).unwrap();
        let (y, kept) = capture(|| x.affine(2.0, 1.0));
        y.unwrap();
        Ring::new(&kept[0], 3).unwrap()
    }

    /// Every run is of the next copy, whose outputs stay.
    fn lines(device: &Device) {
        let mut ring = ring(device);
        let runs = ring.runs;
        let samples = ring.lines(device, 0.05).unwrap();
        assert!(samples.len() >= 5 && samples.iter().all(|&s| s > 0.0 && s < 0.1), "{samples:?}");
        assert!(ring.runs >= runs + samples.len());
        assert_eq!(ring.outputs.iter().map(Vec::len).collect::<Vec<_>>(), [1; 3]);
    }

    #[test]
    fn a_line_on_a_gpu() {
        if let Some(device) = gpu::gpu() {
            lines(&device);
        }
    }

    /// By the device's own clock, which is kept busy before.
    #[test]
    fn a_line_on_a_device_with_a_clock() {
        if cuda_host::load().is_some() {
            let device = Device::cuda(0).unwrap();
            lines(&device);
            let mut ring = ring(&device);
            let line = Line::new(&mut ring, &device).unwrap();
            assert!(line.times > 0 && line.rounds >= 16, "{} times {} rounds", line.times, line.rounds);
        }
    }

    #[test]
    fn calls_on_the_processor() {
        let samples = ring(&Device::cpu()).calls(0.01).unwrap();
        assert!(samples.len() >= 5 && samples.iter().all(|&s| s > 0.0), "{samples:?}");
    }
}
