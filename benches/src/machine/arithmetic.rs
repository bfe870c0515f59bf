//! Peak arithmetic: loops of multiply-adds that touch nothing but registers.

use std::hint::black_box;
use std::time::Instant;

use engine::DType;
use engine::cpu::isa::Isa;
use engine::cpu::threads;

use super::{Effort, Peak};

/// Operations of `rounds` of a loop on one thread.
type Burst = fn(rounds: usize) -> usize;

/// The burst of a path for factors of a type, where the path has instructions of its own for it.
fn burst(isa: Isa, dtype: DType) -> Option<Burst> {
    match (isa, dtype) {
        (Isa::Portable, DType::F32) => Some(portable),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the caller names only paths that `Isa::detect` found, which implies the features.
        (Isa::Avx2, DType::F32) => Some(|n| unsafe { fma256(n) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512, DType::F32) => Some(|n| unsafe { fma512(n) }),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        (Isa::Avx512Bf16, DType::BF16) => Some(|n| unsafe { dot512(n) }),
        _ => None,
    }
}

/// Each path of this machine that has instructions of its own.
pub(super) fn measure(effort: Effort) -> Vec<Peak> {
    let seconds = match effort {
        Effort::Full => 0.4,
        Effort::Quick => 0.1,
        Effort::Probe => 0.02,
    };
    let mut peaks = Vec::new();
    for isa in Isa::offered() {
        // A probe looks at what decides the ceilings only.
        if effort == Effort::Probe && isa != Isa::detect() && isa != Isa::Avx512.min(Isa::detect()) {
            continue;
        }
        for dtype in [DType::F32, DType::BF16] {
            if let Some(burst) = burst(isa, dtype) {
                let flops = best(burst, seconds);
                peaks.push(Peak { isa: isa.name().into(), dtype: dtype.name().into(), flops });
            }
        }
    }
    peaks
}

/// Operations a second on all threads, of the best of many bursts of some 300 microseconds.
fn best(burst: Burst, seconds: f64) -> f64 {
    const BURST_SECONDS: f64 = 300e-6;
    let time = |rounds: usize| {
        let tasks = threads::threads();
        let begun = Instant::now();
        threads::parallel_for(tasks, |_| {
            black_box(burst(rounds));
        });
        begun.elapsed().as_secs_f64()
    };
    let mut rounds = 1000;
    while time(rounds) < BURST_SECONDS && rounds < 1 << 30 {
        rounds *= 2;
    }
    let work = (threads::threads() * burst(rounds)) as f64;
    let begun = Instant::now();
    let mut least = time(rounds);
    while begun.elapsed().as_secs_f64() < seconds {
        least = least.min(time(rounds));
    }
    work / least
}

/// What the compiler makes of plain Rust.
fn portable(rounds: usize) -> usize {
    const LANES: usize = 64;
    let factor = black_box(0.5f32);
    let mut sums = [1f32; LANES];
    for _ in 0..rounds {
        for x in &mut sums {
            // Every aarch64 has the fused form; the baseline of x86-64 has not, and would call a function.
            *x = if cfg!(target_arch = "aarch64") { x.mul_add(factor, factor) } else { *x * factor + factor };
        }
    }
    black_box(sums);
    rounds * 2 * LANES
}

/// Independent sums in registers: more than latency times width needs, fewer than the register file has.
#[cfg(target_arch = "x86_64")]
macro_rules! registers {
    ($name:ident, $features:literal, $sums:literal, $flops:literal, $start:expr, |$x:ident, $c:ident| $step:expr) => {
        #[target_feature(enable = $features)]
        fn $name(rounds: usize) -> usize {
            use std::arch::x86_64::*;
            let $c = $start;
            let mut sums = [$start; $sums];
            for _ in 0..rounds {
                for $x in &mut sums {
                    *$x = $step;
                }
            }
            black_box(sums);
            rounds * $sums * $flops
        }
    };
}

#[cfg(target_arch = "x86_64")]
registers!(fma256, "avx2,fma", 12, 16, black_box(_mm256_set1_ps(0.5)), |x, c| _mm256_fmadd_ps(c, c, *x));
#[cfg(target_arch = "x86_64")]
registers!(fma512, "avx512f", 20, 32, black_box(_mm512_set1_ps(0.5)), |x, c| _mm512_fmadd_ps(c, c, *x));
#[cfg(target_arch = "x86_64")]
registers!(dot512, "avx512f,avx512bf16", 20, 64, black_box(_mm512_set1_ps(0.5)), |x, c| {
    // SAFETY: both are 512 bits of plain data.
    let pairs = unsafe { std::mem::transmute::<__m512, __m512bh>(c) };
    _mm512_dpbf16_ps(*x, pairs, pairs)
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_a_peak_and_f32_is_there() {
        let peaks = measure(Effort::Probe);
        assert!(peaks.iter().any(|p| p.dtype == "f32"));
        assert!(peaks.iter().all(|p| p.flops.is_finite() && p.flops > 1e6), "{peaks:?}");
    }
}
