//! `cuda/attention.cu`.

use cudarc::driver::{LaunchConfig, PushKernelArg};
use half::bf16;

use super::{Element, Values, close, norm_roundings};
use crate::session::{Session, check};

#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    sq: usize,
    sk: usize,
    hq: usize,
    hkv: usize,
    d: usize,
    causal: bool,
    masked: bool,
}

type Pairs = Vec<(f64, f64)>;

/// The output with the magnitudes that went into it, and the logarithm of the sums.
fn oracle<T: Element>(case: Case, scale: f64, q: &[T], k: &[T], v: &[T], mask: &[u8]) -> (Pairs, Pairs) {
    let Case { batch, sq, sk, hq, hkv, d, causal, masked } = case;
    let (mut out, mut lse) = (vec![(0.0, 0.0); batch * sq * hq * d], vec![(0.0, 0.0); batch * hq * sq]);
    for b in 0..batch {
        for i in 0..sq {
            for h in 0..hq {
                let at = ((b * sq + i) * hq + h) * d;
                let row = |key: usize| ((b * sk + key) * hkv + h / (hq / hkv)) * d;
                let sees =
                    |key: &usize| (!causal || *key + sq <= i + sk) && (!masked || mask[b * sk + key] != 0);
                let keys: Vec<usize> = (0..sk).filter(sees).collect();
                let score = |key: usize| -> f64 {
                    (0..d).map(|c| q[at + c].f64() * k[row(key) + c].f64()).sum::<f64>() * scale
                };
                let scores: Vec<f64> = keys.iter().map(|&key| score(key)).collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let total: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                let log = if keys.is_empty() { f64::NEG_INFINITY } else { largest + total.ln() };
                lse[(b * hq + h) * sq + i] = (log, if keys.is_empty() { 0.0 } else { 1.0 + log.abs() });
                for c in 0..d {
                    for (&key, s) in keys.iter().zip(&scores) {
                        let term = (s - largest).exp() / total * v[row(key) + c].f64();
                        out[at + c].0 += term;
                        out[at + c].1 += term.abs();
                    }
                }
            }
        }
    }
    (out, lse)
}

/// `flash` is the padded head of the tensor-core rung, if it is that.
fn attention<T: Element>(session: &Session, case: Case, flash: Option<u32>) {
    let Case { batch, sq, sk, hq, hkv, d, causal, masked } = case;
    let mut values = Values::new((sq * 100 + sk) as u64);
    let q = values.draw::<T>(batch * sq * hq * d);
    let (k, v) = (values.draw::<T>(batch * sk * hkv * d), values.draw::<T>(batch * sk * hkv * d));
    let mask: Vec<u8> = (0..batch * sk).map(|i| u8::from(i % 3 != 1)).collect();
    let scale = 1.0 / (d as f32).sqrt();
    let devices = [session.upload(&q), session.upload(&k), session.upload(&v)];
    let mask_device = session.upload(&mask);
    let (mut out, mut lse) = (session.empty::<T>(q.len()), session.fresh(batch * hq * sq));
    let name = flash
        .map_or_else(|| format!("attention_warp_{}", T::NAME), |padded| format!("attention_flash_{padded}"));
    let function = session.function(&name);
    let rows = if flash.is_some() { 64 } else { 4 };
    let config = LaunchConfig {
        grid_dim: (sq.div_ceil(rows) as u32, hq as u32, batch as u32),
        block_dim: (128, 1, 1),
        shared_mem_bytes: flash.map_or(0, |padded| 256 * (padded + 8)),
    };
    let keys = [sk * hkv * d, hkv * d, d];
    let strides = [[sq * hq * d, hq * d, d], keys, keys].map(|s| s.map(|stride| stride as u64));
    let sizes = [sq, sk, hq, hkv, d].map(|s| s as u32);
    let (null, causal) = (0_u64, u32::from(causal));
    // SAFETY: sizes and strides are those of the buffers.
    unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(&mut out).arg(&mut lse);
        for device in &devices {
            launch.arg(device);
        }
        if masked {
            launch.arg(&mask_device);
        } else {
            launch.arg(&null);
        }
        for stride in strides.iter().flatten() {
            launch.arg(stride);
        }
        for size in &sizes {
            launch.arg(size);
        }
        launch.arg(&scale).arg(&causal).launch(config).expect("a launch");
    }
    let (expected, expected_lse) = oracle(case, f64::from(scale), &q, &k, &v, &mask);
    let roundings = 64.0 + norm_roundings(sk.max(d));
    // The flash rung rounds probabilities to bf16 before they weigh the values: one rounding of terms as large as the scale.
    let weights = if flash.is_some() { T::ROUNDOFF / f32::ROUNDOFF } else { 0.0 };
    close(&session.download(&out), &expected, 1.0, roundings + weights, &format!("{name} {case:?}"));
    let lse = session.download(&lse);
    for (got, want) in lse.iter().zip(&expected_lse).filter(|(_, want)| want.0.is_infinite()) {
        assert_eq!(f64::from(*got), want.0, "{case:?}");
    }
    let finite = |i: &usize| expected_lse[*i].0.is_finite();
    let kept: Vec<usize> = (0..lse.len()).filter(finite).collect();
    let (got, want): (Vec<f32>, Pairs) = kept.iter().map(|&i| (lse[i], expected_lse[i])).unzip();
    close(&got, &want, 1.0, roundings, &format!("{name}, lse, {case:?}"));
}

#[test]
fn a_warp_per_query() {
    let plain = Case { batch: 1, sq: 5, sk: 9, hq: 2, hkv: 2, d: 64, causal: false, masked: false };
    let cases = [
        plain,
        Case { causal: true, hq: 4, d: 72, ..plain },
        // More queries than keys: the first see nothing.
        Case { batch: 2, sq: 6, sk: 3, causal: true, masked: true, d: 128, ..plain },
        Case { sq: 1, sk: 1, hq: 1, hkv: 1, d: 1, ..plain },
    ];
    check(|session| {
        for case in cases {
            attention::<f32>(session, case, None);
            attention::<bf16>(session, case, None);
        }
    });
}

#[test]
fn tensor_cores() {
    let plain = Case { batch: 1, sq: 70, sk: 130, hq: 1, hkv: 1, d: 64, causal: false, masked: false };
    let cases = [
        (plain, 64),
        (Case { causal: true, hq: 2, d: 72, ..plain }, 80),
        // The first queries see nothing; whole tiles of keys are out of sight.
        (Case { batch: 2, sq: 150, sk: 65, causal: true, masked: true, d: 128, ..plain }, 128),
        (Case { sq: 1, sk: 1, d: 8, ..plain }, 64),
    ];
    check(|session| {
        for (case, padded) in cases {
            attention::<bf16>(session, case, Some(padded));
        }
    });
}
