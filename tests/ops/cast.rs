use engine::DType;
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{Expect, FLOATS, Source, cases, check, devices, dims, full_dims, same_bits, seed};
use crate::tolerance::Class;

fn dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(&DType::ALL[..])
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn every_pair_rounds_as_said(dims in dims(0..=4, 7), from in dtype(), to in dtype(), seed in seed()) {
        // Magnitudes from subnormal to beyond every type's range, with the special values.
        let x = Source::new(seed).operand(&dims, from, |rng| match rng.below(40) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => f64::NEG_INFINITY,
            3 => -0.0,
            n => {
                let size = 10f64.powf(rng.uniform() * 60.0 - 45.0);
                let size = if n < 20 { size } else { rng.uniform() * 70_000.0 };
                if n % 2 == 0 { size } else { -size }
            }
        });
        // Conversion to its own type goes through `copy`; `to_dtype` would return the tensor itself.
        check(&[&x], |t| if from == to { t[0].copy() } else { t[0].to_dtype(to) },
            &Expect::new(x.values.clone(), to, Class::Exact))?;
    }

    #[test]
    fn gradient_is_converted_back(dims in full_dims(0..=3, 4), seed in seed()) {
        let x = Source::new(seed).normal(&dims, DType::F32);
        gradient::check(seed, &[&x], |t| t[0].to_dtype(DType::F32)?.copy(), |a| a[0].clone(),
            gradient::Slack::terms(1))?;
        for (from, to) in FLOATS.into_iter().flat_map(|a| FLOATS.map(|b| (a, b))) {
            let leaf = x.on(&engine::Device::cpu())?.to_dtype(from)?.tracked();
            let y = leaf.to_dtype(to)?;
            let gradients = y.backward_from(&y.detach())?;
            let grad = gradients.get(&leaf).unwrap();
            prop_assert_eq!(grad.dtype(), from);
            prop_assert_eq!(grad.to_f64_vec()?, y.to_dtype(from)?.to_f64_vec()?);
        }
    }
}

#[test]
fn every_bf16_and_f16_widens_and_comes_back() {
    for device in devices() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for dtype in [DType::BF16, DType::F16] {
            let all = engine::Tensor::from_bytes(&bytes, &[1 << 16], dtype, &device).unwrap();
            let wide = all.to_dtype(DType::F32).unwrap();
            let want = all.to_f64_vec().unwrap();
            let same = |a: f64, b: f64| (a.is_nan() && b.is_nan()) || a.to_bits() == b.to_bits();
            assert!(
                wide.to_f64_vec().unwrap().iter().zip(&want).all(|(&a, &b)| same(a, b)),
                "{dtype} to f32"
            );
            let back = wide.to_dtype(dtype).unwrap().to_f64_vec().unwrap();
            assert!(back.iter().zip(&want).all(|(&a, &b)| same(a, b)), "f32 to {dtype}");
        }
    }
}

#[test]
fn f32_rounds_to_nearest_even_around_every_bf16() {
    // The upper half of an f32 with the lower half at and beside the tie.
    for device in devices() {
        let values: Vec<f32> = (0..=u16::MAX)
            .flat_map(|high| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|low| (high, low)))
            .map(|(high, low): (u16, u32)| f32::from_bits(u32::from(high) << 16 | low))
            .collect();
        let x = engine::Tensor::from_slice(&values, &[values.len()], &device).unwrap();
        for dtype in [DType::BF16, DType::F16] {
            let got = x.to_dtype(dtype).unwrap().to_f64_vec().unwrap();
            for (&x, &got) in values.iter().zip(&got) {
                let want = crate::oracle::round(f64::from(x), dtype);
                assert!(
                    got == want || (got.is_nan() && want.is_nan()),
                    "{x:e} as {dtype}: {got}, not {want}"
                );
            }
        }
    }
}

#[test]
fn threads_change_nothing() {
    let x = Source::new(1).normal(&[70_001], DType::F32);
    same_bits(|device| Ok(vec![x.on(device)?.to_dtype(DType::BF16)?])).unwrap();
}
