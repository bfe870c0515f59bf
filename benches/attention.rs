//! Attention kernels against this machine's own peak: `cargo bench --bench attention [-- FILTER]`.
//!
//! The peak is that of a loop of multiply-adds on registers, on all threads, measured in the same run. It
//! counts 4·B·H·Sq·Sk·D floating-point operations forward (half of it under a causal mask) and 2.5 times
//! that backward, as the FlashAttention papers do. Decoding is counted in bytes of K and V.

use std::hint::black_box;
use std::time::Instant;

use engine::cpu::flash::{Params, View, backward, forward};
use engine::cpu::isa::{Isa, isa};
use engine::cpu::threads::{parallel_for, threads};
use engine::{DType, Float};
use half::bf16;

/// Runs of which the median counts.
const RUNS: usize = 9;

fn main() {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    println!("{} threads, {}", threads(), isa().name());
    let peak = [DType::F32, DType::BF16].map(|dtype| {
        let flops = peak_flops(dtype);
        println!("register peak {dtype}: {:.0} GFLOP/s", flops / 1e9);
        flops
    });
    println!("{:<44} {:>8} {:>8} {:>8}  {:>9} {:>6}", "", "median", "min", "max", "", "peak");
    let shapes = [
        // SmolVLM-256M vision, 2.2B vision, the shape of the published anchors, text prefills.
        Shape { name: "vision 256M", b: 1, s: 1024, hq: 12, hkv: 12, d: 64, causal: false },
        Shape { name: "vision 2.2B", b: 1, s: 729, hq: 16, hkv: 16, d: 72, causal: false },
        Shape { name: "anchor", b: 1, s: 1024, hq: 32, hkv: 32, d: 64, causal: false },
        Shape { name: "anchor causal", b: 1, s: 1024, hq: 32, hkv: 32, d: 64, causal: true },
        Shape { name: "wide heads", b: 1, s: 1024, hq: 16, hkv: 16, d: 128, causal: true },
        Shape { name: "prefill 256M", b: 1, s: 164, hq: 9, hkv: 3, d: 64, causal: true },
        Shape { name: "prefill 2.2B", b: 1, s: 181, hq: 32, hkv: 32, d: 64, causal: true },
        Shape { name: "prefill 2.2B, 17 tiles", b: 1, s: 1560, hq: 32, hkv: 32, d: 64, causal: true },
    ];
    for shape in shapes {
        passes::<bf16>(&shape, &filter, peak[1]);
        passes::<f32>(&shape, &filter, peak[0]);
    }
    for (s, hq, hkv) in [(164, 9, 3), (1024, 9, 3), (1024, 32, 32), (16384, 32, 32), (16384, 32, 8)] {
        decode::<bf16>(s, hq, hkv, &filter);
        decode::<f32>(s, hq, hkv, &filter);
    }
}

struct Shape {
    name: &'static str,
    b: usize,
    s: usize,
    hq: usize,
    hkv: usize,
    d: usize,
    causal: bool,
}

fn passes<T: Float>(shape: &Shape, filter: &str, peak: f64) {
    let &Shape { b, s, hq, hkv, d, causal, .. } = shape;
    let name = format!("{} {} B{b} H{hq}/{hkv} S{s} D{d}", shape.name, T::DTYPE);
    if !name.contains(filter) {
        return;
    }
    let params = Params { scale: (d as f32).sqrt().recip(), causal };
    let (q_shape, k_shape) = ([b, s, hq, d], [b, s, hkv, d]);
    let (q, k, v) = (noise::<T>(&q_shape, 1), noise::<T>(&k_shape, 2), noise::<T>(&k_shape, 3));
    let dout = noise::<T>(&q_shape, 4);
    let [q_view, dout_view] = [&q, &dout].map(|x| View::contiguous(x, q_shape));
    let [k_view, v_view] = [&k, &v].map(|x| View::contiguous(x, k_shape));
    let (mut out, mut lse) = (q.clone(), vec![0.0; b * hq * s]);
    let flops = 4.0 * (b * hq * s * s * d) as f64 / if causal { 2.0 } else { 1.0 };
    let times = measure(|| forward(params, q_view, k_view, v_view, None, &mut out, &mut lse));
    report(&format!("{name} fwd"), times, flops, Some(peak));
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    let times = measure(|| {
        backward(params, q_view, k_view, v_view, None, &out, &lse, dout_view, &mut dq, &mut dk, &mut dv);
    });
    report(&format!("{name} bwd"), times, 2.5 * flops, Some(peak));
}

fn decode<T: Float>(s: usize, hq: usize, hkv: usize, filter: &str) {
    const D: usize = 64;
    let name = format!("decode {} H{hq}/{hkv} S{s} D{D}", T::DTYPE);
    if !name.contains(filter) {
        return;
    }
    let params = Params { scale: 0.125, causal: true };
    // A cache is laid out head by head.
    let strides = [hkv * s * D, D, s * D];
    let shape = [1, s, hkv, D];
    let (q, k, v) = (noise::<T>(&[1, 1, hq, D], 1), noise::<T>(&shape, 2), noise::<T>(&shape, 3));
    let (mut out, mut lse) = (q.clone(), vec![0.0; hq]);
    let q_view = View::contiguous(&q, [1, 1, hq, D]);
    let (k_view, v_view) = (View::new(&k, shape, strides), View::new(&v, shape, strides));
    let times = measure(|| forward(params, q_view, k_view, v_view, None, &mut out, &mut lse));
    report(&name, times, (2 * s * hkv * D * T::DTYPE.size()) as f64, None);
}

/// One line: times, and either GFLOP/s and share of the peak, or GB/s.
fn report(name: &str, times: [f64; 3], work: f64, peak: Option<f64>) {
    let [median, min, max] = times.map(|t| t * 1e6);
    let rate = work / times[0];
    print!("{name:<44} {median:>6.0}us {min:>6.0}us {max:>6.0}us  ");
    match peak {
        Some(peak) => println!("{:>6.0} GFLOP/s {:>3.0}%", rate / 1e9, 100.0 * rate / peak),
        None => println!("{:>6.1} GB/s", rate / 1e9),
    }
}

/// Median, minimum and maximum seconds of a call, of runs that each take some milliseconds.
fn measure(mut f: impl FnMut()) -> [f64; 3] {
    f();
    let start = Instant::now();
    f();
    let calls = (0.02 / start.elapsed().as_secs_f64()).ceil().clamp(1.0, 1e4) as usize;
    let mut times = [0.0; RUNS];
    for time in &mut times {
        let start = Instant::now();
        for _ in 0..calls {
            f();
        }
        *time = start.elapsed().as_secs_f64() / calls as f64;
    }
    times.sort_by(f64::total_cmp);
    [times[RUNS / 2], times[0], times[RUNS - 1]]
}

fn noise<T: Float>(shape: &[usize], seed: u32) -> Vec<T> {
    let mut state = seed;
    let len = shape.iter().product();
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        T::from_f32((state >> 8) as f32 / (1 << 23) as f32 - 1.0)
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// Operations per second of the widest multiply-add of the path in use, on registers, on all threads.
fn peak_flops(dtype: DType) -> f64 {
    const ROUNDS: usize = 200_000;
    let per_round = black_box(match isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 if dtype == DType::BF16 => 24 * 64,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 => 24 * 32,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 12 * 16,
        _ => 16 * 2,
    });
    let times = measure(|| {
        parallel_for(threads(), |_| {
            // SAFETY: `isa` is never above what the machine offers.
            #[allow(unused_unsafe)]
            black_box(unsafe {
                match isa() {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512Bf16 if dtype == DType::BF16 => x86::bf16_dots(ROUNDS),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512Bf16 | Isa::Avx512 => x86::fma_512(ROUNDS),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => x86::fma_256(ROUNDS),
                    _ => portable(ROUNDS),
                }
            });
        });
    });
    (threads() * ROUNDS * per_round) as f64 / times[1]
}

fn portable(rounds: usize) -> f32 {
    let mut acc = [1.0f32; 16];
    let (a, b) = (black_box(0.999f32), black_box(0.001f32));
    for _ in 0..rounds {
        for x in &mut acc {
            *x = *x * a + b;
        }
    }
    acc.iter().sum()
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(crate) fn bf16_dots(rounds: usize) -> f32 {
        let mut acc = [_mm512_set1_ps(0.0); 24];
        let a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(black_box(0.5)));
        for _ in 0..rounds {
            for x in &mut acc {
                *x = _mm512_dpbf16_ps(*x, a, a);
            }
        }
        acc.into_iter().map(|x| _mm512_reduce_add_ps(x)).sum()
    }

    #[target_feature(enable = "avx512f")]
    pub(crate) fn fma_512(rounds: usize) -> f32 {
        let mut acc = [_mm512_set1_ps(0.0); 24];
        let a = _mm512_set1_ps(black_box(0.5));
        for _ in 0..rounds {
            for x in &mut acc {
                *x = _mm512_fmadd_ps(*x, a, a);
            }
        }
        acc.into_iter().map(|x| _mm512_reduce_add_ps(x)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    pub(crate) fn fma_256(rounds: usize) -> f32 {
        let mut acc = [_mm256_set1_ps(0.0); 12];
        let a = _mm256_set1_ps(black_box(0.5));
        for _ in 0..rounds {
            for x in &mut acc {
                *x = _mm256_fmadd_ps(*x, a, a);
            }
        }
        let mut lanes = [0.0; 8];
        for x in acc {
            let mut part = [0.0f32; 8];
            // SAFETY: eight f32.
            unsafe { _mm256_storeu_ps(part.as_mut_ptr(), x) };
            for (lane, part) in lanes.iter_mut().zip(part) {
                *lane += part;
            }
        }
        lanes.iter().sum()
    }
}
