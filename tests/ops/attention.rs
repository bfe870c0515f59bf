use engine::ops::Attention;
use engine::{DType, Device, Op, Spec, Tensor, apply};
use proptest::prelude::*;

use crate::harness::{Check, Operand, Source, cases, compare, devices, float, same_bits, seed};
use crate::{gradient, oracle};

/// Shapes, and how to attend.
#[derive(Clone, Copy, Debug)]
struct Case {
    b: usize,
    sq: usize,
    sk: usize,
    kv: usize,
    group: usize,
    d: usize,
    causal: bool,
    masked: bool,
}

impl Case {
    fn scale(self) -> f32 {
        1.0 / (self.d.max(1) as f32).sqrt()
    }

    fn draw(self, source: &mut Source, dtype: DType) -> ([Operand; 3], Option<Operand>) {
        let Self { b, sq, sk, kv, group, d, .. } = self;
        let q = source.normal(&[b, sq, kv * group, d], dtype);
        let k = source.normal(&[b, sk, kv, d], dtype);
        let v = source.normal(&[b, sk, kv, d], dtype);
        let mask = source.operand(&[b, sk], DType::U8, |rng| rng.below(4) as f64);
        ([q, k, v], self.masked.then_some(mask))
    }
}

fn cases_of(most: usize, heads: usize, d: usize) -> impl Strategy<Value = Case> {
    (1..3usize, 0..most, 0..most, 1..=heads, 1..=heads, 1..=d, any::<bool>(), any::<bool>()).prop_map(
        |(b, sq, sk, kv, group, d, causal, masked)| Case { b, sq, sk, kv, group, d, causal, masked },
    )
}

fn forward(case: Case, qkv: &[Operand; 3], mask: Option<&Operand>) -> Check {
    let [q, k, v] = qkv;
    let [out, lse] = oracle::expect_attention(
        [&q.values, &k.values, &v.values],
        mask.map(|m| &m.values),
        f64::from(case.scale()),
        case.causal,
        q.dtype,
    );
    for device in devices() {
        let tensors: Vec<Tensor> =
            qkv.iter().chain(mask).map(|o| o.on(&device)).collect::<engine::Result<_>>()?;
        let op = Attention { scale: case.scale(), causal: case.causal };
        let got = apply(op, &tensors.iter().collect::<Vec<_>>())?;
        compare(&got[0], &out)?;
        compare(&got[1], &lse)?;
        let [q, k, v] = [&tensors[0], &tensors[1], &tensors[2]];
        let method = q.attention(k, v, tensors.get(3), case.scale(), case.causal)?;
        prop_assert_eq!(method.to_bytes()?, got[0].to_bytes()?);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(case in cases_of(20, 3, 40), dtype in float(), seed in seed()) {
        let (qkv, mask) = case.draw(&mut Source::new(seed), dtype);
        forward(case, &qkv, mask.as_ref())?;
    }

    #[test]
    fn gradient_matches_differences(case in cases_of(5, 2, 4), dtype in float(), seed in seed()) {
        let case = Case { b: 1, sq: case.sq + 1, sk: case.sk + 1, ..case };
        let ([q, k, v], mask) = case.draw(&mut Source::new(seed), dtype);
        let terms = case.sk.max(case.sq * case.group);
        gradient::check(seed, &[&q, &k, &v],
            |t| {
                let mask = mask.as_ref().map(|m| m.on(t[0].device())).transpose()?;
                t[0].attention(&t[1], &t[2], mask.as_ref(), case.scale(), case.causal)
            },
            |x| oracle::attention(&x[0], &x[1], &x[2], mask.as_ref().map(|m| &m.values),
                f64::from(case.scale()), case.causal).0,
            gradient::Slack { terms, scale: (terms as f64).sqrt() })?;
    }
}

/// Lengths around the kernels' blocks, as the models have them: packed heads, grouped heads, one query.
#[test]
fn blocks_and_threads() {
    for (seed, (sq, sk)) in [(130, 130), (65, 129), (1, 200), (3, 64)].into_iter().enumerate() {
        for dtype in [DType::F32, DType::BF16] {
            let case = Case { b: 1, sq, sk, kv: 2, group: 3, d: 64, causal: true, masked: seed % 2 == 0 };
            let (qkv, mask) = case.draw(&mut Source::new(seed as u64), dtype);
            forward(case, &qkv, mask.as_ref()).unwrap();
            same_bits(|device| {
                let [q, k, v] = [&qkv[0], &qkv[1], &qkv[2]].map(|o| o.on(device).unwrap().tracked());
                let mask = mask.as_ref().map(|m| m.on(device)).transpose()?;
                let y = q.attention(&k, &v, mask.as_ref(), case.scale(), true)?;
                let mut gradients = y.backward_from(&y.detach())?;
                let grads = [&q, &k, &v].map(|t| gradients.take(t).unwrap());
                Ok([&[y], &grads[..]].concat())
            })
            .unwrap();
        }
    }
}

#[test]
fn causal_work_is_half() {
    let flops = |sq: usize, sk: usize, causal| {
        let spec = |s, h| Spec::new(&[2, s, h, 8], DType::F32).unwrap();
        let inputs = [spec(sq, 4), spec(sk, 2), spec(sk, 2)];
        let op = Attention { scale: 1.0, causal };
        op.cost(&inputs, &op.infer(&inputs).unwrap()).flops
    };
    assert_eq!(flops(10, 12, false), 4 * 2 * 4 * 8 * 120);
    assert_eq!(flops(100, 100, true) * 200, flops(100, 100, false) * 101);
    assert_eq!(flops(1, 50, true), flops(1, 50, false), "one query sees all");
    assert_eq!(flops(50, 1, true), flops(1, 1, true), "only the last query sees the key");
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
    let f = |dims: &[usize]| zeros(dims, DType::F32);
    let q = f(&[1, 3, 4, 8]);
    let k = f(&[1, 5, 2, 8]);
    for (q, k, v, mask, says) in [
        (q.clone(), f(&[1, 5, 3, 8]), f(&[1, 5, 3, 8]), None, "4 query heads"),
        (q.clone(), f(&[1, 5, 0, 8]), f(&[1, 5, 0, 8]), None, "0 key heads"),
        (q.clone(), f(&[1, 5, 2, 9]), k.clone(), None, "[1, 5, 2, 9]"),
        (q.clone(), k.clone(), f(&[1, 6, 2, 8]), None, "[1, 6, 2, 8]"),
        (q.clone(), zeros(&[1, 5, 2, 8], DType::BF16), k.clone(), None, "bf16"),
        (f(&[3, 4, 8]), k.clone(), k.clone(), None, "[3, 4, 8]"),
        (q.clone(), k.clone(), k.clone(), Some(zeros(&[1, 5], DType::U32)), "u32"),
        (q.clone(), k.clone(), k.clone(), Some(zeros(&[1, 3], DType::U8)), "[1, 3]"),
    ] {
        let text = q.attention(&k, &v, mask.as_ref(), 1.0, false).unwrap_err().to_string();
        assert!(text.starts_with("attention") && text.contains(says), "{text}");
    }
    // No keys at all, or none left: zeros.
    let none = f(&[1, 0, 2, 8]);
    assert_eq!(q.attention(&none, &none, None, 1.0, true).unwrap().to_f64_vec().unwrap(), [0.0; 96]);
}
