use engine::ops::{Binary, BinaryKind};
use engine::{DType, Device, Result, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{Expect, Operand, Source, cases, check, dims, float, full_dims, same_bits, seed};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

const KINDS: [BinaryKind; 4] = [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul, BinaryKind::Div];

fn engine(kind: BinaryKind, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    match kind {
        BinaryKind::Add => a.add(b),
        BinaryKind::Sub => a.sub(b),
        BinaryKind::Mul => a.mul(b),
        BinaryKind::Div => a.div(b),
    }
}

fn meaning(kind: BinaryKind, a: &Array, b: &Array) -> Array {
    oracle::binary(a, b, |a, b| match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
        BinaryKind::Div => a / b,
    })
}

/// Two shapes that broadcast to `dims`: sizes made 1 by the bits of the seed, leading ones dropped.
fn operands(dims: &[usize], dtype: DType, seed: u64) -> (Operand, Operand) {
    let mut source = Source::new(seed);
    let part = |bits: u64, drop: usize| -> Vec<usize> {
        let cut = dims.iter().enumerate().map(|(i, &d)| if bits >> i & 1 == 1 { 1 } else { d });
        cut.skip(drop).collect()
    };
    let drop = source.rng.below(dims.len() + 1);
    let (bits_a, bits_b) = (seed & seed >> 8, (seed >> 16) & (seed >> 24));
    let (da, db) = if seed >> 32 & 1 == 0 {
        (part(bits_a, 0), part(bits_b, drop))
    } else {
        (part(bits_a, drop), part(bits_b, 0))
    };
    let a = source.normal(&da, dtype);
    // Divisors stay away from zero.
    let b = source.operand(&db, dtype, |rng| {
        let x = f64::from(rng.normal());
        x + x.signum() * 0.5
    });
    (a, b)
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        dims in dims(0..=4, 6), dtype in float(), kind in prop::sample::select(&KINDS[..]), seed in seed(),
    ) {
        let (a, b) = operands(&dims, dtype, seed);
        let want = meaning(kind, &a.values, &b.values);
        check(&[&a, &b], |t| engine(kind, &t[0], &t[1]), &Expect::new(want, dtype, Class::Arithmetic))?;
    }

    #[test]
    fn gradient_matches_differences(
        dims in full_dims(0..=3, 4), dtype in float(), kind in prop::sample::select(&KINDS[..]), seed in seed(),
    ) {
        let (a, b) = operands(&dims, dtype, seed);
        let terms = dims.iter().product();
        gradient::check(seed, &[&a, &b], |t| engine(kind, &t[0], &t[1]), |v| meaning(kind, &v[0], &v[1]),
            gradient::Slack { terms, scale: terms as f64 })?;
    }
}

#[test]
fn long_runs_and_threads() {
    let mut source = Source::new(3);
    let a = source.normal(&[37, 1999], DType::F32);
    let b = source.normal(&[1999], DType::F32);
    for kind in KINDS {
        let want = Expect::new(meaning(kind, &a.values, &b.values), DType::F32, Class::Arithmetic);
        check(&[&a, &b], |t| engine(kind, &t[0], &t[1]), &want).unwrap();
        same_bits(|device| Ok(vec![engine(kind, &a.on(device)?, &b.on(device)?)?])).unwrap();
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let a = Tensor::zeros(&[2, 3], DType::F32, &device).unwrap();
    let b = Tensor::zeros(&[2, 4], DType::F32, &device).unwrap();
    let text = a.add(&b).unwrap_err().to_string();
    assert!(text.contains("binary") && text.contains("[2, 3]") && text.contains("[2, 4]"), "{text}");
    let half = a.to_dtype(DType::BF16).unwrap();
    let text = a.mul(&half).unwrap_err().to_string();
    assert!(text.contains("f32") && text.contains("bf16") && text.contains("to_dtype"), "{text}");
    let op = Binary { kind: BinaryKind::Add };
    assert!(engine::apply(op.clone(), &[&a]).unwrap_err().to_string().contains("takes 2"));
    assert!(engine::apply(op, &[]).is_err());
}
