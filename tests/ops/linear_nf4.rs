//! The layer over 4-bit weights against one over their values in f64.

use engine::ops::{Dropout, Lora, LoraTerm};
use engine::{Codebook, DType, Device, QuantConfig, Quantized, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{Expect, Source, cases, check, same_bits, seed};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

/// A quantised weight and its values as the products see them in `dtype`.
pub(crate) fn weight(
    source: &mut Source,
    out: usize,
    inner: usize,
    config: &QuantConfig,
    dtype: DType,
) -> (Quantized, Array) {
    let values = source.normal(&[out, inner], DType::F32);
    let quantized = Quantized::quantize(&values.on(&Device::cpu()).unwrap(), config).unwrap();
    let seen = quantized.dequantize(dtype).unwrap().to_f64_vec().unwrap();
    (quantized, Array { dims: vec![out, inner], data: seen })
}

/// `x·Wᵀ + bias + scale·(dropout(x)·Aᵀ)·Bᵀ`
fn layer(x: &Array, w: &Array, bias: Option<&Array>, lora: Option<(&Array, &Array, &LoraTerm)>) -> Array {
    let mut y = oracle::matmul(x, &w.permute(&[1, 0]), bias);
    if let Some((a, b, term)) = lora {
        let mut x = x.clone();
        if let Some(dropout) = &term.dropout {
            for (i, x) in x.data.iter_mut().enumerate() {
                *x = if dropout.keeps(i as u32) { *x * f64::from(dropout.scale()) } else { 0.0 };
            }
        }
        let h = oracle::matmul(&x, &a.permute(&[1, 0]), None);
        let low = oracle::matmul(&h, &b.permute(&[1, 0]), None);
        y = y.zip(&low, |y, l| y + f64::from(term.scale) * l);
    }
    y
}

pub(crate) fn config(power: usize, fp4: bool, double: bool) -> QuantConfig {
    let codebook = if fp4 { Codebook::Fp4 } else { Codebook::Nf4 };
    QuantConfig { codebook, block: 1 << power, double }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn matches_the_oracle(
        rows in prop_oneof![0usize..4, 1usize..40],
        inner in prop_oneof![1usize..140, (1usize..5).prop_map(|n| 64 * n), (8usize..40).prop_map(|n| 64 * n)],
        out in 1usize..70, r in 1usize..10, power in 5usize..8, fp4 in any::<bool>(), double in any::<bool>(),
        bf16 in any::<bool>(), with_bias in any::<bool>(), with_lora in any::<bool>(), p in 0.0f32..0.6,
        seed in seed(),
    ) {
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let mut source = Source::new(seed);
        let (quantized, values) = weight(&mut source, out, inner, &config(power, fp4, double), dtype);
        let x = source.normal(&[rows, inner], dtype);
        let bias = source.normal(&[out], dtype);
        let (a, b) = (source.normal(&[r, inner], dtype), source.normal(&[out, r], dtype));
        let dropout = (p > 0.1).then_some(Dropout { p, seed });
        let term = LoraTerm { scale: 0.5, dropout };
        let bias = with_bias.then_some(&bias);
        let lora = with_lora.then_some((&a, &b));
        let positive = |x: &Array| x.map(f64::abs);
        let want = layer(&x.values, &values, bias.map(|b| &b.values), lora.map(|(a, b)| (&a.values, &b.values, &term)));
        let scale = layer(&positive(&x.values), &positive(&values), bias.map(|b| positive(&b.values)).as_ref(),
            lora.map(|(a, b)| (positive(&a.values), positive(&b.values))).as_ref().map(|(a, b)| (a, b, &term)));
        // The inner product of an adapter is rounded to the element type, relative to its largest terms.
        let class = if with_lora { Class::Gradient(inner) } else { Class::Sum(inner) };
        let expect = Expect::new(want, dtype, class).scale(scale);
        let operands: Vec<_> = [&x].into_iter().chain(bias).chain(lora.iter().flat_map(|(a, b)| [*a, *b])).collect();
        check(&operands, |t| {
            let after = 1 + usize::from(with_bias);
            let lora = with_lora.then(|| Lora { a: &t[after], b: &t[after + 1], term });
            let quantized = quantized.to_device(t[0].device())?;
            t[0].linear_nf4(&quantized, with_bias.then(|| &t[1]), lora)
        }, &expect)?;
    }

    #[test]
    fn gradients_match_differences(
        rows in 1usize..5, inner in 1usize..8, out in 1usize..6, r in 1usize..4, p in 0.0f32..0.6, seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let (quantized, values) = weight(&mut source, out, inner, &config(6, false, true), DType::F32);
        let x = source.normal(&[rows, inner], DType::F32);
        let bias = source.normal(&[out], DType::F32);
        let (a, b) = (source.normal(&[r, inner], DType::F32), source.normal(&[out, r], DType::F32));
        let dropout = (p > 0.1).then_some(Dropout { p, seed });
        let term = LoraTerm { scale: 2.0, dropout };
        let terms = rows.max(inner).max(out);
        gradient::check(seed, &[&x, &bias, &a, &b],
            |t| {
                let quantized = quantized.to_device(t[0].device())?;
                t[0].linear_nf4(&quantized, Some(&t[1]), Some(Lora { a: &t[2], b: &t[3], term }))
            },
            |v| layer(&v[0], &values, Some(&v[1]), Some((&v[2], &v[3], &term))),
            gradient::Slack { terms, scale: 4.0 * (terms as f64).sqrt() })?;
    }
}

/// One way of rounding: a token alone (dot products in registers) and the same token among others (tiles) see the same
/// weights; only the order of summation differs.
#[test]
fn decoding_and_prefill_see_the_same_weights() {
    let device = Device::cpu();
    let mut source = Source::new(11);
    let (quantized, values) = weight(&mut source, 96, 256, &QuantConfig::default(), DType::BF16);
    let x = source.uniform(&[20, 256], DType::BF16, -1.0, 1.0);
    let x = x.on(&device).unwrap();
    let all = x.linear_nf4(&quantized, None, None).unwrap().to_f64_vec().unwrap();
    for row in 0..20 {
        let one = x.narrow(0, row, 1).unwrap();
        let one = one.linear_nf4(&quantized, None, None).unwrap().to_f64_vec().unwrap();
        for (n, (one, many)) in one.iter().zip(&all[row * 96..]).enumerate() {
            let scale: f64 = values.data[n * 256..][..256].iter().map(|w| w.abs()).sum();
            // Both are bf16 roundings of sums that differ by f32 roundings.
            assert!((one - many).abs() <= one.abs() * 2f64.powi(-7) + scale * 2f64.powi(-22), "{one} {many}");
        }
    }
}

#[test]
fn values_are_the_same_for_any_number_of_threads() {
    let mut source = Source::new(5);
    let (quantized, _) = weight(&mut source, 200, 320, &QuantConfig::default(), DType::BF16);
    let x = source.normal(&[130, 320], DType::BF16);
    let (a, b) = (source.normal(&[8, 320], DType::F32), source.normal(&[200, 8], DType::F32));
    let term = LoraTerm { scale: 1.0, dropout: Some(Dropout { p: 0.1, seed: 3 }) };
    same_bits(|device| {
        let (x, a, b) = (x.on(device)?.tracked(), a.on(device)?.tracked(), b.on(device)?.tracked());
        let y = x.linear_nf4(&quantized, None, Some(Lora { a: &a, b: &b, term }))?;
        let mut gradients = y.backward_from(&y.detach())?;
        let all = [&x, &a, &b].map(|t| gradients.take(t).expect("it was reached"));
        Ok([vec![y.detach()], all.to_vec()].concat())
    })
    .unwrap();
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let (quantized, _) = weight(&mut Source::new(7), 8, 64, &QuantConfig::default(), DType::F32);
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
    let x = zeros(&[2, 64], DType::F32);
    let term = LoraTerm { scale: 1.0, dropout: None };
    for (x, a, b, term, part) in [
        (zeros(&[2, 63], DType::F32), [2, 64], [8, 2], term, "does not fit the weight"),
        (zeros(&[2, 64], DType::F16), [2, 64], [8, 2], term, "f32 or bf16"),
        (x.clone(), [2, 63], [8, 2], term, "A has shape [2, 63]"),
        (x.clone(), [2, 64], [8, 3], term, "B has shape [8, 3]"),
        (x.clone(), [2, 64], [8, 2], LoraTerm { scale: f32::NAN, ..term }, "scale"),
        (
            x.clone(),
            [2, 64],
            [8, 2],
            LoraTerm { dropout: Some(Dropout { p: 1.5, seed: 0 }), ..term },
            "[0, 1)",
        ),
    ] {
        let (a, b) = (zeros(&a, DType::F32), zeros(&b, DType::F32));
        let text = x.linear_nf4(&quantized, None, Some(Lora { a: &a, b: &b, term })).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
}
