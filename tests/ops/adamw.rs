use engine::ops::AdamW;
use engine::weights::Weights;
use engine::{DType, Tensor};
use proptest::prelude::*;

use crate::harness::{Expect, Operand, Source, cases, compare, devices, fixture, full_dims, same_bits, seed};
use crate::oracle::{self, Array};
use crate::tolerance::Class;

const BETAS: [f64; 2] = [0.9, 0.999];

fn op(lr: f64, weight_decay: f64, step: u32) -> AdamW {
    AdamW { lr, beta1: BETAS[0], beta2: BETAS[1], eps: 1e-8, weight_decay, step, grad_scale: 1.0 }
}

fn f32_or_bf16() -> impl Strategy<Value = DType> {
    prop::sample::select(&[DType::F32, DType::BF16][..])
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn matches_the_oracle(
        dims in full_dims(1..=3, 9), p_type in f32_or_bf16(), g_type in f32_or_bf16(),
        lr in 1e-5..0.1f64, decay in 0.0..0.2f64, step in 1u32..2000, turned in any::<bool>(), seed in seed(),
    ) {
        let mut source = Source::new(seed);
        let p = source.normal(&dims, p_type);
        let m = source.normal(&dims, DType::F32);
        let v = source.uniform(&dims, DType::F32, 1e-4, 1.0);
        let g = source.normal(&dims, g_type);
        let hyper = oracle::AdamW { lr, betas: BETAS, eps: 1e-8, weight_decay: decay, step: step as i32 };
        let pick = |which: usize| {
            let i = std::cell::Cell::new(0);
            p.values.map(|p| {
                let i = i.replace(i.get() + 1);
                oracle::adamw(&hyper, [p, m.values.data[i], v.values.data[i]], g.values.data[i])[which]
            })
        };
        // The moment is a difference of its old value and the gradient, the parameter one of its old value and
        // an update.
        let m_scale = m.values.zip(&g.values, |m, g| m.abs() + g.abs());
        let p_scale = pick(0).zip(&p.values, |after, before| 2.0 * before.abs() + after.abs());
        let want = [
            Expect::new(pick(0), p_type, Class::Function).scale(p_scale),
            Expect::new(pick(1), DType::F32, Class::Function).scale(m_scale),
            Expect::new(pick(2), DType::F32, Class::Function),
        ];
        for device in devices() {
            // Targets with memory of their own; turned: in another order than the gradient.
            let own = |x: &Operand| -> engine::Result<Tensor> {
                let axes: Vec<usize> = (0..dims.len()).rev().collect();
                let x = x.on(&device)?;
                if turned { x.permute(&axes)?.copy()?.permute(&axes) } else { x.copy() }
            };
            let targets = [own(&p)?, own(&m)?, own(&v)?];
            let [p, m, v] = &targets;
            Tensor::adamw_step(p, m, v, &g.on(&device)?, &op(lr, decay, step))?;
            for (got, want) in targets.iter().zip(&want) {
                compare(got, want)?;
            }
        }
    }
}

/// Five steps of `torch.optim.AdamW` on gradients from 10⁻³ to 10, without and with weight decay.
#[test]
fn agrees_with_torch() {
    let file = Weights::open(fixture("optim/adamw.safetensors")).unwrap();
    for device in devices() {
        let read = |name: &str| file.require(name).unwrap().to_f32().unwrap();
        let load = |name: &str| Tensor::from_slice(&read(name), &[64], &device).unwrap();
        // `moved`: how far a parameter has come at most; it may end near 0.
        let same = |got: &Tensor, name: &str, moved: f64| {
            let want = Array::new(&[64], read(name).into_iter().map(f64::from).collect());
            let scale = want.map(|x| x.abs() + moved);
            compare(got, &Expect::new(want, DType::F32, Class::Function).scale(scale))
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        };
        for decay in ["0.0", "0.01"] {
            let p = load("p0").copy().unwrap();
            let m = Tensor::zeros(&[64], DType::F32, &device).unwrap();
            let v = Tensor::zeros(&[64], DType::F32, &device).unwrap();
            for step in 1..=5 {
                let op = op(1e-2, decay.parse().unwrap(), step);
                Tensor::adamw_step(&p, &m, &v, &load(&format!("g{step}")), &op).unwrap();
                same(&p, &format!("wd{decay}.p{step}"), f64::from(step) * 1e-2);
            }
            same(&m, &format!("wd{decay}.m5"), 0.0);
            same(&v, &format!("wd{decay}.v5"), 0.0);
        }
    }
}

/// The factor of a clip multiplies in f32: the bits are those of a gradient that was scaled before.
#[test]
fn a_scaled_step_is_a_step_on_a_scaled_gradient() {
    let mut source = Source::new(7);
    let values: [Operand; 4] = std::array::from_fn(|_| source.uniform(&[9, 33], DType::F32, 0.1, 1.0));
    for device in devices() {
        let run = |scale: f32, folded: bool| {
            let [p, m, v, g] = values.each_ref().map(|x| x.on(&device).unwrap().copy().unwrap());
            let (g, grad_scale) = if folded { (g, scale) } else { (g.affine(scale, 0.0).unwrap(), 1.0) };
            Tensor::adamw_step(&p, &m, &v, &g, &AdamW { grad_scale, ..op(0.1, 0.1, 3) }).unwrap();
            [p, m, v].map(|x| x.to_bytes().unwrap())
        };
        assert!(run(0.3, true) == run(0.3, false));
        assert!(run(1.0, true) == run(1.0, false));
        assert!(run(0.3, true) != run(1.0, true));
    }
}

/// Many parameters at once, of any size, type and place, get the bits that each gets alone.
#[test]
fn a_list_is_each_alone() {
    let mut source = Source::new(8);
    let sizes = [1, 4, 7, 64, 4095, 4096, 4097, 20_000, 3];
    let types = [DType::F32, DType::F32, DType::BF16];
    let drawn: Vec<[Operand; 4]> = sizes
        .iter()
        .zip(types.iter().cycle())
        .map(|(&n, &p_type)| {
            let g_type = types[source.rng.below(3)];
            let state = [(); 2]
                .map(|()| Operand::dense(&source.uniform(&[n], DType::F32, 0.1, 1.0).values, DType::F32));
            let [m, v] = state;
            // Gradients may be views; parameters are contiguous but for the last.
            [Operand::dense(&source.normal(&[n], p_type).values, p_type), m, v, source.normal(&[n], g_type)]
        })
        .collect();
    for device in devices() {
        let load = || -> Vec<[Tensor; 4]> {
            let own = |x: &Operand| x.on(&device).unwrap().copy().unwrap();
            let mut all: Vec<[Tensor; 4]> =
                drawn.iter().map(|[p, m, v, g]| [own(p), own(m), own(v), g.on(&device).unwrap()]).collect();
            // Every second element of something.
            let wide = Tensor::from_slice(&[0.5f32; 6], &[3, 2], &device).unwrap();
            all.last_mut().unwrap()[0] = wide.select(1, 1).unwrap();
            all
        };
        let (alone, together) = (load(), load());
        let op = op(0.1, 0.1, 3);
        for [p, m, v, g] in &alone {
            Tensor::adamw_step(p, m, v, g, &op).unwrap();
        }
        let list: Vec<[&Tensor; 4]> = together.iter().map(<[Tensor; 4]>::each_ref).collect();
        Tensor::adamw_steps(&list, &op).unwrap();
        for (i, (one, two)) in alone.iter().flatten().zip(together.iter().flatten()).enumerate() {
            assert!(one.to_bytes().unwrap() == two.to_bytes().unwrap(), "{device}: tensor {i}");
        }
        Tensor::adamw_steps(&[], &op).unwrap();
        // One that is wrong stops all.
        let bad = Tensor::zeros(&[2], DType::F32, &device).unwrap();
        let [p, m, v, g] = &alone[0];
        assert!(Tensor::adamw_steps(&[[p, m, v, g], [&bad, m, v, g]], &op).is_err());
        assert!(Tensor::adamw_steps(&[[p, m, v, g], [p, m, v, g]], &op).is_err(), "a parameter twice");
    }
}

#[test]
fn threads_change_nothing() {
    let mut source = Source::new(2);
    let values: [Operand; 4] = std::array::from_fn(|_| source.uniform(&[70, 900], DType::F32, 0.1, 1.0));
    same_bits(|device| {
        let targets =
            [values[0].on(device)?.copy()?, values[1].on(device)?.copy()?, values[2].on(device)?.copy()?];
        let [p, m, v] = &targets;
        Tensor::adamw_step(p, m, v, &values[3].on(device)?, &op(0.1, 0.1, 3))?;
        Ok(targets.to_vec())
    })
    .unwrap();
}

#[test]
fn the_rule_names_what_is_wrong() {
    for device in devices() {
        let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, &device).unwrap();
        let state = || zeros(&[4], DType::F32);
        let text = |p: &Tensor, m: &Tensor, v: &Tensor, g: &Tensor, op: &AdamW| {
            Tensor::adamw_step(p, m, v, g, op).unwrap_err().to_string()
        };
        let (p, m, v, g) = (state(), state(), state(), state());
        assert!(text(&p, &m, &v, &g, &op(0.1, 0.0, 0)).contains("step"));
        assert!(text(&p, &m, &v, &g, &AdamW { beta2: 1.0, ..op(0.1, 0.0, 1) }).contains("betas"));
        assert!(text(&p, &m, &v, &zeros(&[5], DType::F32), &op(0.1, 0.0, 1)).contains("[5]"));
        assert!(text(&zeros(&[4], DType::F16), &m, &v, &g, &op(0.1, 0.0, 1)).contains("f16"));
        assert!(text(&p, &zeros(&[4], DType::BF16), &v, &g, &op(0.1, 0.0, 1)).contains("bf16"));
        assert!(text(&p, &m, &m, &g, &op(0.1, 0.0, 1)).contains("shares memory"));
        let empty = || zeros(&[0], DType::F32);
        Tensor::adamw_step(&empty(), &empty(), &empty(), &empty(), &op(0.1, 0.0, 1)).unwrap();
    }
}
