use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{Expect, Source, cases, check, seed};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn matches_the_oracle(
        b in 0usize..3, c in 1usize..4, h in 0usize..14, w in 0usize..14, e in 1usize..9, p in 1usize..5,
        bf16 in any::<bool>(), with_bias in any::<bool>(), seed in seed(),
    ) {
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let mut source = Source::new(seed);
        let x = source.normal(&[b, c, h, w], dtype);
        let weight = source.normal(&[e, c, p, p], dtype);
        let bias = source.normal(&[e], dtype);
        let bias = with_bias.then_some(&bias);
        let values = bias.map(|b| &b.values);
        let abs = |x: &Array| x.map(f64::abs);
        let want = Expect::new(oracle::patch_conv(&x.values, &weight.values, values), dtype, Class::Sum(c * p * p))
            .scale(oracle::patch_conv(&abs(&x.values), &abs(&weight.values), values.map(abs).as_ref()));
        let operands: Vec<_> = [&x, &weight].into_iter().chain(bias).collect();
        check(&operands, |t| t[0].patch_conv(&t[1], t.get(2)), &want)?;
    }

    #[test]
    fn gradient_matches_differences(
        b in 1usize..3, c in 1usize..3, h in 2usize..6, w in 2usize..6, e in 1usize..4, p in 1usize..3,
        seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let x = source.normal(&[b, c, h, w], DType::F32);
        let weight = source.normal(&[e, c, p, p], DType::F32);
        let bias = source.normal(&[e], DType::F32);
        let terms = (b * h * w).max(e);
        gradient::check(seed, &[&x, &weight, &bias], |t| t[0].patch_conv(&t[1], Some(&t[2])),
            |v| oracle::patch_conv(&v[0], &v[1], Some(&v[2])),
            gradient::Slack { terms, scale: (terms as f64).sqrt() })?;
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &device).unwrap();
    let x = zeros(&[1, 3, 8, 8]);
    for weight in [&[4, 3, 2, 3][..], &[4, 1, 2, 2], &[4, 3, 0, 0], &[4, 12]] {
        let text = x.patch_conv(&zeros(weight), None).unwrap_err().to_string();
        assert!(text.starts_with("patch_conv") && text.contains(&format!("{weight:?}")), "{text}");
    }
}
