//! Attention kernels against this machine's own peak: `cargo bench --bench attention [-- FILTER]`.
//!
//! The peak is that of a loop of multiply-adds on registers, on all threads. It is probed before each run,
//! since clocks and neighbours change, and the share of it is the median of the runs' shares. Counted are
//! 4·B·H·Sq·Sk·D floating-point operations forward (half of it under a causal mask) and 2.5 times that
//! backward, as the papers on flash attention do. Decoding is counted in bytes of K and V.

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
    for dtype in [DType::F32, DType::BF16] {
        println!(
            "register peak {dtype}: {:.0} GFLOP/s",
            (0..RUNS).map(|_| peak_flops(dtype)).fold(0.0, f64::max) / 1e9
        );
    }
    println!("{:<44} {:>8} {:>8} {:>8}  {:>14} {:>4}", "", "median", "min", "max", "rate", "peak");
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
        passes::<bf16>(&shape, &filter);
        passes::<f32>(&shape, &filter);
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

fn passes<T: Float>(shape: &Shape, filter: &str) {
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
    report(&format!("{name} fwd"), flops, Some(T::DTYPE), || {
        forward(params, q_view, k_view, v_view, None, &mut out, &mut lse);
    });
    let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
    report(&format!("{name} bwd"), 2.5 * flops, Some(T::DTYPE), || {
        backward(params, q_view, k_view, v_view, None, &out, &lse, dout_view, &mut dq, &mut dk, &mut dv);
    });
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
    let bytes = (2 * s * hkv * D * T::DTYPE.size()) as f64;
    report(&name, bytes, None, || forward(params, q_view, k_view, v_view, None, &mut out, &mut lse));
}

/// Measures and prints one line: median, minimum and maximum time of a call, then GFLOP/s and the share of
/// the type's peak, or GB/s.
fn report(name: &str, work: f64, peak: Option<DType>, mut f: impl FnMut()) {
    f();
    let once = seconds(&mut f);
    // Runs take some milliseconds each.
    let calls = (0.02 / once).ceil().clamp(1.0, 1e4) as usize;
    let (mut times, mut shares) = ([0.0; RUNS], [0.0; RUNS]);
    for (time, share) in times.iter_mut().zip(&mut shares) {
        let peak = peak.map(peak_flops);
        *time = seconds(|| (0..calls).for_each(|_| f())) / calls as f64;
        *share = peak.map_or(0.0, |peak| work / *time / peak);
    }
    times.sort_by(f64::total_cmp);
    shares.sort_by(f64::total_cmp);
    let [median, min, max] = [times[RUNS / 2], times[0], times[RUNS - 1]].map(|t| t * 1e6);
    let rate = work / times[RUNS / 2] / 1e9;
    print!("{name:<44} {median:>6.0}us {min:>6.0}us {max:>6.0}us  ");
    match peak {
        Some(_) => println!("{rate:>6.0} GFLOP/s {:>4.0}%", 100.0 * shares[RUNS / 2]),
        None => println!("{rate:>6.1} GB/s"),
    }
}

/// Wall time of one call.
fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
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

/// Operations per second of the widest multiply-add of the path in use, on registers, on all threads. The
/// sums start opaque: the compiler would merge and shuffle equal ones.
fn peak_flops(dtype: DType) -> f64 {
    const ROUNDS: usize = 400_000;
    let per_round = black_box(match isa() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 if dtype == DType::BF16 => 12 * 64,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 | Isa::Avx512 => 12 * 32,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => 12 * 16,
        _ => 16 * 2,
    });
    let time = seconds(|| {
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
    (threads() * ROUNDS * per_round) as f64 / time
}

fn portable(rounds: usize) -> f32 {
    let mut acc = black_box([1.0f32; 16]);
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
    #[allow(clippy::wildcard_imports)]
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(crate) fn bf16_dots(rounds: usize) -> f32 {
        let mut acc = black_box([_mm512_set1_ps(0.0); 12]);
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
        let mut acc = black_box([_mm512_set1_ps(0.0); 12]);
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
        let mut acc = black_box([_mm256_set1_ps(0.0); 12]);
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
