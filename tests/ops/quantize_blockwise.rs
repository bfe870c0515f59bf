//! Block-wise quantisation by the letter of the format.

use engine::ops::QuantizeBlockwise;
use engine::{Codebook, DType, Device, QuantConfig, Quantized, Tensor, apply};
use proptest::prelude::*;

use crate::harness::{Check, Source, cases, devices, float, seed};
use crate::oracle::round;

const BOOKS: [Codebook; 4] = [Codebook::Nf4, Codebook::Fp4, Codebook::Dynamic, Codebook::DynamicUnsigned];

/// Distance of `x` to the value of `code`, and to the nearest value.
fn distances(book: Codebook, x: f32, code: u8) -> (f64, f64) {
    let to = |v: f32| (f64::from(x) - f64::from(v)).abs();
    (to(book.values()[code as usize]), book.values().iter().map(|&v| to(v)).fold(f64::INFINITY, f64::min))
}

fn check(values: &[f64], dtype: DType, book: Codebook, block: usize) -> Check {
    for device in devices() {
        let x = Tensor::from_f64(values, &[values.len()], dtype, &device)?;
        let out = apply(QuantizeBlockwise { codebook: book, block }, &[&x])?;
        let (bytes, absmax) = (out[0].to_vec::<u8>()?, out[1].to_vec::<f32>()?);
        let rounded: Vec<f32> = values.iter().map(|&v| round(v, dtype) as f32).collect();
        let codes: Vec<u8> = if book.bits() == 4 {
            let mut codes: Vec<u8> = bytes.iter().flat_map(|b| [b >> 4, b & 15]).collect();
            if codes.len() > values.len() {
                prop_assert_eq!(
                    book.values()[codes.pop().unwrap() as usize],
                    0.0,
                    "the last half is padding"
                );
            }
            codes
        } else {
            bytes
        };
        prop_assert_eq!(codes.len(), values.len());
        for (b, x) in rounded.chunks(block).enumerate() {
            let most = x.iter().fold(0f32, |m, x| m.max(x.abs()));
            prop_assert_eq!(absmax[b], most, "scale of block {}", b);
            for (x, &code) in x.iter().zip(&codes[b * block..]) {
                let scaled = (x * (1.0 / most.max(1e-38))).clamp(-1.0, 1.0);
                let (own, nearest) = distances(book, scaled, code);
                // Midpoints are f32: near one, either neighbour.
                prop_assert!(
                    own <= nearest + 1e-7,
                    "{x} of {most} has code {code}: {own}, nearest {nearest}"
                );
                if most == 0.0 {
                    prop_assert_eq!(book.values()[code as usize], 0.0);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn codes_are_nearest(
        n in 0usize..700, which in 0usize..4, half in 1usize..200, dtype in float(), zeros in any::<bool>(),
        seed in seed(),
    ) {
        let book = BOOKS[which];
        let mut source = Source::new(seed);
        let mut values: Vec<f64> = (0..n).map(|_| f64::from(source.rng.normal())).collect();
        if book == Codebook::DynamicUnsigned {
            for v in &mut values {
                *v = v.abs();
            }
        }
        if zeros {
            values.iter_mut().take(2 * half + 3).for_each(|v| *v = 0.0);
        }
        check(&values, dtype, book, 2 * half)?;
    }

    #[test]
    fn values_come_back_within_a_step(
        out in 1usize..40, inner in 1usize..90, power in 5usize..9, fp4 in any::<bool>(), double in any::<bool>(),
        dtype in float(), seed in seed(),
    ) {
        for device in devices() {
            let weight = Source::new(seed).normal(&[out, inner], dtype);
            let codebook = if fp4 { Codebook::Fp4 } else { Codebook::Nf4 };
            let config = QuantConfig { codebook, block: 1 << power, double };
            let quantized = Quantized::quantize(&weight.on(&device)?, &config)?;
            let got = quantized.dequantize(DType::F32)?.to_vec::<f32>()?;
            let blocks: Vec<f64> = weight.values.data.chunks(1 << power)
                .map(|b| b.iter().fold(0f64, |m, v| m.max(v.abs()))).collect();
            let most = blocks.iter().fold(0f64, |m, v| m.max(*v));
            for (i, (&got, &want)) in got.iter().zip(&weight.values.data).enumerate() {
                // Half the widest gap of the table (FP4's 1/3 wide, NF4's .304), and for double quantisation what the
                // scale may be off: a part of the largest scale.
                let scale = blocks[i >> power];
                let slack = 0.17 * scale + if double { 0.02 * most } else { 0.0 };
                prop_assert!((f64::from(got) - want).abs() <= slack, "{i}: {got} for {want}, scale {scale}");
            }
            // One rounding: bf16 values are the f32 ones, rounded.
            let narrow = quantized.dequantize(DType::BF16)?.to_f64_vec()?;
            for (&n, &w) in narrow.iter().zip(&got) {
                prop_assert_eq!(n, round(f64::from(w), DType::BF16));
            }
        }
    }
}

#[test]
fn wrong_configurations_and_values_are_refused() {
    let device = Device::cpu();
    let weight = Tensor::zeros(&[4, 64], DType::F32, &device).unwrap();
    for (config, part) in [
        (QuantConfig { codebook: Codebook::Dynamic, ..QuantConfig::default() }, "nf4 or fp4"),
        (QuantConfig { block: 48, ..QuantConfig::default() }, "32 to 4096"),
        (QuantConfig { block: 0, ..QuantConfig::default() }, "even"),
    ] {
        let text = Quantized::quantize(&weight, &config).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    let config = QuantConfig::default();
    let text = Quantized::quantize(&weight.reshape(&[256]).unwrap(), &config).unwrap_err().to_string();
    assert!(text.contains("[out, in]"), "{text}");
    for bad in [f64::NAN, f64::INFINITY] {
        let weight = Tensor::full(&[2, 64], bad, DType::F32, &device).unwrap();
        let text = Quantized::quantize(&weight, &config).unwrap_err().to_string();
        assert!(text.contains("not finite"), "{text}");
    }
    let mut parts = Quantized::quantize(&weight, &config).unwrap().parts().clone();
    parts.dims = [4, 65];
    assert!(Quantized::from_parts(parts).unwrap_err().to_string().contains("expected u8 [130, 1]"));
}
