use engine::ops::Burst;
use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Source, cases, check, same_bits, seed};
use crate::oracle;
use crate::tolerance::Class;

fn expect(op: Burst, x: &oracle::Array, c: Option<&oracle::Array>) -> Expect {
    let terms = match op {
        Burst::MultiplyAdds { .. } => 16,
        Burst::Products { rounds } => rounds,
        Burst::Read { sums } => x.data.len() / sums,
        Burst::Triad => 2,
    };
    Expect::new(oracle::burst(op, x, c), DType::F32, Class::Sum(terms)).scale(oracle::burst_scale(op, x, c))
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn arithmetic_matches_the_oracle(tiles in 0usize..12, turns in 0usize..5, seed in seed()) {
        let x = Source::new(seed).normal(&[128 * tiles], DType::F32);
        let rounds = 16 * turns;
        check(&[&x], |t| t[0].burst_multiply_adds(rounds), &expect(Burst::MultiplyAdds { rounds }, &x.values, None))?;
        check(&[&x], |t| t[0].burst_products(rounds), &expect(Burst::Products { rounds }, &x.values, None))?;
    }

    #[test]
    fn memory_matches_the_oracle(sums in 1usize..700, each in 0usize..30, seed in seed()) {
        let mut source = Source::new(seed);
        let x = source.normal(&[sums * each], DType::F32);
        let c = source.normal(&[sums * each], DType::F32);
        check(&[&x], |t| t[0].burst_read(sums), &expect(Burst::Read { sums }, &x.values, None))?;
        check(&[&x, &c], |t| t[0].burst_triad(&t[1]), &expect(Burst::Triad, &x.values, Some(&c.values)))?;
    }
}

#[test]
fn threads_change_nothing() {
    let mut source = Source::new(1);
    let (x, c) = (source.normal(&[64_000], DType::F32), source.normal(&[64_000], DType::F32));
    same_bits(|device| {
        let (x, c) = (x.on(device)?, c.on(device)?);
        Ok(vec![x.burst_multiply_adds(16)?, x.burst_products(16)?, x.burst_read(640)?, x.burst_triad(&c)?])
    })
    .unwrap();
}

#[test]
fn the_rule_names_what_is_wrong() {
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &Device::cpu()).unwrap();
    let x = zeros(&[256], DType::F32);
    for (result, says) in [
        (x.burst_multiply_adds(17), "17 rounds"),
        (zeros(&[100], DType::F32).burst_products(16), "100 elements"),
        (x.burst_read(0), "0 sums"),
        (x.burst_read(100), "100 sums"),
        (x.burst_triad(&zeros(&[255], DType::F32)), "[255]"),
        (x.burst_triad(&zeros(&[256], DType::BF16)), "bf16"),
        (zeros(&[16, 16], DType::F32).burst_multiply_adds(16), "[16, 16]"),
        (zeros(&[256], DType::F16).burst_multiply_adds(16), "f16"),
    ] {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(says), "{text}");
    }
}
