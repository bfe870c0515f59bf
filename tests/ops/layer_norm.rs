use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{
    Expect, Operand, Source, cases, check, devices, dims, float, full_dims, same_bits, seed,
};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

const EPS: f32 = 1e-5;

fn meaning(v: &[Array]) -> Array {
    oracle::layer_norm(&v[0], &v[1], &v[2], f64::from(EPS))
}

/// What was there before the mean was taken off and the bias put on, normalised: their rounding errors stay.
fn expect(x: &Operand, w: &Operand, b: &Operand) -> Expect {
    let zero = b.values.map(|_| 0.0);
    let spread = oracle::layer_norm(&x.values, &w.values.map(|_| 1.0), &zero, f64::from(EPS));
    let n = x.values.row_len();
    let rows = x.values.data.chunks_exact(n).zip(spread.data.chunks_exact(n));
    let scale = rows
        .flat_map(|(x, normal)| {
            let mean = x.iter().sum::<f64>() / n as f64;
            let deviation =
                (x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64 + f64::from(EPS)).sqrt();
            normal
                .iter()
                .zip(&w.values.data)
                .zip(&b.values.data)
                .map(|((y, w), b)| (y.abs() + mean.abs() / deviation) * w.abs() + b.abs())
                .collect::<Vec<_>>()
        })
        .collect();
    let want = meaning(&[x.values.clone(), w.values.clone(), b.values.clone()]);
    let scale = Array::new(&want.dims, scale);
    Expect::new(want, x.dtype, Class::Norm(n)).scale(scale)
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        lead in dims(0..=3, 5), n in 1usize..80, dtype in float(), seed in seed(),
        mean in prop::sample::select(&[0.0, 3.0, -50.0][..]),
    ) {
        let mut source = Source::new(seed);
        let x = source.operand(&[&lead[..], &[n]].concat(), dtype, |rng| mean + f64::from(rng.normal()));
        let (w, b) = (source.normal(&[n], dtype), source.normal(&[n], dtype));
        check(&[&x, &w, &b], |t| t[0].layer_norm(&t[1], &t[2], EPS), &expect(&x, &w, &b))?;
    }

    #[test]
    fn gradient_matches_differences(lead in full_dims(0..=2, 3), n in 4usize..9, dtype in float(), seed in seed()) {
        let mut source = Source::new(seed);
        // Every row spans a range, so that the deviation is not near 0, where the gradient explodes.
        let ramp = |n: usize| move |i: usize| (i % n) as f64 / n as f64 * 4.0;
        let shape = [&lead[..], &[n]].concat();
        let mut i = 0;
        let noise = source.uniform(&shape, DType::F32, 0.0, 0.5).values;
        let x = Operand::dense(&noise.map(|x| { i += 1; x + ramp(n)(i) }), dtype);
        let (w, b) = (source.normal(&[n], dtype), source.normal(&[n], dtype));
        let rows: usize = lead.iter().product();
        gradient::check(seed, &[&x, &w, &b], |t| t[0].layer_norm(&t[1], &t[2], EPS), meaning,
            gradient::Slack { terms: n.max(rows), scale: 2.0 * (rows as f64).sqrt() })?;
    }
}

#[test]
fn long_rows_and_threads() {
    for dtype in [DType::F32, DType::BF16] {
        let mut source = Source::new(1);
        let x = source.normal(&[150, 1152], dtype);
        let (w, b) = (source.normal(&[1152], dtype), source.normal(&[1152], dtype));
        check(&[&x, &w, &b], |t| t[0].layer_norm(&t[1], &t[2], EPS), &expect(&x, &w, &b)).unwrap();
        same_bits(|device| {
            let leaves = [x.on(device)?.tracked(), w.on(device)?.tracked(), b.on(device)?.tracked()];
            let y = leaves[0].layer_norm(&leaves[1], &leaves[2], EPS)?;
            let mut gradients = y.backward_from(&y.detach())?;
            Ok(leaves.iter().map(|leaf| gradients.take(leaf).unwrap()).chain([y.detach()]).collect())
        })
        .unwrap();
    }
}

/// A constant row has no deviation: eps keeps the quotient finite and the result is the bias.
#[test]
fn a_constant_row_gives_the_bias() {
    for device in devices() {
        let x = Tensor::full(&[2, 100], 1000.0, DType::F32, &device).unwrap();
        let w = Tensor::full(&[100], 3.0, DType::F32, &device).unwrap();
        let b = Tensor::full(&[100], 0.25, DType::F32, &device).unwrap();
        assert_eq!(x.layer_norm(&w, &b, EPS).unwrap().to_f64_vec().unwrap(), [0.25; 200]);
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &device).unwrap();
    let x = zeros(&[2, 3]);
    let text = x.layer_norm(&zeros(&[4]), &zeros(&[3]), EPS).unwrap_err().to_string();
    assert!(text.contains("layer_norm: w") && text.contains("[4]"), "{text}");
    let text = x.layer_norm(&zeros(&[3]), &zeros(&[1, 3]), EPS).unwrap_err().to_string();
    assert!(text.contains("layer_norm: b") && text.contains("[1, 3]"), "{text}");
    assert!(zeros(&[]).layer_norm(&zeros(&[1]), &zeros(&[1]), EPS).is_err());
}
