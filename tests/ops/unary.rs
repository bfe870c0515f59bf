use engine::ops::UnaryKind;
use engine::{DType, Result, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Operand, Source, cases, check, dims, float, full_dims, same_bits, seed};
use crate::tolerance::Class;
use crate::{gradient, oracle};

const KINDS: [UnaryKind; 6] =
    [UnaryKind::Exp, UnaryKind::Ln, UnaryKind::Sqrt, UnaryKind::Tanh, UnaryKind::Sigmoid, UnaryKind::Relu];

fn engine(kind: UnaryKind, x: &Tensor) -> Result<Tensor> {
    match kind {
        UnaryKind::Exp => x.exp(),
        UnaryKind::Ln => x.ln(),
        UnaryKind::Sqrt => x.sqrt(),
        UnaryKind::Tanh => x.tanh(),
        UnaryKind::Sigmoid => x.sigmoid(),
        UnaryKind::Relu => x.relu(),
        UnaryKind::Step => engine::apply_one(engine::ops::Unary { kind }, &[x]),
    }
}

/// Values in the function's domain, over some range.
fn operand(kind: UnaryKind, dims: &[usize], dtype: DType, seed: u64, wide: f64) -> Operand {
    Source::new(seed).operand(dims, dtype, |rng| {
        let x = f64::from(rng.normal()) * wide;
        match kind {
            UnaryKind::Ln | UnaryKind::Sqrt => x.abs() + 0.1,
            // Away from the kink, for the differences.
            UnaryKind::Relu => x + 0.1 * x.signum(),
            _ => x,
        }
    })
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        dims in dims(0..=4, 9), dtype in float(), kind in prop::sample::select(&KINDS[..]), seed in seed(),
        wide in prop::sample::select(&[1e-4, 1.0, 30.0][..]),
    ) {
        let x = operand(kind, &dims, dtype, seed, wide);
        let class = match kind {
            UnaryKind::Relu => Class::Exact,
            UnaryKind::Sqrt => Class::Arithmetic,
            _ => Class::Function,
        };
        let want = Expect::new(oracle::unary(&x.values, kind), dtype, class);
        check(&[&x], |t| engine(kind, &t[0]), &want)?;
        let step = Expect::new(oracle::unary(&x.values, UnaryKind::Step), dtype, Class::Exact);
        check(&[&x], |t| engine(UnaryKind::Step, &t[0]), &step)?;
    }

    #[test]
    fn gradient_matches_differences(
        dims in full_dims(0..=3, 4), dtype in float(), kind in prop::sample::select(&KINDS[..]), seed in seed(),
    ) {
        let x = operand(kind, &dims, dtype, seed, 1.0);
        gradient::check(seed, &[&x], |t| engine(kind, &t[0]), |v| oracle::unary(&v[0], kind),
            gradient::Slack { terms: 1, scale: 1.0 })?;
    }
}

#[test]
fn special_values() {
    // More than one vector of each, so that the vector path and the tail both see them.
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 88.8, -87.5, -104.0, 1e30, -1e30];
    let values: Vec<f32> = special.iter().copied().cycle().take(special.len() * 41).collect();
    let values = oracle::Array::new(&[values.len()], values.into_iter().map(f64::from).collect());
    let x = Operand::dense(&values, DType::F32);
    for kind in KINDS {
        let want = Expect::new(oracle::unary(&x.values, kind), DType::F32, Class::Function);
        check(&[&x], |t| engine(kind, &t[0]), &want).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
    }
}

#[test]
fn threads_change_nothing() {
    let x = Source::new(1).normal(&[3, 30_001], DType::F32);
    same_bits(|device| {
        let x = x.on(device)?;
        KINDS.iter().map(|&kind| engine(kind, &x)).collect()
    })
    .unwrap();
}
