use engine::{DType, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Source, cases, check, devices, dims, float, seed};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        lead in dims(0..=3, 4), n in 1usize..700, values in 1usize..2000, dtype in float(), seed in seed(),
    ) {
        // Few values, so that there are ties; some of them NaN and both zeros.
        let pick = |rng: &mut engine::Rng| match rng.below(4 * values) {
            0 => f64::NAN,
            1 => -0.0,
            i => (i % values) as f64 - values as f64 / 2.0,
        };
        let x = Source::new(seed).operand(&[&lead[..], &[n]].concat(), dtype, pick);
        let (_, places) = oracle::top_k(&x.values, 1);
        let want = Expect::new(Array::new(&lead, places.data), DType::U32, Class::Exact);
        check(&[&x], |t| t[0].argmax(), &want)?;
    }
}

#[test]
fn ties_zeros_infinities_and_nan() {
    for device in devices() {
        let at = |row: &[f32]| {
            Tensor::from_slice(row, &[row.len()], &device).unwrap().argmax().unwrap().to_vec::<u32>().unwrap()
                [0]
        };
        assert_eq!(at(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(at(&[-0.0, 0.0]), 0);
        assert_eq!(at(&[f32::NEG_INFINITY; 3]), 0);
        assert_eq!(at(&[1.0, f32::INFINITY, 2.0]), 1);
        assert_eq!(at(&[f32::INFINITY, f32::NAN, -f32::NAN]), 1);
        assert_eq!(at(&[-1.0, -2.0]), 0);
        // In the last, partial chunk, and in the first of two equal chunks.
        let mut row = vec![0.0; 49_153];
        row[49_152] = 1.0;
        assert_eq!(at(&row), 49_152);
        row[300] = 1.0;
        assert_eq!(at(&row), 300);
    }
}

#[test]
fn nothing_has_no_largest() {
    for device in devices() {
        let text = Tensor::zeros(&[2, 0], DType::F32, &device).unwrap().argmax().unwrap_err().to_string();
        assert!(text.contains("[2, 0]"), "{text}");
        assert!(Tensor::zeros(&[], DType::F32, &device).unwrap().argmax().is_err());
        assert_eq!(Tensor::zeros(&[0, 2], DType::F32, &device).unwrap().argmax().unwrap().count(), 0);
    }
}
