use engine::ops::GeluKind;
use engine::{DType, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Source, cases, check, devices, dims, float, full_dims, same_bits, seed};
use crate::tolerance::Class;
use crate::{gradient, oracle};

const KINDS: [GeluKind; 2] = [GeluKind::Tanh, GeluKind::Erf];

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        dims in dims(0..=4, 9), dtype in float(), kind in prop::sample::select(&KINDS[..]), seed in seed(),
        wide in prop::sample::select(&[1e-3, 1.0, 5.0, 100.0][..]),
    ) {
        let x = Source::new(seed).operand(&dims, dtype, |rng| wide * f64::from(rng.normal()));
        // 1 + erf cancels where erf is near −1.
        let want = Expect::new(oracle::gelu(&x.values, kind), dtype, Class::Function)
            .scale(x.values.map(f64::abs));
        check(&[&x], |t| t[0].gelu(kind), &want)?;
    }

    #[test]
    fn gradient_matches_differences(
        dims in full_dims(0..=3, 4), dtype in float(), kind in prop::sample::select(&KINDS[..]), seed in seed(),
        wide in prop::sample::select(&[1.0, 6.0][..]),
    ) {
        let x = Source::new(seed).operand(&dims, dtype, |rng| wide * f64::from(rng.normal()));
        gradient::check(seed, &[&x], |t| t[0].gelu(kind), |v| oracle::gelu(&v[0], kind),
            gradient::Slack { terms: 1, scale: 1.0 })?;
    }
}

/// Far out the function is the identity or zero, and its slope one or zero; nothing overflows on the way.
#[test]
fn far_values_keep_their_limits() {
    for device in devices() {
        let values: Vec<f32> = [1e3f32, 1e12, 1e20, 3e38, -1e3, -1e12, -1e20, -3e38].repeat(9);
        for kind in KINDS {
            let x = Tensor::from_slice(&values, &[values.len()], &device).unwrap().tracked();
            let y = x.gelu(kind).unwrap();
            let want: Vec<f32> = values.iter().map(|&x| x.max(0.0)).collect();
            assert_eq!(y.to_vec::<f32>().unwrap(), want);
            let ones = Tensor::full(&[values.len()], 1.0, DType::F32, &device).unwrap();
            let slope = y.backward_from(&ones).unwrap().take(&x).unwrap().to_vec::<f32>().unwrap();
            let want: Vec<f32> = values.iter().map(|&x| if x > 0.0 { 1.0 } else { 0.0 }).collect();
            assert_eq!(slope, want, "{kind:?}");
        }
        let nan = Tensor::from_slice(&[f32::NAN; 40], &[40], &device).unwrap();
        assert!(
            KINDS.iter().all(|&kind| nan
                .gelu(kind)
                .unwrap()
                .to_f64_vec()
                .unwrap()
                .iter()
                .all(|y| y.is_nan()))
        );
    }
}

#[test]
fn threads_change_nothing() {
    let x = Source::new(1).normal(&[3, 30_001], DType::BF16);
    same_bits(|device| {
        let x = x.on(device)?.tracked();
        let y = x.gelu(GeluKind::Tanh)?;
        Ok(vec![y.detach(), y.backward_from(&y.detach())?.take(&x).unwrap()])
    })
    .unwrap();
}
