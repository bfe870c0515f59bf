//! Times an n x n x n f32 product of the engine and of the `gemm` crate, in turns, and prints one JSON line
//! per system (`rival_bench.py` has the format); the ratio of each pair goes to stderr.
//!
//! Usage: gemm-rival [--n 1024] [--threads 2] [--repeats 7] [--warmup 1]

use std::time::Instant;

use engine::cpu::gemm::{Init, MatMut, MatRef};

fn option(name: &str, default: usize) -> usize {
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == name {
            return args
                .next()
                .and_then(|value| value.parse().ok())
                .unwrap_or_else(|| panic!("{name} wants a number"));
        }
    }
    default
}

/// Values in [-1, 1) from a small linear congruential generator.
fn random(len: usize, mut state: u64) -> Vec<f32> {
    (0..len)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// `dst = lhs * rhs`, all row-major n x n.
fn product(n: usize, dst: &mut [f32], lhs: &[f32], rhs: &[f32], threads: usize) {
    assert!(dst.len() == n * n && lhs.len() == n * n && rhs.len() == n * n);
    let stride = n as isize;
    let parallelism = if threads > 1 {
        gemm::Parallelism::Rayon(threads)
    } else {
        gemm::Parallelism::None
    };
    // SAFETY: the three slices hold n * n values each and the strides stay inside them.
    unsafe {
        gemm::gemm(
            n,
            n,
            n,
            dst.as_mut_ptr(),
            1,
            stride,
            false,
            lhs.as_ptr(),
            1,
            stride,
            rhs.as_ptr(),
            1,
            stride,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn main() {
    let n = option("--n", 1024);
    let threads = option("--threads", 2);
    let repeats = option("--repeats", 7).max(1);
    let warmup = option("--warmup", 1);

    let (lhs, rhs) = (random(n * n, 1), random(n * n, 2));
    let mut dst = vec![0.0f32; n * n];
    engine::cpu::threads::set_threads(threads);
    let mut ours = vec![0.0f32; n * n];
    let operations = 2.0 * (n as f64).powi(3);
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..warmup + repeats {
        let start = Instant::now();
        engine::cpu::gemm::gemm(
            MatRef::new(&lhs, n, n),
            MatRef::new(&rhs, n, n),
            MatMut::new(&mut ours, n, n),
            Init::Zero,
        );
        let first = operations / start.elapsed().as_secs_f64() / 1e9;
        let start = Instant::now();
        product(n, &mut dst, &lhs, &rhs, threads);
        let second = operations / start.elapsed().as_secs_f64() / 1e9;
        if round >= warmup {
            rates[0].push(first);
            rates[1].push(second);
        }
    }
    // Both against each other, so that a broken product cannot pass for a fast one.
    let error = ours.iter().zip(&dst).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(error < 1e-4 * (n as f32).sqrt(), "the products differ by {error}");

    let mut ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(a, b)| a / b).collect();
    ratios.sort_by(f64::total_cmp);
    eprintln!(
        "roentgen / gemm: {:.3} ({:.3} to {:.3}) in {} pairs",
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1],
        ratios.len()
    );
    for (system, version, values) in [("roentgen", "this source", &rates[0]), ("gemm", "0.19", &rates[1])] {
        println!(
            "{{\"system\":\"{system}\",\"version\":\"{version}\",\"figure\":\"product {n}\",\"model\":\"random\",\
             \"weights\":\"f32\",\"unit\":\"GFLOP/s\",\"values\":{values:?},\"threads\":{threads}}}"
        );
    }
}
