use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::gradient;
use crate::harness::{Expect, Source, cases, check, devices, dims, full_dims, seed};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

fn linear(x: &Array, w: &Array, b: Option<&Array>) -> Array {
    let rows = x.dims[..x.dims.len() - 1].iter().product();
    let y = oracle::matmul(&x.reshape(&[rows, x.row_len()]), &w.permute(&[1, 0]), b);
    y.reshape(&[&x.dims[..x.dims.len() - 1], &[w.dims[0]]].concat())
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn matches_the_oracle(
        lead in dims(0..=3, 4), k in 0usize..30, n in 0usize..20, bf16 in any::<bool>(),
        with_bias in any::<bool>(), seed in seed(),
    ) {
        let dtype = if bf16 { DType::BF16 } else { DType::F32 };
        let mut source = Source::new(seed);
        let x = source.normal(&[&lead[..], &[k]].concat(), dtype);
        let w = source.normal(&[n, k], dtype);
        let bias = source.normal(&[n], dtype);
        let bias = with_bias.then_some(&bias);
        let values = bias.map(|b| &b.values);
        let want = Expect::new(linear(&x.values, &w.values, values), dtype, Class::Sum(k)).scale(linear(
            &x.values.map(f64::abs), &w.values.map(f64::abs), values.map(|b| b.map(f64::abs)).as_ref()));
        let operands: Vec<_> = [&x, &w].into_iter().chain(bias).collect();
        check(&operands, |t| t[0].linear(&t[1], t.get(2)), &want)?;
    }

    #[test]
    fn gradient_matches_differences(lead in full_dims(0..=2, 3), k in 1usize..5, n in 1usize..5, seed in seed()) {
        let mut source = Source::new(seed);
        let x = source.normal(&[&lead[..], &[k]].concat(), DType::F32);
        let w = source.normal(&[n, k], DType::F32);
        let b = source.normal(&[n], DType::F32);
        let terms = n.max(lead.iter().product());
        gradient::check(seed, &[&x, &w, &b], |t| t[0].linear(&t[1], Some(&t[2])),
            |v| linear(&v[0], &v[1], Some(&v[2])), gradient::Slack { terms, scale: (terms as f64).sqrt() })?;
    }
}

#[test]
fn weights_of_another_type_are_converted() {
    let mut source = Source::new(4);
    let (x, w) = (source.normal(&[3, 8], DType::BF16), source.normal(&[5, 8], DType::F32));
    for device in devices() {
        let (x, w) = (x.on(&device).unwrap(), w.on(&device).unwrap().tracked());
        let y = x.linear(&w, None).unwrap();
        let same = x.linear(&w.detach().to_dtype(DType::BF16).unwrap(), None).unwrap();
        assert_eq!(y.to_bytes().unwrap(), same.to_bytes().unwrap());
        let gradients = y.backward_from(&y.detach()).unwrap();
        assert_eq!(gradients.get(&w).unwrap().dtype(), DType::F32, "the gradient has the weight's type");
    }
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let zeros = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &device).unwrap();
    let x = zeros(&[2, 3]);
    for (weight, bias) in [
        (zeros(&[5, 4]), None),
        (zeros(&[3]), None),
        (zeros(&[2, 5, 3]), None),
        (zeros(&[5, 3]), Some(zeros(&[4]))),
        (zeros(&[5, 3]), Some(zeros(&[5, 1]))),
    ] {
        let text = x.linear(&weight, bias.as_ref()).unwrap_err().to_string();
        let wrong = format!("{:?}", bias.as_ref().unwrap_or(&weight).dims());
        assert!(text.starts_with("linear") && text.contains(&wrong), "{text}");
    }
    assert!(zeros(&[]).linear(&zeros(&[5, 3]), None).unwrap_err().to_string().contains("scalar"));
}
