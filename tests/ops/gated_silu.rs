use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Source, cases, check, dims, float, full_dims, same_bits, seed};
use crate::tolerance::Class;
use crate::{gradient, oracle};

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        dims in dims(0..=4, 9), dtype in float(), seed in seed(),
        wide in prop::sample::select(&[1e-3, 1.0, 40.0][..]),
    ) {
        let mut source = Source::new(seed);
        let gate = source.operand(&dims, dtype, |rng| wide * f64::from(rng.normal()));
        let up = source.normal(&dims, dtype);
        let want = Expect::new(oracle::gated_silu(&gate.values, &up.values), dtype, Class::Function);
        check(&[&gate, &up], |t| t[0].gated_silu(&t[1]), &want)?;
    }

    #[test]
    fn gradient_matches_differences(dims in full_dims(0..=3, 4), dtype in float(), seed in seed()) {
        let mut source = Source::new(seed);
        let (gate, up) = (source.normal(&dims, dtype), source.normal(&dims, dtype));
        gradient::check(seed, &[&gate, &up], |t| t[0].gated_silu(&t[1]),
            |v| oracle::gated_silu(&v[0], &v[1]), gradient::Slack { terms: 1, scale: 1.0 })?;
    }
}

#[test]
fn threads_change_nothing() {
    let mut source = Source::new(1);
    // As a gated layer makes them: the two halves of one product.
    let both = source.normal(&[150, 2 * 300], DType::BF16);
    same_bits(|device| {
        let both = both.on(device)?.tracked();
        let y = both.narrow(1, 0, 300)?.gated_silu(&both.narrow(1, 300, 300)?)?;
        Ok(vec![y.detach(), y.backward_from(&y.detach())?.take(&both).unwrap()])
    })
    .unwrap();
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let gate = Tensor::zeros(&[2, 3], DType::F32, &device).unwrap();
    let text = gate.gated_silu(&Tensor::zeros(&[3], DType::F32, &device).unwrap()).unwrap_err().to_string();
    assert!(text.contains("gated_silu") && text.contains("[3]") && text.contains("[2, 3]"), "{text}");
    let text = gate.gated_silu(&gate.to_dtype(DType::F16).unwrap()).unwrap_err().to_string();
    assert!(text.contains("f16"), "{text}");
}
