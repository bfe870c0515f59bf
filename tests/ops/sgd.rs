use engine::ops::Sgd;
use engine::{DType, Device, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Operand, Source, cases, compare, devices, full_dims, same_bits, seed};
use crate::oracle;
use crate::tolerance::Class;

fn f32_or_bf16() -> impl Strategy<Value = DType> {
    prop::sample::select(&[DType::F32, DType::BF16][..])
}

fn op(momentum: f64) -> Sgd {
    Sgd { lr: 0.1, momentum, weight_decay: 0.1, grad_scale: 0.5 }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        dims in full_dims(1..=3, 9), p_type in f32_or_bf16(), g_type in f32_or_bf16(),
        lr in 1e-5..0.5f64, momentum in prop_oneof![Just(0.0), 0.1..1.0f64], weight_decay in 0.0..0.2f64,
        grad_scale in 0.01..1.0f32, turned in any::<bool>(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let p = source.normal(&dims, p_type);
        let b = source.normal(&dims, DType::F32);
        let g = source.normal(&dims, g_type);
        let step = |i: usize| {
            let b = if momentum == 0.0 { 0.0 } else { b.values.data[i] };
            let g = g.values.data[i] * f64::from(grad_scale);
            oracle::sgd(lr, momentum, weight_decay, [p.values.data[i], b], g)
        };
        let each = |f: &dyn Fn(usize) -> f64| {
            let i = std::cell::Cell::new(0);
            p.values.map(|_| f(i.replace(i.get() + 1)))
        };
        // Sums in which terms may cancel.
        let terms = |i: usize| {
            let [p, b, g] = [&p, &b, &g].map(|x| x.values.data[i].abs());
            momentum * b + g + weight_decay * p
        };
        let want = [
            Expect::new(each(&|i| step(i)[0]), p_type, Class::Function)
                .scale(each(&|i| p.values.data[i].abs() + lr * terms(i))),
            Expect::new(each(&|i| step(i)[1]), DType::F32, Class::Function).scale(each(&terms)),
        ];
        for device in devices() {
            // Targets with memory of their own; turned: in another order than the gradient.
            let own = |x: &Operand| -> engine::Result<Tensor> {
                let axes: Vec<usize> = (0..dims.len()).rev().collect();
                let x = x.on(&device)?;
                if turned { x.permute(&axes)?.copy()?.permute(&axes) } else { x.copy() }
            };
            let (p, b) = (own(&p)?, own(&b)?);
            let op = Sgd { lr, momentum, weight_decay, grad_scale };
            let buffer = (momentum != 0.0).then_some(&b);
            Tensor::sgd_step(&p, buffer, &g.on(&device)?, &op)?;
            compare(&p, &want[0])?;
            if let Some(b) = buffer {
                compare(b, &want[1])?;
            }
        }
    }
}

#[test]
fn threads_change_nothing() {
    let mut source = Source::new(2);
    let values: [Operand; 3] = std::array::from_fn(|_| source.normal(&[70, 900], DType::F32));
    same_bits(|device| {
        let (p, b) = (values[0].on(device)?.copy()?, values[1].on(device)?.copy()?);
        Tensor::sgd_step(&p, Some(&b), &values[2].on(device)?, &op(0.9))?;
        let plain = values[0].on(device)?.copy()?;
        Tensor::sgd_step(&plain, None, &values[2].on(device)?, &op(0.0))?;
        Ok(vec![p, b, plain])
    })
    .unwrap();
}

#[test]
fn the_rule_names_what_is_wrong() {
    let device = Device::cpu();
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
    let text = |p: &Tensor, b: Option<&Tensor>, g: &Tensor, momentum: f64| {
        Tensor::sgd_step(p, b, g, &op(momentum)).unwrap_err().to_string()
    };
    let (p, b, g) = (zeros(&[4], DType::F32), zeros(&[4], DType::F32), zeros(&[4], DType::F32));
    assert!(text(&p, None, &g, 0.9).contains("momentum of 0.9 takes 2"));
    assert!(text(&p, Some(&b), &g, 0.0).contains("momentum of 0 takes 1"));
    assert!(text(&p, Some(&b), &zeros(&[5], DType::F32), 0.9).contains("[5]"));
    assert!(text(&p, Some(&zeros(&[4], DType::BF16)), &g, 0.9).contains("bf16"));
    assert!(text(&zeros(&[4], DType::U8), None, &g, 0.0).contains("u8"));
}
