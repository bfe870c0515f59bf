use engine::DType;
use proptest::prelude::*;

use crate::harness::{Expect, Source, cases, check, dims, float, full_dims, same_bits, seed};
use crate::tolerance::Class;
use crate::{gradient, oracle};

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn matches_the_oracle(
        dims in dims(0..=4, 6), dtype in float(), seed in seed(), mul in -3f32..3.0, add in -3f32..3.0,
    ) {
        let x = Source::new(seed).normal(&dims, dtype);
        let (m, a) = (f64::from(mul), f64::from(add));
        let want = Expect::new(oracle::affine(&x.values, m, a), dtype, Class::Arithmetic)
            .scale(x.values.map(|x| (m * x).abs() + a.abs()));
        check(&[&x], |t| t[0].affine(mul, add), &want)?;
    }

    #[test]
    fn gradient_matches_differences(dims in full_dims(0..=3, 4), dtype in float(), seed in seed()) {
        let x = Source::new(seed).normal(&dims, dtype);
        gradient::check(seed, &[&x], |t| t[0].affine(-1.75, 0.5), |a| oracle::affine(&a[0], -1.75, 0.5),
            gradient::Slack::terms(1))?;
    }
}

#[test]
fn threads_change_nothing() {
    let x = Source::new(1).normal(&[3, 40_001], DType::BF16);
    same_bits(|device| Ok(vec![x.on(device)?.affine(0.3, 0.7)?])).unwrap();
}
