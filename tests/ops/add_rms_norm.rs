use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::harness::{
    Expect, Operand, Source, cases, check, devices, dims, float, full_dims, same_bits, seed,
};
use crate::oracle::{self, round};
use crate::tolerance::Class;
use crate::{gradient, harness::Check};

const EPS: f32 = 1e-5;

/// On the suite's device the bits of a sum and then its norm.
fn same_as_two_operations(x: &Operand, y: &Operand, w: &Operand) -> Check {
    for device in devices() {
        let (x, y, w) = (x.on(&device)?, y.on(&device)?, w.on(&device)?);
        let (sum, normed) = x.add_rms_norm(&y, &w, EPS)?;
        let want = x.add(&y)?;
        prop_assert!(sum.to_bytes()? == want.to_bytes()?, "the sum, {x:?} {y:?}");
        prop_assert!(normed.to_bytes()? == want.rms_norm(&w, EPS)?.to_bytes()?, "the norm, {x:?} {y:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(lead in dims(0..=3, 5), n in 1usize..80, dtype in float(), seed in seed()) {
        let mut source = Source::new(seed);
        let dims = [&lead[..], &[n]].concat();
        let (x, y, w) = (source.normal(&dims, dtype), source.normal(&dims, dtype), source.normal(&[n], dtype));
        let [sum, normed] =
            oracle::add_rms_norm(&x.values, &y.values, &w.values, f64::from(EPS), |v| round(v, dtype));
        let both = |t: &[Tensor]| t[0].add_rms_norm(&t[1], &t[2], EPS);
        check(&[&x, &y, &w], |t| Ok(both(t)?.0), &Expect::new(sum, dtype, Class::Arithmetic))?;
        check(&[&x, &y, &w], |t| Ok(both(t)?.1), &Expect::new(normed, dtype, Class::Norm(n)))?;
        same_as_two_operations(&x, &y, &w)?;
    }

    #[test]
    fn gradient_matches_differences(
        lead in full_dims(0..=2, 3), n in 2usize..8, through in any::<bool>(), dtype in float(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let dims = [&lead[..], &[n]].concat();
        let (x, y) = (source.uniform(&dims, dtype, 0.5, 2.0), source.uniform(&dims, dtype, 0.5, 2.0));
        let w = source.normal(&[n], dtype);
        let rows: usize = lead.iter().product();
        // The norm alone, or the sum too, as the next residual sum uses it.
        gradient::check(seed, &[&x, &y, &w],
            |t| {
                let (sum, normed) = t[0].add_rms_norm(&t[1], &t[2], EPS)?;
                if through { Tensor::concat(&[&sum, &normed], 0) } else { Ok(normed) }
            },
            |v| {
                let [sum, normed] = oracle::add_rms_norm(&v[0], &v[1], &v[2], f64::from(EPS), |v| v);
                if through { oracle::concat(&[sum, normed], 0) } else { normed }
            },
            gradient::Slack { terms: n.max(rows) + 1, scale: 1.0 + (rows as f64).sqrt() })?;
    }
}

#[test]
fn long_rows_and_threads() {
    for dtype in [DType::F32, DType::BF16] {
        let mut source = Source::new(1);
        // More than a block of the CUDA kernel keeps in registers, and rows that it cannot read in parts.
        for (rows, n) in [(150, 960), (3, 8200), (2, 4111)] {
            let [x, y] = [(); 2].map(|()| source.normal(&[rows, n], dtype));
            let w = source.normal(&[n], dtype);
            same_as_two_operations(&x, &y, &w).unwrap();
            same_bits(|device| {
                let (x, y, w) = (x.on(device)?.tracked(), y.on(device)?, w.on(device)?.tracked());
                let (sum, normed) = x.add_rms_norm(&y, &w, EPS)?;
                let mut gradients = normed.add(&sum)?.backward_from(&normed.detach())?;
                Ok(vec![sum, normed, gradients.take(&x).unwrap(), gradients.take(&w).unwrap()])
            })
            .unwrap();
        }
    }
}

/// A gradient of the sum alone goes to both terms; gradients are those of the two operations.
#[test]
fn gradients_are_those_of_the_two_operations() {
    for device in devices() {
        let mut source = Source::new(4);
        let leaf = |source: &mut Source, dims: &[usize]| source.normal(dims, DType::F32).on(&device);
        let (x, y) = (leaf(&mut source, &[5, 33]).unwrap(), leaf(&mut source, &[5, 33]).unwrap());
        let w = leaf(&mut source, &[33]).unwrap();
        let g = leaf(&mut source, &[5, 33]).unwrap();
        let run = |fused: bool, sum_alone: bool| -> Vec<Option<Vec<u8>>> {
            let leaves = [&x, &y, &w].map(|t| t.detach().tracked());
            let [x, y, w] = &leaves;
            let (sum, normed) = if fused {
                x.add_rms_norm(y, w, EPS).unwrap()
            } else {
                let sum = x.add(y).unwrap();
                let normed = sum.rms_norm(w, EPS).unwrap();
                (sum, normed)
            };
            let out = if sum_alone { sum } else { sum.mul(&normed).unwrap() };
            let gradients = out.backward_from(&g).unwrap();
            leaves.iter().map(|t| gradients.get(t).map(|g| g.to_bytes().unwrap())).collect()
        };
        for sum_alone in [false, true] {
            let fused = run(true, sum_alone);
            assert!(fused == run(false, sum_alone), "{device}, sum alone: {sum_alone}");
            assert_eq!(fused[2].is_none(), sum_alone);
        }
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
    let (x, w) = (zeros(&[2, 3], DType::F32), zeros(&[3], DType::F32));
    for (x, y, w, says) in [
        (x.clone(), zeros(&[3], DType::F32), w.clone(), "y has shape [3]"),
        (x.clone(), zeros(&[2, 3], DType::BF16), w.clone(), "bf16"),
        (x.clone(), x.clone(), zeros(&[4], DType::F32), "[4]"),
        (zeros(&[], DType::F32), zeros(&[], DType::F32), w, "scalar"),
    ] {
        let text = x.add_rms_norm(&y, &w, EPS).unwrap_err().to_string();
        assert!(text.contains("add_rms_norm") && text.contains(says), "{text}");
    }
}
