use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Source, cases, check, dims, float, full_dims, same_bits, seed};
use crate::tolerance::Class;
use crate::{gradient, oracle};

const EPS: f32 = 1e-5;

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(lead in dims(0..=3, 5), n in 1usize..80, dtype in float(), seed in seed()) {
        let mut source = Source::new(seed);
        let x = source.normal(&[&lead[..], &[n]].concat(), dtype);
        let w = source.normal(&[n], dtype);
        let want = oracle::rms_norm(&x.values, &w.values, f64::from(EPS));
        check(&[&x, &w], |t| t[0].rms_norm(&t[1], EPS), &Expect::new(want, dtype, Class::Norm(n)))?;
    }

    #[test]
    fn gradient_matches_differences(lead in full_dims(0..=2, 3), n in 2usize..8, dtype in float(), seed in seed()) {
        let mut source = Source::new(seed);
        let x = source.uniform(&[&lead[..], &[n]].concat(), dtype, 0.5, 2.0);
        let w = source.normal(&[n], dtype);
        let rows: usize = lead.iter().product();
        gradient::check(seed, &[&x, &w], |t| t[0].rms_norm(&t[1], EPS),
            |v| oracle::rms_norm(&v[0], &v[1], f64::from(EPS)),
            gradient::Slack { terms: n.max(rows), scale: (rows as f64).sqrt() })?;
    }
}

#[test]
fn long_rows_and_threads() {
    for dtype in [DType::F32, DType::BF16] {
        let mut source = Source::new(1);
        let (x, w) = (source.normal(&[150, 960], dtype), source.normal(&[960], dtype));
        let want = oracle::rms_norm(&x.values, &w.values, f64::from(EPS));
        check(&[&x, &w], |t| t[0].rms_norm(&t[1], EPS), &Expect::new(want, dtype, Class::Norm(960))).unwrap();
        same_bits(|device| {
            let (x, w) = (x.on(device)?.tracked(), w.on(device)?.tracked());
            let y = x.rms_norm(&w, EPS)?;
            let mut gradients = y.backward_from(&y.detach())?;
            Ok(vec![y, gradients.take(&x).unwrap(), gradients.take(&w).unwrap()])
        })
        .unwrap();
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let x = Tensor::zeros(&[2, 3], DType::F32, &device).unwrap();
    let w = Tensor::zeros(&[4], DType::F32, &device).unwrap();
    let text = x.rms_norm(&w, EPS).unwrap_err().to_string();
    assert!(text.contains("rms_norm") && text.contains("[4]") && text.contains("[3]"), "{text}");
    let scalar = Tensor::zeros(&[], DType::F32, &device).unwrap();
    assert!(scalar.rms_norm(&w, EPS).is_err());
}
