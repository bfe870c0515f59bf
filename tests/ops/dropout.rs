use engine::ops::Dropout;
use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{Expect, Source, cases, check, dims, float, full_dims, same_bits, seed};
use crate::oracle::Array;
use crate::tolerance::Class;

/// The rule, element by element.
fn dropout(x: &Array, op: &Dropout) -> Array {
    let mut y = x.clone();
    for (i, y) in y.data.iter_mut().enumerate() {
        *y = if op.keeps(i as u32) { *y * f64::from(op.scale()) } else { 0.0 };
    }
    y
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn matches_the_oracle(dims in dims(0..=3, 40), dtype in float(), p in 0.0f32..0.99, seed in seed()) {
        let x = Source::new(seed).normal(&dims, dtype);
        let op = Dropout { p, seed };
        let want = if p == 0.0 { x.values.clone() } else { dropout(&x.values, &op) };
        check(&[&x], |t| t[0].dropout(p, seed), &Expect::new(want, dtype, Class::Arithmetic))?;
    }

    #[test]
    fn gradient_matches_differences(dims in full_dims(1..=2, 6), p in 0.01f32..0.9, seed in seed()) {
        let x = Source::new(seed).normal(&dims, DType::F32);
        let op = Dropout { p, seed };
        gradient::check(seed, &[&x], |t| t[0].dropout(p, seed), |v| dropout(&v[0], &op),
            gradient::Slack::terms(1))?;
    }
}

#[test]
fn the_share_and_the_neighbours_are_as_drawn() {
    // 2²⁰ draws at p = 0.1: the share is within 5 deviations, pairs of neighbours are independent within as many.
    let n = 1u32 << 20;
    for seed in [0, 1, 42, u64::MAX, 0x1234_5678_9abc_def0] {
        let op = Dropout { p: 0.1, seed };
        let dropped: Vec<bool> = (0..n).map(|i| !op.keeps(i)).collect();
        let share = dropped.iter().filter(|d| **d).count() as f64 / f64::from(n);
        assert!((share - 0.1).abs() < 5.0 * (0.09f64 / f64::from(n)).sqrt(), "{seed}: {share}");
        for apart in [1, 2, 64, 1024] {
            let both = dropped.windows(apart + 1).filter(|w| w[0] && w[apart]).count() as f64 / f64::from(n);
            assert!(
                (both - 0.01).abs() < 5.0 * (0.0099f64 / f64::from(n)).sqrt() + 1e-4,
                "{seed} {apart}: {both}"
            );
        }
    }
    // Seeds that differ in one bit of either half give masks that agree as often as chance has it.
    let keeps = |seed: u64| -> Vec<bool> { (0..n).map(|i| Dropout { p: 0.5, seed }.keeps(i)).collect() };
    let first = keeps(7);
    for other in [6, 7 | 1 << 40] {
        let same = first.iter().zip(keeps(other)).filter(|(a, b)| **a == *b).count() as f64 / f64::from(n);
        assert!((same - 0.5).abs() < 0.005, "{other}: {same}");
    }
}

#[test]
fn values_are_the_same_for_any_number_of_threads() {
    let x = Source::new(3).normal(&[300, 400], DType::BF16);
    same_bits(|device| Ok(vec![x.on(device)?.dropout(0.3, 9)?])).unwrap();
}

#[test]
fn the_rule_names_what_is_wrong() {
    let x = Tensor::zeros(&[2], DType::F32, &Device::cpu()).unwrap();
    for p in [1.0, -0.1, f32::NAN] {
        let text = x.dropout(p, 1).unwrap_err().to_string();
        assert!(text.starts_with("dropout") && text.contains("[0, 1)"), "{text}");
    }
}
