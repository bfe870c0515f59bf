//! Linear layers over 4-bit weights beside the same layers over bf16 weights, and beside the memory.
//!
//! `cargo bench -p roentgen-engine --bench linear_nf4 [-- <filter>]`, where a filter is a part of a row's name.
//! Medians of interleaved repeats. For one row the rate is bytes of codes and scales a second against a read of the
//! machine's memory probed in the same run; weights are rotated so that none is still in a cache. For more rows it is
//! arithmetic, and its ratio to the bf16 layer.

use std::hint::black_box;
use std::time::Instant;

use engine::cpu::threads::{self, Scatter, parallel_for};
use engine::ops::{Dropout, Lora, LoraTerm};
use engine::{DType, Device, QuantConfig, Quantized, Result, Rng, Tensor};

/// Bytes that no cache holds.
const BEYOND_CACHE: usize = 256 << 20;

/// Medians of `fs`, interleaved for about `seconds`, at least five rounds each.
fn medians(seconds: f64, fs: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut times = vec![Vec::new(); fs.len()];
    for f in fs.iter_mut() {
        f();
    }
    let start = Instant::now();
    while times[0].len() < 5 || start.elapsed().as_secs_f64() < seconds {
        for (f, times) in fs.iter_mut().zip(&mut times) {
            let start = Instant::now();
            f();
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times
        .into_iter()
        .map(|mut t| {
            t.sort_by(f64::total_cmp);
            t[t.len() / 2]
        })
        .collect()
}

/// A read of all of `data`, on all threads; the sum keeps it from being left out.
fn read(data: &[u64], sums: &mut [u64]) {
    const PIECE: usize = 1 << 17;
    let out = Scatter::new(sums);
    parallel_for(data.len() / PIECE, |i| {
        let sum = data[i * PIECE..][..PIECE].iter().fold(0, |a: u64, &b| a ^ b);
        // SAFETY: each task has its own sum.
        unsafe { out.set(i, sum) };
    });
}

fn main() -> Result<()> {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let device = Device::cpu();
    let mut rng = Rng::new(1);
    println!("{} threads", threads::threads());
    decode(&filter, &device, &mut rng)?;
    batch(&filter, &device, &mut rng)
}

/// One row: at the speed of the memory.
fn decode(filter: &str, device: &Device, rng: &mut Rng) -> Result<()> {
    println!(
        "{:<28} {:>10} {:>9} {:>9} {:>7} {:>10}",
        "one row", "time", "GB/s", "read", "share", "bf16 time"
    );
    let data = vec![1u64; BEYOND_CACHE / 8];
    let mut sums = vec![0u64; data.len()];
    for (out, inner) in
        [(576, 576), (1536, 576), (576, 1536), (2048, 2048), (8192, 2048), (2048, 8192), (4096, 4096)]
    {
        let name = format!("decode {out}x{inner}");
        if !name.contains(filter) {
            continue;
        }
        let first = Tensor::randn(&[out, inner], 0.05, DType::BF16, rng, device)?;
        let small = Quantized::quantize(&first, &QuantConfig::default())?;
        let count = (BEYOND_CACHE / small.bytes()).clamp(2, 400);
        let weights = (0..count)
            .map(|_| Quantized::quantize(&first, &QuantConfig::default()))
            .collect::<Result<Vec<_>>>()?;
        let dense = (0..(BEYOND_CACHE / first.bytes()).clamp(2, 100))
            .map(|_| first.copy())
            .collect::<Result<Vec<_>>>()?;
        let x = Tensor::randn(&[1, inner], 1.0, DType::BF16, rng, device)?;
        let times = medians(
            1.0,
            &mut [
                &mut || weights.iter().for_each(|w| drop(x.linear_nf4(w, None, None).expect("it fits"))),
                &mut || read(black_box(&data), &mut sums),
                &mut || dense.iter().for_each(|w| drop(x.linear(w, None).expect("it fits"))),
            ],
        );
        let rate = (count * small.bytes()) as f64 / times[0];
        let ceiling = BEYOND_CACHE as f64 / times[1];
        println!(
            "{name:<28} {:>7.1} us {:>9.1} {:>9.1} {:>6.0}% {:>7.1} us",
            1e6 * times[0] / count as f64,
            rate / 1e9,
            ceiling / 1e9,
            100.0 * rate / ceiling,
            1e6 * times[2] / dense.len() as f64,
        );
    }
    Ok(())
}

/// Many rows: forward and backward, with and without an adapter.
fn batch(filter: &str, device: &Device, rng: &mut Rng) -> Result<()> {
    println!("{:<34} {:>10} {:>9} {:>10} {:>7}", "many rows", "time", "GFLOP/s", "bf16 time", "ratio");
    let shapes = [
        (181, 2048, 2048),
        (181, 8192, 2048),
        (269, 2048, 8192),
        (729, 1152, 1152),
        (729, 4304, 1152),
        (729, 1152, 4304),
        (1024, 768, 768),
        (1024, 3072, 768),
        (1024, 768, 3072),
        (164, 576, 576),
        (164, 1536, 576),
    ];
    for (rows, out, inner) in shapes {
        let dense = Tensor::randn(&[out, inner], 0.05, DType::BF16, rng, device)?;
        let weight = Quantized::quantize(&dense, &QuantConfig::default())?;
        let x = Tensor::randn(&[rows, inner], 1.0, DType::BF16, rng, device)?;
        let dy = Tensor::randn(&[rows, out], 1.0, DType::BF16, rng, device)?;
        let a = Tensor::randn(&[8, inner], 0.1, DType::F32, rng, device)?.tracked();
        let b = Tensor::randn(&[out, 8], 0.1, DType::F32, rng, device)?.tracked();
        let tracked = x.tracked();
        let flops = 2.0 * (rows * out * inner) as f64;
        let term = |p: f32| LoraTerm { scale: 1.0, dropout: (p > 0.0).then_some(Dropout { p, seed: 7 }) };
        let lora = |p: f32| Some(Lora { a: &a, b: &b, term: term(p) });
        for (what, p) in [("forward", None), ("forward lora", Some(0.0)), ("forward lora dropout", Some(0.1))]
        {
            let name = format!("{what} {rows}x{out}x{inner}");
            if !name.contains(filter) {
                continue;
            }
            let times = medians(
                0.6,
                &mut [
                    &mut || drop(x.linear_nf4(&weight, None, p.and_then(lora)).expect("it fits")),
                    &mut || drop(x.linear(&dense, None).expect("it fits")),
                ],
            );
            row(&name, flops, &times);
        }
        for (what, p) in
            [("backward", None), ("backward lora", Some(0.0)), ("backward lora dropout", Some(0.1))]
        {
            let name = format!("{what} {rows}x{out}x{inner}");
            if !name.contains(filter) {
                continue;
            }
            // The tape is walked once, so each repeat needs a forward pass, which is timed and taken off.
            let forward = || tracked.linear_nf4(&weight, None, p.and_then(lora)).expect("it fits");
            let plain = || tracked.linear(&dense, None).expect("it fits");
            let times = medians(
                1.0,
                &mut [
                    &mut || drop(forward().backward_from(&dy).expect("it fits")),
                    &mut || drop(plain().backward_from(&dy).expect("it fits")),
                    &mut || drop(forward()),
                    &mut || drop(plain()),
                ],
            );
            row(&name, flops, &[times[0] - times[2], times[1] - times[3]]);
        }
    }
    Ok(())
}

fn row(name: &str, flops: f64, times: &[f64]) {
    println!(
        "{name:<34} {:>7.2} ms {:>9.0} {:>7.2} ms {:>7.2}",
        1e3 * times[0],
        flops / times[0] / 1e9,
        1e3 * times[1],
        times[0] / times[1]
    );
}
