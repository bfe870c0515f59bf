use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Operand, Source, cases, check, devices, float, seed};
use crate::oracle::Array;
use crate::tolerance::Class;
use crate::{gradient, oracle};

/// `m` different rows of `count`.
fn index(source: &mut Source, count: usize, m: usize) -> Operand {
    let mut rows: Vec<usize> = (0..count).collect();
    source.rng.shuffle(&mut rows);
    Operand::dense(&Array::new(&[m], rows[..m].iter().map(|&r| r as f64).collect()), DType::U32)
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        count in 0usize..20, part in 0usize..20, n in 0usize..30, dtype in float(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let m = part.min(count);
        let (base, rows) = (source.normal(&[count, n], dtype), source.normal(&[m, n], dtype));
        let index = index(&mut source, count, m);
        let want = oracle::scatter_rows(&base.values, &rows.values, &index.values);
        check(&[&base, &rows, &index], |t| t[0].scatter_rows(&t[1], &t[2]),
            &Expect::new(want, dtype, Class::Exact))?;
    }

    #[test]
    fn gradient_matches_differences(
        count in 1usize..5, part in 1usize..5, n in 1usize..4, dtype in float(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let m = part.min(count);
        let (base, rows) = (source.normal(&[count, n], dtype), source.normal(&[m, n], dtype));
        let index = index(&mut source, count, m);
        gradient::check(seed, &[&base, &rows], |t| t[0].scatter_rows(&t[1], &index.on(t[0].device())?),
            |v| oracle::scatter_rows(&v[0], &v[1], &index.values), gradient::Slack::terms(1))?;
    }
}

#[test]
fn a_bad_index_is_named() {
    for device in devices() {
        let base = Tensor::zeros(&[4, 2], DType::F32, &device).unwrap();
        let rows = Tensor::zeros(&[3, 2], DType::F32, &device).unwrap();
        let index = |values: &[u32]| Tensor::from_slice(values, &[values.len()], &device).unwrap();
        // A device that runs behind says it with the next read.
        let error = |index: &Tensor| {
            base.scatter_rows(&rows, index).and_then(|y| y.to_bytes()).unwrap_err().to_string()
        };
        let text = error(&index(&[3, 1, 3]));
        // A GPU says of one place that it is not the only one.
        let places = if device == Device::cpu() { &["at 0", "at 2"][..] } else { &["two places"] };
        assert!(text.contains("index 3") && places.iter().all(|place| text.contains(place)), "{text}");
        let text = error(&index(&[3, 4, 1]));
        assert!(text.contains("id 4 at [1]") && text.contains("4 rows"), "{text}");
        let text = base.scatter_rows(&rows, &index(&[3, 2])).unwrap_err().to_string();
        assert!(text.contains("[3, 2]") && text.contains("[2, 2]"), "{text}");
    }
}
