use engine::ops::CrossEntropy;
use engine::weights::Weights;
use engine::{DType, Tensor, apply};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{Expect, Operand, Source, cases, compare, devices, fixture, float, same_bits, seed};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

const IGNORE: i32 = -100;

/// Labels, about a quarter of them ignored, for the oracle and as a tensor.
fn labels(source: &mut Source, rows: usize, v: usize) -> (Vec<Option<usize>>, Operand) {
    let labels: Vec<Option<usize>> =
        (0..rows).map(|_| (source.rng.below(4) > 0).then(|| source.rng.below(v))).collect();
    let values = labels.iter().map(|l| l.map_or(f64::from(IGNORE), |l| l as f64)).collect();
    (labels, Operand::dense(&Array::new(&[rows], values), DType::I32))
}

fn check(logits: &Operand, labels: &[Option<usize>], ids: &Operand) -> crate::harness::Check {
    let (loss, lse) = oracle::cross_entropy(&logits.values, labels);
    // The loss is a difference of the log-sum-exp and a logit, each at most the row's largest away from 0.
    let scale = loss.zip(&lse, |a, b| a.abs() + b.abs() + 1.0);
    for device in devices() {
        let inputs = [&logits.on(&device)?, &ids.on(&device)?];
        let got = apply(CrossEntropy { ignore: IGNORE }, &inputs)?;
        for (got, want) in got.iter().zip([&loss, &lse]) {
            compare(got, &Expect::new(want.clone(), DType::F32, Class::Function).scale(scale.clone()))?;
        }
        prop_assert_eq!(
            inputs[0].cross_entropy(inputs[1], IGNORE)?.to_bytes()?,
            got[0].to_bytes()?,
            "the method"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        rows in 0usize..8, v in 1usize..300, spread in 0.0f64..30.0, dtype in float(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let logits = source.operand(&[rows, v], dtype, |rng| spread * f64::from(rng.normal()));
        let (labels, ids) = labels(&mut source, rows, v);
        check(&logits, &labels, &ids)?;
    }

    #[test]
    fn gradient_matches_differences(rows in 1usize..4, v in 1usize..6, dtype in float(), seed in seed()) {
        let mut source = Source::new(seed);
        let logits = source.normal(&[rows, v], dtype);
        let (labels, ids) = labels(&mut source, rows, v);
        gradient::check(seed, &[&logits], |t| t[0].cross_entropy(&ids.on(t[0].device())?, IGNORE),
            |x| oracle::cross_entropy(&x[0], &labels).0, gradient::Slack { terms: 1, scale: 1.0 })?;
    }
}

#[test]
fn a_real_vocabulary_and_threads() {
    for dtype in [DType::F32, DType::BF16] {
        let mut source = Source::new(8);
        let logits = source.operand(&[5, 49_152], dtype, |rng| 5.0 * f64::from(rng.normal()));
        let (labels, ids) = labels(&mut source, 5, 49_152);
        check(&logits, &labels, &ids).unwrap();
        same_bits(|device| {
            let x = logits.on(device)?.tracked();
            let loss = x.cross_entropy(&ids.on(device)?, IGNORE)?;
            let mut gradients = loss.backward_from(&loss.detach())?;
            Ok(vec![loss, gradients.take(&x).unwrap()])
        })
        .unwrap();
    }
}

/// Values and gradient of transformers' `ForCausalLMLoss`: labels shifted by one, mean over those that count.
#[test]
fn agrees_with_torch() {
    let file = Weights::open(fixture("optim/loss.safetensors")).unwrap();
    let read = |name: &str| file.require(name).unwrap().to_f32().unwrap();
    for device in devices() {
        // `labels` in the fixture's train_misc.json.
        let labels = [[-100, -100, 3, 4, 5, -100], [1, 2, 10, 0, -100, -100]];
        let shifted: Vec<i32> = labels.iter().flat_map(|l| l[1..].iter().copied().chain([IGNORE])).collect();
        let counted = shifted.iter().filter(|&&l| l != IGNORE).count();
        let logits = Tensor::from_slice(&read("logits"), &[12, 11], &device).unwrap().tracked();
        let labels = Tensor::from_slice(&shifted, &[12], &device).unwrap();
        let losses = logits.cross_entropy(&labels, IGNORE).unwrap();
        let mean = losses.sum(&[0]).unwrap().affine(1.0 / counted as f32, 0.0).unwrap();
        let got = mean.backward().unwrap().take(&logits).unwrap();
        let want = Array::new(&[12, 11], read("dlogits_mean").into_iter().map(f64::from).collect());
        let scale = want.map(|_| 1.0 / counted as f64);
        compare(&got, &Expect::new(want, DType::F32, Class::Function).scale(scale)).unwrap();
    }
}

#[test]
fn extreme_logits() {
    for device in devices() {
        let loss = |row: &[f32], label: i32| {
            let logits = Tensor::from_slice(row, &[1, row.len()], &device).unwrap();
            let labels = Tensor::from_slice(&[label], &[1], &device).unwrap();
            logits.cross_entropy(&labels, IGNORE).unwrap().item().unwrap()
        };
        assert_eq!(loss(&[3.5], 0), 0.0, "one class is certain");
        assert_eq!(loss(&[f32::NEG_INFINITY, 2.0], 1), 0.0, "a class that cannot be");
        assert_eq!(loss(&[f32::NEG_INFINITY, 2.0], 0), f64::INFINITY);
        assert_eq!(loss(&[1e30, -1e30], 0), 0.0);
        assert!((loss(&[0.0, 200.0], 0) - 200.0).abs() < 1e-4);
        assert!(loss(&[0.0, f32::NAN], 0).is_nan(), "NaN shows");
        assert!(loss(&[f32::NAN], 0).is_nan());
        assert!(loss(&[f32::NEG_INFINITY; 2], 0).is_nan(), "as torch does");
    }
}

#[test]
fn a_label_outside_the_vocabulary_is_named() {
    for device in devices() {
        let logits = Tensor::zeros(&[3, 5], DType::F32, &device).unwrap();
        let labels = |values: &[i32]| Tensor::from_slice(values, &[values.len()], &device).unwrap();
        for (bad, says) in [([0, IGNORE, 5], "label 5 of row 2"), ([4, -1, 0], "label -1 of row 1")] {
            // A device that runs behind says it with the next read.
            let losses = logits.cross_entropy(&labels(&bad), IGNORE);
            let text = losses.and_then(|y| y.to_bytes()).unwrap_err().to_string();
            assert!(text.contains(says) && text.contains("vocabulary of 5"), "{text}");
        }
        let text = logits.cross_entropy(&labels(&[0, 1]), IGNORE).unwrap_err().to_string();
        assert!(text.contains("[2]") && text.contains("[3]"), "{text}");
        let empty = Tensor::zeros(&[1, 0], DType::F32, &device).unwrap();
        assert!(
            empty.cross_entropy(&labels(&[0]), IGNORE).and_then(|y| y.to_bytes()).is_err(),
            "no class at all"
        );
        assert_eq!(empty.cross_entropy(&labels(&[IGNORE]), IGNORE).unwrap().item().unwrap(), 0.0);
        let none = Tensor::zeros(&[0, 5], DType::BF16, &device).unwrap();
        assert_eq!(none.cross_entropy(&labels(&[]), IGNORE).unwrap().count(), 0);
    }
}
