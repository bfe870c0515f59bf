//! Speed of the matrix product against what this machine can do at most, probed in the same run.
//!
//! `cargo bench -p roentgen-engine --bench gemm [-- <filter> [<threads>]]`, where a filter is a part of a
//! row's name. Compute-bound rows are given in GFLOP/s and percent of the arithmetic peak (a loop on registers
//! alone), decode rows in GB/s of weight and percent of the read bandwidth over a buffer of the same size.
//!
//! A row shows its median and its best repeat. Peaks are the best of many short bursts, so on a machine with
//! other work the median's share is that of the machine, and the best's share is that of the kernel.

use std::hint::black_box;
use std::time::Instant;

use engine::cpu::gemm::{BatchDim, Init, MatMut, MatRef, gemm, gemm_batched};
use engine::cpu::threads;
use engine::{DType, Element};
use half::bf16;

/// Seconds of one call.
#[derive(Clone, Copy)]
struct Seconds {
    median: f64,
    min: f64,
}

/// One warm-up, then repeats for about 0.3 s, at least five.
fn time(mut f: impl FnMut()) -> Seconds {
    let start = Instant::now();
    f();
    f();
    let once = start.elapsed().as_secs_f64().max(1e-7) / 2.0;
    // Very short calls are timed in bundles of some 20 microseconds.
    let bundle = ((2e-5 / once) as usize).clamp(1, 1000);
    let mut all = Vec::new();
    let start = Instant::now();
    while all.len() < 5 || start.elapsed().as_secs_f64() < 0.3 {
        let start = Instant::now();
        for _ in 0..bundle {
            f();
        }
        all.push(start.elapsed().as_secs_f64() / bundle as f64);
    }
    all.sort_by(f64::total_cmp);
    Seconds { median: all[all.len() / 2], min: all[0] }
}

/// What the machine can do at most on the pool's threads.
mod peak {
    use super::{DType, Seconds, black_box, threads, time};

    /// Operations a second of multiply-adds on registers.
    pub(super) fn flops(dtype: DType) -> f64 {
        const ROUNDS: usize = 5_000;
        let one = |_| -> usize {
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512bf16") && dtype == DType::BF16 {
                    // SAFETY: detected.
                    return unsafe { dot512(ROUNDS) };
                }
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: detected.
                    return unsafe { fma512(ROUNDS) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: detected.
                    return unsafe { fma256(ROUNDS) };
                }
            }
            let mut sums = [1f32; 64];
            for _ in 0..ROUNDS {
                for x in &mut sums {
                    *x = *x * 0.5 + 0.5;
                }
                black_box(&mut sums);
            }
            ROUNDS * 2 * 64
        };
        let tasks = threads::threads();
        let per_task = one(0);
        let took = time(|| threads::parallel_for(tasks, |i| assert_eq!(one(i), per_task)));
        (tasks * per_task) as f64 / took.min
    }

    #[cfg(target_arch = "x86_64")]
    macro_rules! registers {
        ($name:ident, $features:literal, $n:literal, $flops:literal, $start:expr, |$x:ident, $c:ident| $step:expr) => {
            #[target_feature(enable = $features)]
            fn $name(rounds: usize) -> usize {
                use std::arch::x86_64::*;
                let $c = $start;
                let mut sums = [$start; $n];
                for _ in 0..rounds {
                    for $x in &mut sums {
                        *$x = $step;
                    }
                }
                black_box(sums);
                rounds * $n * $flops
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    registers!(fma512, "avx512f", 20, 32, black_box(_mm512_set1_ps(0.5)), |x, c| _mm512_fmadd_ps(c, c, *x));
    #[cfg(target_arch = "x86_64")]
    registers!(fma256, "avx2,fma", 12, 16, black_box(_mm256_set1_ps(0.5)), |x, c| _mm256_fmadd_ps(c, c, *x));
    #[cfg(target_arch = "x86_64")]
    registers!(dot512, "avx512f,avx512bf16", 20, 64, black_box(_mm512_set1_ps(0.5)), |x, c| {
        // SAFETY: both are 512 bits of plain data.
        let pairs = unsafe { std::mem::transmute::<__m512, __m512bh>(c) };
        _mm512_dpbf16_ps(*x, pairs, pairs)
    });

    /// Bytes a second read from `bytes` of memory, four streams a thread.
    pub(super) fn read(bytes: usize) -> Seconds {
        const TASKS: usize = 16;
        // Streams are an odd number of pairs of lines long, lest they share cache sets.
        let stretch = (bytes / size_of::<Lines>() / TASKS / 4) | 1;
        let data = vec![[1u64; 16]; TASKS * 4 * stretch];
        let took = time(|| {
            threads::parallel_for(TASKS, |i| {
                let part = &data[i * 4 * stretch..][..4 * stretch];
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: detected.
                    black_box(unsafe { streams_512(part) });
                    return;
                }
                black_box(streams(part));
            });
        });
        let per_byte = 1.0 / size_of_val(data.as_slice()) as f64;
        Seconds { median: took.median * per_byte, min: took.min * per_byte }
    }

    type Lines = [u64; 16];

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn streams_512(part: &[Lines]) -> i64 {
        use std::arch::x86_64::{
            _mm512_loadu_si512, _mm512_reduce_add_epi64, _mm512_setzero_si512, _mm512_xor_si512,
        };
        let stretch = part.len() / 4;
        let mut sums = [_mm512_setzero_si512(); 8];
        for i in 0..stretch {
            for s in 0..4 {
                let lines = part[s * stretch + i].as_ptr();
                for half in 0..2 {
                    // SAFETY: sixteen words.
                    let line = unsafe { _mm512_loadu_si512(lines.add(8 * half).cast()) };
                    sums[2 * s + half] = _mm512_xor_si512(sums[2 * s + half], line);
                }
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_epi64(sum)).fold(0, i64::wrapping_add)
    }

    fn streams(part: &[Lines]) -> u64 {
        let stretch = part.len() / 4;
        let mut sums = [[0u64; 16]; 4];
        for i in 0..stretch {
            for (s, sums) in sums.iter_mut().enumerate() {
                for (sum, x) in sums.iter_mut().zip(&part[s * stretch + i]) {
                    *sum ^= x;
                }
            }
        }
        sums.iter().flatten().fold(0, |a, b| a ^ b)
    }
}

fn values<T: Element>(n: usize) -> Vec<T> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            T::from_f64((state >> 40) as f64 / f64::from(1 << 23) - 1.0)
        })
        .collect()
}

struct Table {
    filter: Option<String>,
    f32_peak: f64,
    bf16_peak: f64,
    rows: usize,
}

impl Table {
    fn wanted(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|f| name.contains(f.as_str()))
    }

    /// `peak` is work per second: what is compared with the median, and with the best.
    fn row(&mut self, name: &str, took: Seconds, work: f64, unit: &str, peak: [f64; 2], extra: &str) {
        println!(
            "{name:<32} {:>9.1} us {:>7.1} {unit:<7} {:>5.1} %   best {:>7.1} {:>5.1} %  {extra}",
            took.median * 1e6,
            work / took.median / 1e9,
            100.0 * work / took.median / peak[0],
            work / took.min / 1e9,
            100.0 * work / took.min / peak[1],
        );
        self.rows += 1;
    }

    fn peak(&self, dtype: DType) -> [f64; 2] {
        [if dtype == DType::F32 { self.f32_peak } else { self.bf16_peak }; 2]
    }

    /// A linear layer: `[m, k]` rows times a weight `[n, k]`.
    fn linear<T: engine::cpu::gemm::GemmInput>(&mut self, m: usize, k: usize, n: usize) {
        let name = format!("{} linear {m}x{k} -> {n}", T::DTYPE);
        if !self.wanted(&name) {
            return;
        }
        let (a, w): (Vec<T>, Vec<T>) = (values(m * k), values(n * k));
        let mut c = vec![T::from_f32(0.0); m * n];
        let took = time(|| {
            gemm(MatRef::new(&a, m, k), MatRef::new(&w, n, k).t(), MatMut::new(&mut c, m, n), Init::Zero);
        });
        if m == 1 {
            let bytes = size_of::<T>() * n * k;
            let read = peak::read(bytes);
            let peak = [1.0 / read.median, 1.0 / read.min];
            let extra = format!("read {:.1}, best {:.1}", peak[0] / 1e9, peak[1] / 1e9);
            self.row(&name, took, bytes as f64, "GB/s", peak, &extra);
            return;
        }
        let peak = self.peak(T::DTYPE);
        self.row(&name, took, (2 * m * n * k) as f64, "GFLOP/s", peak, "");
    }

    /// The other orders of operands: `A·B` and `Aᵀ·B`, row-major.
    fn plain<T: engine::cpu::gemm::GemmInput>(&mut self, m: usize, k: usize, n: usize, transposed: bool) {
        let name = format!("{} {}B {m}x{k}x{n}", T::DTYPE, if transposed { "At" } else { "A" });
        if !self.wanted(&name) {
            return;
        }
        let (a, b): (Vec<T>, Vec<T>) = (values(m * k), values(n * k));
        let mut c = vec![0f32; m * n];
        let a = if transposed { MatRef::new(&a, k, m).t() } else { MatRef::new(&a, m, k) };
        let took = time(|| gemm(a, MatRef::new(&b, k, n), MatMut::new(&mut c, m, n), Init::Zero));
        let peak = self.peak(T::DTYPE);
        self.row(&name, took, (2 * m * n * k) as f64, "GFLOP/s", peak, "");
    }

    /// Scores and weighted sums of attention, a head per product, heads interleaved in memory.
    fn heads<T: engine::cpu::gemm::GemmInput>(&mut self, heads: usize, s: usize, d: usize) {
        let (q, k): (Vec<T>, Vec<T>) = (values(heads * s * d), values(heads * s * d));
        let mut scores = vec![T::from_f32(0.0); heads * s * s];
        let mut out = vec![T::from_f32(0.0); heads * s * d];
        let flops = (2 * heads * s * s * d) as f64;
        let peak = self.peak(T::DTYPE);
        let name = format!("{} QKt {heads} heads {s}x{d}", T::DTYPE);
        let head = MatRef { data: &q, rows: s, cols: d, rs: heads * d, cs: 1 };
        if self.wanted(&name) {
            let dim = BatchDim { count: heads, a: d, b: d, c: s * s };
            let took = time(|| {
                gemm_batched(
                    head,
                    MatRef { data: &k, ..head }.t(),
                    MatMut::new(&mut scores, s, s),
                    Init::Zero,
                    &[dim],
                );
            });
            self.row(&name, took, flops, "GFLOP/s", peak, "");
        }
        let name = format!("{} PV {heads} heads {s}x{d}", T::DTYPE);
        if self.wanted(&name) {
            let dim = BatchDim { count: heads, a: s * s, b: d, c: d };
            let took = time(|| {
                let out = MatMut { data: &mut out, rows: s, cols: d, rs: heads * d };
                gemm_batched(MatRef::new(&scores, s, s), head, out, Init::Zero, &[dim]);
            });
            self.row(&name, took, flops, "GFLOP/s", peak, "");
        }
    }
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| !a.starts_with("--"));
    let filter = args.next();
    if let Some(n) = args.next() {
        threads::set_threads(n.parse().expect("threads: a number"));
    }
    let (f32_peak, bf16_peak) = (peak::flops(DType::F32), peak::flops(DType::BF16));
    println!(
        "{} threads, {}; peak f32 {:.0} GFLOP/s, bf16 {:.0} GFLOP/s; read 256 MiB {:.1} GB/s",
        threads::threads(),
        engine::cpu::isa::isa().name(),
        f32_peak / 1e9,
        bf16_peak / 1e9,
        1e-9 / peak::read(256 << 20).median,
    );
    let fork = time(|| threads::parallel_for(threads::threads(), |i| _ = black_box(i)));
    println!("empty fork {:.2} us, best {:.2}", fork.median * 1e6, fork.min * 1e6);
    let mut table = Table { filter, f32_peak, bf16_peak, rows: 0 };
    for n in [512, 1024, 2048] {
        table.linear::<f32>(n, n, n);
        table.linear::<bf16>(n, n, n);
    }
    for transposed in [false, true] {
        table.plain::<f32>(1024, 1024, 1024, transposed);
        table.plain::<bf16>(1024, 1024, 1024, transposed);
    }
    let shapes = [
        (576, 576),
        (576, 192),
        (576, 1536),
        (1536, 576),
        (768, 768),
        (768, 3072),
        (3072, 768),
        (576, 49152),
    ];
    for m in [164, 512, 1024] {
        for (k, n) in shapes.into_iter().filter(|s| s.1 < 49152 || m == 164) {
            table.linear::<f32>(m, k, n);
            table.linear::<bf16>(m, k, n);
        }
    }
    for (m, k, n) in [(512, 576, 8), (512, 8, 576), (16, 576, 1536)] {
        table.linear::<f32>(m, k, n);
        table.linear::<bf16>(m, k, n);
    }
    table.heads::<f32>(9, 512, 64);
    table.heads::<bf16>(9, 512, 64);
    table.heads::<bf16>(12, 1024, 64);
    for (k, n) in shapes.into_iter().chain([(2048, 8192), (8192, 2048)]) {
        table.linear::<f32>(1, k, n);
        table.linear::<bf16>(1, k, n);
    }
    for n in [4, 16, 64] {
        table.linear::<f32>(n, n, n);
    }
    if table.rows == 0 {
        println!("no row matches the filter");
    }
}
