use engine::{Cuda, DType, Tensor};
use proptest::prelude::*;

use crate::harness::{Check, Expect, Operand, Source, cases, compare, devices, dims, float, seed};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

/// Passes over a row for each of the largest are quick on a GPU alone: emulated ones find fewer in long rows.
const MOST_EMULATED: usize = 1 << 20;

fn check(x: &Operand, k: usize) -> Check {
    let (values, places) = oracle::top_k(&x.values, k);
    for device in devices() {
        let emulated = device.backend::<Cuda>().is_some_and(|gpu| gpu.facts().emulated);
        if emulated && k * x.values.data.len() > MOST_EMULATED {
            continue;
        }
        let got = x.on(&device)?.top_k(k)?;
        compare(&got.0, &Expect::new(values.clone(), DType::F32, Class::Exact))?;
        compare(&got.1, &Expect::new(places.clone(), DType::U32, Class::Exact))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        lead in dims(0..=2, 3), n in 0usize..1500, part in 0.0..1.0f64, values in 1usize..2000, dtype in float(),
        seed in seed(),
    ) {
        let pick = |rng: &mut engine::Rng| match rng.below(4 * values) {
            0 => f64::NAN,
            1 => -0.0,
            i => (i % values) as f64 - values as f64 / 2.0,
        };
        let x = Source::new(seed).operand(&[&lead[..], &[n]].concat(), dtype, pick);
        check(&x, (part * part * n as f64) as usize)?;
    }
}

#[test]
fn a_real_vocabulary_in_hostile_orders() {
    let n = 49_152;
    let noise = Source::new(6).normal(&[n], DType::F32);
    let from =
        |f: &dyn Fn(usize) -> f64| Operand::dense(&Array::new(&[n], (0..n).map(f).collect()), DType::F32);
    // Rising: every element beats those held. Equal: none does.
    let (rising, equal) = (from(&|i| i as f64), from(&|_| -1.5));
    for x in [&noise, &rising, &equal] {
        for k in [1, 50, 300, n] {
            check(x, k).unwrap();
        }
    }
}

#[test]
fn more_than_there_are_is_an_error() {
    for device in devices() {
        let x = Tensor::zeros(&[2, 3], DType::F32, &device).unwrap();
        let text = x.top_k(4).unwrap_err().to_string();
        assert!(text.contains("4 of 3"), "{text}");
        let (values, places) = x.top_k(0).unwrap();
        assert_eq!((&values.dims()[..], &places.dims()[..]), (&[2, 0][..], &[2, 0][..]));
    }
}
