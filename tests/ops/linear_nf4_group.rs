//! Several 4-bit layers of one input against each of them over its values in f64.

use engine::{DType, Device, QuantConfig, Quantized, Result, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{Expect, Source, cases, check, devices, same_bits, seed};
use crate::linear_nf4::{config, weight};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

/// Applies weights of the CPU where `x` is.
fn group(x: &Tensor, weights: &[(Quantized, Array)]) -> Result<Vec<Tensor>> {
    let weights: Vec<Quantized> = weights.iter().map(|w| w.0.to_device(x.device())).collect::<Result<_>>()?;
    x.linear_nf4_group(&weights.iter().collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn matches_the_oracle(
        rows in prop_oneof![0usize..2, 1usize..20],
        inner in prop_oneof![1usize..140, (1usize..12).prop_map(|n| 64 * n)],
        outs in prop::collection::vec(1usize..70, 1..5), power in 5usize..8, fp4 in any::<bool>(),
        double in any::<bool>(), bf16 in any::<bool>(), seed in seed(),
    ) {
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let mut source = Source::new(seed);
        let weights: Vec<(Quantized, Array)> =
            outs.iter().map(|&out| weight(&mut source, out, inner, &config(power, fp4, double), dtype)).collect();
        let x = source.normal(&[rows, inner], dtype);
        for (i, (_, values)) in weights.iter().enumerate() {
            let values = values.permute(&[1, 0]);
            let want = oracle::matmul(&x.values, &values, None);
            let scale = oracle::matmul(&x.values.map(f64::abs), &values.map(f64::abs), None);
            let expect = Expect::new(want, dtype, Class::Sum(inner)).scale(scale);
            check(&[&x], |t| Ok(group(&t[0], &weights)?.swap_remove(i)), &expect)?;
        }
    }

    #[test]
    fn gradients_match_differences(
        rows in 1usize..5, inner in 1usize..8, outs in prop::collection::vec(1usize..6, 1..4), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let weights: Vec<(Quantized, Array)> =
            outs.iter().map(|&out| weight(&mut source, out, inner, &config(6, false, true), DType::F32)).collect();
        let x = source.normal(&[rows, inner], DType::F32);
        let terms = rows.max(inner).max(outs.iter().sum());
        gradient::check(seed, &[&x],
            |t| {
                let ys = group(&t[0], &weights)?;
                Tensor::concat(&ys.iter().collect::<Vec<_>>(), 1)
            },
            |v| {
                let ys: Vec<Array> =
                    weights.iter().map(|w| oracle::matmul(&v[0], &w.1.permute(&[1, 0]), None)).collect();
                oracle::concat(&ys, 1)
            },
            gradient::Slack { terms, scale: 4.0 * (terms as f64).sqrt() })?;
    }
}

/// Grouping is a matter of speed: each output has the bits that its layer alone gives.
#[test]
fn each_output_is_that_of_its_layer_alone() {
    let mut source = Source::new(13);
    for (device, inner) in devices().iter().flat_map(|d| [64, 100, 320, 576].map(|inner| (d, inner))) {
        let weights: Vec<Quantized> = [576, 192, 70, 1]
            .map(|out| weight(&mut source, out, inner, &QuantConfig::default(), DType::BF16).0)
            .map(|w| w.to_device(device).unwrap())
            .into();
        for rows in [1, 3, 20] {
            let x = source.normal(&[rows, inner], DType::BF16).on(device).unwrap();
            let together = x.linear_nf4_group(&weights.iter().collect::<Vec<_>>()).unwrap();
            for (y, weight) in together.iter().zip(&weights) {
                let alone = x.linear_nf4(weight, None, None).unwrap();
                assert_eq!(
                    y.to_bytes().unwrap(),
                    alone.to_bytes().unwrap(),
                    "{device}: {rows} rows of {inner}"
                );
            }
        }
    }
}

#[test]
fn values_are_the_same_for_any_number_of_threads() {
    let mut source = Source::new(6);
    let weights: Vec<Quantized> = [900, 300, 300]
        .map(|out| weight(&mut source, out, 320, &QuantConfig::default(), DType::BF16).0)
        .into();
    for rows in [1, 5, 40] {
        let x = source.normal(&[rows, 320], DType::BF16);
        same_bits(|device| x.on(device)?.linear_nf4_group(&weights.iter().collect::<Vec<_>>())).unwrap();
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let quantized = weight(&mut Source::new(7), 8, 64, &QuantConfig::default(), DType::F32).0;
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
    for (x, count, part) in [
        (zeros(&[2, 63], DType::F32), 1, "does not fit the weight"),
        (zeros(&[2, 64], DType::F16), 2, "f32 or bf16"),
        (zeros(&[2, 64], DType::F32), 0, "at least one"),
        (zeros(&[2, 64], DType::F32), 8, "not more tensors than 32"),
    ] {
        let text = x.linear_nf4_group(&vec![&quantized; count]).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
}
