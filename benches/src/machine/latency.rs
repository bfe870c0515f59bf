//! What a kernel costs before it has done anything.

use std::time::Instant;

use engine::cpu::threads;
use engine::{DType, Device, Tensor, no_grad};

use super::{Effort, Latency};
use crate::stats::median;

fn trials(effort: Effort) -> usize {
    match effort {
        Effort::Full => 5000,
        Effort::Quick => 2000,
        Effort::Probe => 300,
    }
}

fn latency<E>(trials: usize, mut f: impl FnMut() -> Result<(), E>) -> Result<Latency, E> {
    let mut all = Vec::with_capacity(trials);
    for _ in 0..trials {
        let begun = Instant::now();
        // Four in a row: reading the clock is not for free.
        for _ in 0..4 {
            f()?;
        }
        all.push(begun.elapsed().as_secs_f64() / 4.0);
    }
    let best = all.iter().copied().fold(f64::INFINITY, f64::min);
    Ok(Latency { best, typical: median(&all) })
}

/// A fork and join of all threads with nothing to do.
pub(super) fn fork_join(effort: Effort) -> Latency {
    let tasks = threads::threads();
    let run = || -> Result<(), std::convert::Infallible> {
        threads::parallel_for(tasks, |i| {
            std::hint::black_box(i);
        });
        Ok(())
    };
    let Ok(latency) = latency(trials(effort), run);
    latency
}

/// One element times two, through everything that every operation passes: rule, allocation, locks, dispatch.
pub(super) fn smallest_operation(effort: Effort) -> engine::Result<Latency> {
    let one = Tensor::zeros(&[1], DType::F32, &Device::cpu())?;
    no_grad(|| latency(trials(effort), || one.affine(2.0, 0.0).map(drop)))
}
