//! An n x n x n f32 product of burn through wgpu (WGSL), one JSON line (`rival_bench.py` has the format).
//!
//! Usage: burn-rival [--n 1024] [--repeats 5] [--warmup 2] [--threads 2]
//!
//! Warming up includes burn's own search for the fastest kernel. `--threads` is only passed through: the device decides.

use std::time::Instant;

use burn_tensor::{Device, Distribution, Tensor};

fn option(name: &str, default: usize) -> Result<usize, String> {
    let mut words = std::env::args().skip(1).skip_while(|word| word != name).skip(1);
    if !std::env::args().any(|word| word == name) {
        return Ok(default);
    }
    words.next().and_then(|value| value.parse().ok()).ok_or_else(|| format!("{name} wants a number"))
}

fn values(tensor: Tensor<2>) -> Result<Vec<f32>, String> {
    tensor.into_data().to_vec::<f32>().map_err(|e| format!("{e:?}"))
}

fn run() -> Result<(), String> {
    let (n, threads) = (option("--n", 1024)?, option("--threads", 2)?);
    let (repeats, warmup) = (option("--repeats", 5)?, option("--warmup", 2)?);
    let device = Device::wgpu_options().init().map_err(|e| format!("no wgpu device: {e}"))?;
    let uniform = || Tensor::<2>::random([n, n], Distribution::Uniform(-1.0, 1.0), &device);
    let (left, right) = (uniform(), uniform());
    let sync = || device.sync().map_err(|e| format!("{e:?}"));
    let mut rates = Vec::new();
    let mut product = None;
    sync()?;
    for round in 0..warmup + repeats {
        let begun = Instant::now();
        product = Some(left.clone().matmul(right.clone()));
        sync()?;
        if round >= warmup {
            rates.push(2.0 * (n as f64).powi(3) / begun.elapsed().as_secs_f64() / 1e9);
        }
    }
    // Against f64, a few places, so that a broken product cannot pass for a fast one.
    let (a, b) = (values(left)?, values(right)?);
    let c = values(product.ok_or("--repeats: at least 1")?)?;
    for (i, j) in [(0, 0), (n / 2, n / 3), (n - 1, n - 1)] {
        let exact: f64 = (0..n).map(|k| f64::from(a[i * n + k]) * f64::from(b[k * n + j])).sum();
        let found = f64::from(c[i * n + j]);
        if (found - exact).abs() > 1e-3 * (n as f64).sqrt() {
            return Err(format!("the product is {found} at {i}, {j}, and {exact} in f64"));
        }
    }
    let line = serde_json::json!({
        "system": "burn-wgpu",
        "version": "0.22",
        "figure": format!("product {n}"),
        "model": "random",
        "weights": "f32",
        "unit": "GFLOP/s",
        "values": rates,
        "threads": threads,
        "device": format!("{device:?}"),
    });
    println!("{line}");
    Ok(())
}

fn main() {
    if let Err(error) = run() {
        eprintln!("burn-rival: {error}");
        std::process::exit(1);
    }
}
