//! The ceilings of this machine, measured with loops written for the purpose: no kernel of the engine takes part, so
//! that a slow kernel cannot make its own ceiling lower.
//!
//! | ceiling | how |
//! |---|---|
//! | arithmetic, by instruction set and element type | multiply-adds on registers, all threads |
//! | bandwidth, by working set from 16 KiB to 512 MiB | reading, and the triad `a = b + s·c`, all threads |
//! | latency | an empty fork and join of the engine's threads; the smallest operation |
//!
//! Of a GPU the same, by an operation with no other use ([`engine::ops::Burst`]): from 1 MiB to 512 MiB; a launch in a line
//! of many, and one that is waited for.
//!
//! A ceiling is the best of many short trials, not their median: other work on the machine can only lower a trial. On
//! a shared machine today's best may still lie below tomorrow's, so [`Machine::raise`] keeps the best ever seen.

mod arithmetic;
mod fingerprint;
mod gpu;
mod latency;
mod memory;
mod store;

use engine::{DType, Device};
use serde::{Deserialize, Serialize};

pub use fingerprint::Fingerprint;
pub(crate) use store::cache_folder;
pub use store::default_path;

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Every working set: about ten seconds.
    Full,
    /// Some working sets, two seconds: when a command needs ceilings and there are none.
    Quick,
    /// One of each kind, a fifth of a second: to notice a machine that is faster now, or slower.
    Probe,
}

/// What one machine can do at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Which machine.
    pub fingerprint: Fingerprint,
    /// Unix time of the measurement, seconds.
    pub measured: u64,
    /// Arithmetic peaks.
    pub peaks: Vec<Peak>,
    /// Bandwidths, by rising working set.
    pub levels: Vec<Level>,
    /// Seconds of a fork and join of all threads with nothing to do, best and typical; of a GPU, those of the smallest
    /// operation in a line of many.
    pub fork_join: Latency,
    /// Seconds of the engine's smallest operation (one element), best and typical; of a GPU with the wait for it.
    pub launch: Latency,
}

/// Multiply-adds a second, counted as two operations each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peak {
    /// Instruction-set path, by [`engine::cpu::isa::Isa::name`]; of a GPU the backend's name.
    pub isa: String,
    /// Element type of the factors, `f32` or `bf16`; sums are f32.
    pub dtype: String,
    /// Operations a second on all threads.
    pub flops: f64,
}

/// Bytes a second over a working set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// Working set of all threads together.
    pub bytes: usize,
    /// Reading.
    pub read: f64,
    /// `a = b + s·c`: two arrays read, one written, each counted once.
    pub triad: f64,
}

/// Seconds of something short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Least.
    pub best: f64,
    /// Median.
    pub typical: f64,
}

/// Which side of the roofline holds a kernel back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// Arithmetic.
    Compute,
    /// Bandwidth.
    Memory,
    /// Neither: it has less work than the smallest operation takes time ([`Machine::bound`]).
    Latency,
}

impl Machine {
    /// Measures a device of the machine that this runs on.
    pub fn measure(device: &Device, effort: Effort) -> engine::Result<Self> {
        let (peaks, levels, [fork_join, launch]) = if *device == Device::cpu() {
            let latencies = [latency::fork_join(effort), latency::smallest_operation(effort)?];
            (arithmetic::measure(effort), memory::measure(effort), latencies)
        } else {
            (gpu::peaks(device, effort)?, gpu::levels(device, effort)?, gpu::latencies(device, effort)?)
        };
        let short = |l: Latency| Latency { best: six_digits(l.best), typical: six_digits(l.typical) };
        Ok(Self {
            fingerprint: Fingerprint::of(device),
            measured: now(),
            peaks: peaks.into_iter().map(|p| Peak { flops: six_digits(p.flops), ..p }).collect(),
            levels: levels
                .into_iter()
                .map(|l| Level { read: six_digits(l.read), triad: six_digits(l.triad), ..l })
                .collect(),
            fork_join: short(fork_join),
            launch: short(launch),
        })
    }

    /// Takes over what `other` saw better: ceilings are the best ever seen. Returns whether anything changed.
    pub fn raise(&mut self, other: &Self) -> bool {
        let before = self.clone();
        for peak in &other.peaks {
            match self.peaks.iter_mut().find(|p| p.isa == peak.isa && p.dtype == peak.dtype) {
                Some(mine) => mine.flops = mine.flops.max(peak.flops),
                None => self.peaks.push(peak.clone()),
            }
        }
        for level in &other.levels {
            match self.levels.iter_mut().find(|l| l.bytes == level.bytes) {
                Some(mine) => {
                    mine.read = mine.read.max(level.read);
                    mine.triad = mine.triad.max(level.triad);
                }
                None => self.levels.push(level.clone()),
            }
        }
        self.levels.sort_by_key(|l| l.bytes);
        self.fork_join.best = self.fork_join.best.min(other.fork_join.best);
        self.launch.best = self.launch.best.min(other.launch.best);
        *self != before
    }

    /// What holds work back that the roofline allows `least` seconds on side `side`.
    pub fn bound(&self, least: f64, side: Bound) -> Bound {
        if least < self.launch.typical { Bound::Latency } else { side }
    }

    /// What a kernel is held against: the best path of the machine.
    pub fn ceilings(&self) -> Ceilings {
        let of = |dtype: &str| {
            let all = self.peaks.iter().filter(|p| p.dtype == dtype).map(|p| p.flops);
            all.fold(0.0, f64::max)
        };
        // A kernel may widen bf16 and multiply in f32 (products are exact), so its peak is at least that.
        let f32 = of(DType::F32.name());
        let mut levels = self.levels.clone();
        // A larger set cannot be faster than a smaller one: where it seems so, the smaller one had a bad day.
        for i in (1..levels.len()).rev() {
            levels[i - 1].read = levels[i - 1].read.max(levels[i].read);
            levels[i - 1].triad = levels[i - 1].triad.max(levels[i].triad);
        }
        Ceilings { f32, bf16: of(DType::BF16.name()).max(f32), levels }
    }

    /// By what factor the arithmetic and the memory of `other` differ from these, the larger of the two; at least 1.
    pub fn drift(&self, other: &Self) -> f64 {
        let (a, b) = (self.ceilings(), other.ceilings());
        let factor = |x: f64, y: f64| if x > 0.0 && y > 0.0 { (x / y).max(y / x) } else { f64::INFINITY };
        factor(a.f32, b.f32).max(factor(a.memory(), b.memory()))
    }
}

/// The roofline (Williams, Waterman & Patterson 2009): what any kernel reaches at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    f32: f64,
    bf16: f64,
    /// By rising working set; bandwidths fall.
    levels: Vec<Level>,
}

/// Share of a triad's traffic that is written.
const TRIAD_WRITES: f64 = 1.0 / 3.0;

impl Ceilings {
    /// Peak operations a second on elements of `dtype`; types without products of their own count as f32.
    pub fn flops(&self, dtype: DType) -> f64 {
        if dtype == DType::BF16 { self.bf16 } else { self.f32 }
    }

    /// Peak bytes a second for a working set of `bytes` of which the share `written` is written: that of the largest
    /// measured set that is not larger. Reading and the triad are the ends, with a straight line between: caches and
    /// memory take stores beside loads, so a mix may be faster than either.
    pub fn bandwidth(&self, bytes: usize, written: f64) -> f64 {
        let fitting = self.levels.iter().rev().find(|l| l.bytes <= bytes);
        fitting.or(self.levels.first()).map_or(0.0, |l| {
            let mixed = (written / TRIAD_WRITES).clamp(0.0, 1.0);
            l.read + mixed * (l.triad.max(l.read) - l.read)
        })
    }

    /// Peak bytes a second read from memory: of the largest measured set.
    pub fn memory(&self) -> f64 {
        self.levels.last().map_or(0.0, |l| l.read)
    }

    /// Working sets with their peak bytes a second, by rising set.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Least seconds for this work on elements of `dtype` with a working set of `bytes`, and what sets them.
    pub fn least_seconds(&self, cost: &engine::Cost, dtype: DType, bytes: usize) -> (f64, Bound) {
        let compute = cost.flops as f64 / self.flops(dtype);
        let traffic = (cost.read + cost.written) as f64;
        let written = if traffic > 0.0 { cost.written as f64 / traffic } else { 0.0 };
        let memory = traffic / self.bandwidth(bytes, written);
        if compute >= memory { (compute, Bound::Compute) } else { (memory, Bound::Memory) }
    }

    /// Share of the roofline, in percent, of work that took `seconds`.
    pub fn percent(&self, cost: &engine::Cost, dtype: DType, bytes: usize, seconds: f64) -> f64 {
        100.0 * self.least_seconds(cost, dtype, bytes).0 / seconds
    }
}

/// What is worth keeping of a measured value; six digits come back from JSON as they were.
pub(crate) fn six_digits(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

#[cfg(test)]
pub(crate) mod tests {
    use engine::cpu::isa::Isa;

    use super::*;

    pub(crate) fn invented() -> Machine {
        let peak = |isa: Isa, dtype: DType, flops| Peak {
            isa: isa.name().into(),
            dtype: dtype.name().into(),
            flops,
        };
        let level = |bytes, read, triad| Level { bytes, read, triad };
        let latency = Latency { best: 1e-6, typical: 2e-6 };
        Machine {
            fingerprint: Fingerprint::here(),
            measured: 1,
            peaks: vec![
                peak(Isa::Portable, DType::F32, 1e10),
                peak(Isa::Avx512, DType::F32, 1e11),
                peak(Isa::Avx512Bf16, DType::BF16, 2e11),
            ],
            levels: vec![level(1 << 14, 8e11, 9e11), level(1 << 20, 1e11, 2e11), level(1 << 28, 4e10, 3e10)],
            fork_join: latency,
            launch: latency,
        }
    }

    #[test]
    fn the_roof_has_two_sides() {
        let c = invented().ceilings();
        assert_eq!((c.flops(DType::F32), c.flops(DType::BF16), c.flops(DType::U8)), (1e11, 2e11, 1e11));
        assert_eq!(c.bandwidth(1 << 30, 0.5), 4e10, "the triad had a bad day");
        assert_eq!((c.bandwidth((1 << 20) + 1, 0.0), c.bandwidth(1 << 20, 1.0 / 3.0)), (1e11, 2e11));
        assert!((c.bandwidth(1 << 20, 1.0 / 6.0) - 1.5e11).abs() < 1.0);
        assert_eq!(c.bandwidth(1, 1.0), 9e11, "smaller than every set: the fastest");
        let cost = |flops, read| engine::Cost { flops, read, written: 0 };
        let (s, by) = c.least_seconds(&cost(1_000_000, 4_000), DType::F32, 1 << 30);
        assert_eq!((s, by), (1e-5, Bound::Compute));
        let (s, by) = c.least_seconds(&cost(1_000, 4_000_000), DType::F32, 1 << 30);
        assert!((s - 1e-4).abs() < 1e-12 && by == Bound::Memory);
        assert!((c.percent(&cost(1_000, 4_000_000), DType::F32, 1 << 30, 2e-4) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn ceilings_only_rise_and_fall_with_the_set() {
        let mut machine = invented();
        let mut better = invented();
        better.levels[2].read = 9e10;
        better.peaks[1].flops = 5e10;
        assert!(machine.raise(&better));
        assert_eq!(machine.ceilings().flops(DType::F32), 1e11);
        assert_eq!(machine.ceilings().memory(), 9e10);
        assert!(!machine.raise(&better));
        better.levels[2].read = 5e11;
        machine.raise(&better);
        assert_eq!(machine.ceilings().bandwidth(1 << 21, 0.0), 5e11, "as fast as the larger set at least");
    }

    #[test]
    fn drift_is_the_worst_change() {
        let (a, mut b) = (invented(), invented());
        assert_eq!(a.drift(&b), 1.0);
        b.levels[2].read = 2e10;
        b.levels[2].triad = 2e10;
        assert_eq!((a.drift(&b), b.drift(&a)), (2.0, 2.0));
    }
}
