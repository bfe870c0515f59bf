//! Ceilings of a GPU, by the engine's operation for the purpose, [`Burst`](engine::ops::Burst).

use std::time::Instant;

use engine::{DType, Device, Result, Tensor, no_grad};

use super::{Effort, Latency, Level, Peak};
use crate::stats::median;

/// What one trial takes at least: a wait for the device is a small part of it.
const TRIAL_SECONDS: f64 = 2e-3;
/// Elements of the arithmetic: the threads of the largest GPUs, once.
const THREADS: usize = 1 << 18;
/// Most multiply-adds of a sum in a launch.
const MOST_ROUNDS: usize = 1 << 16;
/// Working sets to look at, as powers of two.
const SETS: std::ops::RangeInclusive<u32> = 20..=29;
/// Launches that wait in line, for the cost of one of many.
const LINE: usize = 64;

fn seconds(effort: Effort) -> f64 {
    match effort {
        Effort::Full => 0.4,
        Effort::Quick => 0.1,
        Effort::Probe => 0.02,
    }
}

/// Seconds of `f` in the best trial.
fn best(device: &Device, effort: Effort, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut time = |launches: usize| -> Result<f64> {
        device.synchronize()?;
        let begun = Instant::now();
        for _ in 0..launches {
            f()?;
        }
        device.synchronize()?;
        Ok(begun.elapsed().as_secs_f64())
    };
    // The first compiles the kernel.
    time(1)?;
    let mut launches = 1;
    while time(launches)? < TRIAL_SECONDS && launches < 1 << 16 {
        launches *= 2;
    }
    let begun = Instant::now();
    let mut least = time(launches)?;
    while begun.elapsed().as_secs_f64() < seconds(effort) {
        least = least.min(time(launches)?);
    }
    Ok(least / launches as f64)
}

/// Multiply-adds in f32, and where the backend has matrix instructions for it, in products of bf16.
pub(super) fn peaks(device: &Device, effort: Effort) -> Result<Vec<Peak>> {
    type Burst = fn(&Tensor, usize) -> Result<Tensor>;
    let kinds: [(DType, Burst); 2] =
        [(DType::F32, Tensor::burst_multiply_adds), (DType::BF16, Tensor::burst_products)];
    // WGSL has no products of bf16 matrices.
    let kinds = if device.name() == "cuda" { &kinds[..] } else { &kinds[..1] };
    let x = Tensor::zeros(&[THREADS], DType::F32, device)?;
    kinds
        .iter()
        .map(|(dtype, burst)| {
            // A launch of its own weight: longer than starting it takes, shorter than a watchdog's patience.
            let mut rounds = 64;
            let once = loop {
                device.synchronize()?;
                let begun = Instant::now();
                burst(&x, rounds)?;
                device.synchronize()?;
                let once = begun.elapsed().as_secs_f64();
                if once > TRIAL_SECONDS / 4.0 || rounds == MOST_ROUNDS {
                    break best(device, effort, || burst(&x, rounds).map(drop))?;
                }
                rounds *= 4;
            };
            let flops = (2 * 8 * rounds * THREADS) as f64 / once;
            Ok(Peak { isa: device.name().into(), dtype: dtype.name().into(), flops })
        })
        .collect()
}

/// Reading and the triad, up to the largest set that the device binds.
pub(super) fn levels(device: &Device, effort: Effort) -> Result<Vec<Level>> {
    let step = match effort {
        Effort::Full => 1,
        Effort::Quick => 3,
        Effort::Probe => 9,
    };
    let mut powers: Vec<u32> = SETS.collect();
    // Memory and binding sizes end somewhere below.
    while let Some(&most) = powers.last()
        && powers.len() > 1
        && let Err(error) =
            Tensor::zeros(&[(1 << most) / 4], DType::F32, device).and_then(|x| x.burst_read(1 << 14))
    {
        tracing::info!("no bandwidth over {} bytes: {error}", 1u64 << most);
        powers.pop();
    }
    // From the largest down: a quick look must not leave memory itself out.
    let chosen = powers.into_iter().rev().step_by(step);
    let mut levels = chosen.map(|power| level(device, effort, 1 << power)).collect::<Result<Vec<_>>>()?;
    levels.reverse();
    Ok(levels)
}

fn level(device: &Device, effort: Effort, bytes: usize) -> Result<Level> {
    let n = bytes / size_of::<f32>();
    // Enough threads to fill the device, and enough for each to read.
    let sums = (n / 16).min(4 * THREADS);
    let x = Tensor::zeros(&[n], DType::F32, device)?;
    let read = bytes as f64 / best(device, effort, || x.burst_read(sums).map(drop))?;
    let third = n / 3;
    let (b, c) = (x.narrow(0, 0, third)?, x.narrow(0, third, third)?);
    let moved = (3 * third * size_of::<f32>()) as f64;
    let triad = moved / best(device, effort, || b.burst_triad(&c).map(drop))?;
    Ok(Level { bytes, read, triad })
}

/// Of a launch in a line of many, and of one that is waited for.
pub(super) fn latencies(device: &Device, effort: Effort) -> Result<[Latency; 2]> {
    let trials = match effort {
        Effort::Full => 200,
        Effort::Quick => 50,
        Effort::Probe => 5,
    };
    let one = Tensor::zeros(&[1], DType::F32, device)?;
    no_grad(|| {
        let measure = |launches: usize| -> Result<Latency> {
            let mut all = Vec::with_capacity(trials);
            for trial in 0..=trials {
                let begun = Instant::now();
                for _ in 0..launches {
                    one.affine(2.0, 0.0)?;
                }
                device.synchronize()?;
                // The first compiles the kernel.
                if trial > 0 {
                    all.push(begun.elapsed().as_secs_f64() / launches as f64);
                }
            }
            Ok(Latency { best: all.iter().copied().fold(f64::INFINITY, f64::min), typical: median(&all) })
        };
        Ok([measure(LINE)?, measure(1)?])
    })
}

#[cfg(test)]
mod tests {
    use roentgen_oracle::gpu;

    use super::super::{Fingerprint, Machine};
    use super::*;

    #[test]
    fn a_gpu_has_ceilings_of_its_own() {
        let Some(device) = gpu::gpu() else { return };
        let machine = Machine::measure(&device, Effort::Probe).unwrap();
        assert_eq!(machine.check(), Ok(()));
        assert!(machine.fingerprint.gpu() && machine.fingerprint == Fingerprint::of(&device));
        assert!(!machine.fingerprint.differences(&Fingerprint::here()).is_empty());
        assert!(machine.peaks.iter().all(|p| p.isa == device.name() && p.flops > 1e6), "{:?}", machine.peaks);
        assert!(machine.levels.iter().all(|l| l.read > 1e6 && l.triad > 1e6), "{:?}", machine.levels);
        assert!(machine.fork_join.best > 0.0 && machine.launch.best > 0.0);
    }
}
