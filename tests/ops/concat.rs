use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Operand, Source, cases, check, dims, float, full_dims, seed};
use crate::oracle::Array;
use crate::tolerance::Class;
use crate::{gradient, oracle};

/// Parts that differ in the size of `axis`.
fn parts(source: &mut Source, dims: &[usize], axis: usize, sizes: &[usize], dtype: DType) -> Vec<Operand> {
    let mut dims = dims.to_vec();
    sizes
        .iter()
        .map(|&size| {
            dims[axis] = size;
            source.normal(&dims, dtype)
        })
        .collect()
}

fn values(parts: &[Operand]) -> Vec<Array> {
    parts.iter().map(|p| p.values.clone()).collect()
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        dims in dims(1..=6, 4), axis in 0usize..6, sizes in prop::collection::vec(0usize..6, 1..5),
        dtype in prop::sample::select(&DType::ALL[..]), seed in seed(),
    ) {
        let axis = axis % dims.len();
        let parts = parts(&mut Source::new(seed), &dims, axis, &sizes, dtype);
        let want = Expect::new(oracle::concat(&values(&parts), axis), dtype, Class::Exact);
        check(&parts.iter().collect::<Vec<_>>(),
            |t| Tensor::concat(&t.iter().collect::<Vec<_>>(), axis), &want)?;
    }

    #[test]
    fn gradient_matches_differences(
        dims in full_dims(1..=3, 3), axis in 0usize..3, sizes in prop::collection::vec(1usize..3, 1..4),
        dtype in float(), seed in seed(),
    ) {
        let axis = axis % dims.len();
        let parts = parts(&mut Source::new(seed), &dims, axis, &sizes, dtype);
        gradient::check(seed, &parts.iter().collect::<Vec<_>>(),
            |t| Tensor::concat(&t.iter().collect::<Vec<_>>(), axis),
            |v| oracle::concat(v, axis), gradient::Slack::terms(1))?;
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
    let a = zeros(&[2, 3], DType::F32);
    for (b, axis, says) in [
        (zeros(&[2, 4], DType::F32), 0, "[2, 4]"),
        (zeros(&[2, 3], DType::BF16), 0, "bf16"),
        (zeros(&[2], DType::F32), 0, "[2]"),
        (a.clone(), 2, "no dimension 2"),
    ] {
        let text = Tensor::concat(&[&a, &b], axis).unwrap_err().to_string();
        assert!(text.starts_with("concat") && text.contains(says), "{text}");
    }
    assert!(Tensor::concat(&[], 0).is_err());
}
