//! Schedule, clipping and steps against references.

use engine::{DType, Device, Tensor};
use serde_json::Value;
use train::config::OptimizerSection;
use train::optimizer::{Optimizer, clip_factor};
use train::schedule::Schedule;

/// From torch and transformers 4.51.3.
fn reference() -> Value {
    serde_json::from_str(include_str!("fixtures/train_misc.json")).unwrap()
}

#[test]
fn schedules_are_those_of_transformers() {
    for (name, factors) in reference()["schedules"].as_object().unwrap() {
        let mut parts = name.split('.');
        let shape: Schedule = serde_json::from_value(parts.next().unwrap().into()).unwrap();
        let mut number = || parts.next().unwrap()[1..].parse::<usize>().unwrap();
        let (warmup, total) = (number(), number());
        for (step, want) in factors.as_array().unwrap().iter().enumerate() {
            let (got, want) = (shape.factor(step, warmup, total), want.as_f64().unwrap());
            assert!((got - want).abs() < 1e-12, "{name} step {step}: {got}, want {want}");
        }
    }
}

#[test]
fn clipping_is_torchs() {
    let clip = &reference()["clip"];
    let values = |key: &str| -> Vec<Vec<f32>> { serde_json::from_value(clip[key].clone()).unwrap() };
    let device = Device::cpu();
    let leaf = |n| Tensor::zeros(&[n], DType::F32, &device).unwrap().tracked();
    let tensors = vec![("a".to_owned(), leaf(3)), ("b".to_owned(), leaf(4))];
    let optimizer = Optimizer::new(tensors, &OptimizerSection::default()).unwrap();
    // The gradient of Σ p·g is g.
    let gradients = optimizer
        .parameters
        .iter()
        .zip(values("grads_in"))
        .map(|(p, g)| p.value.mul(&Tensor::from_slice(&g, &[g.len()], &device)?)?.sum(&[0]))
        .reduce(|a, b| a?.add(&b?))
        .unwrap()
        .unwrap()
        .backward()
        .unwrap();
    let norm = optimizer.global_norm(&gradients).unwrap();
    assert!((norm - clip["total_norm"].as_f64().unwrap()).abs() < 1e-6);
    let factor = clip_factor(norm, clip["max_norm"].as_f64().unwrap());
    for (before, after) in values("grads_in").concat().iter().zip(values("grads_out").concat()) {
        assert!((before * factor - after).abs() < 1e-6, "{before} {after}");
    }
    assert_eq!((clip_factor(0.5, 1.0), clip_factor(50.0, 0.0)), (1.0, 1.0));
}

/// Five steps of a clipped least-squares fit with warm-up against the same in f64, in torch's order. The matrix
/// decays, the bias does not, and the first step has rate 0.
#[test]
fn five_steps_follow_the_f64_trajectory() {
    const X: [[f64; 2]; 3] = [[1.0, 2.0], [-1.5, 0.5], [0.25, -3.0]];
    const Y: [f64; 3] = [3.0, -1.0, 2.0];
    let section = OptimizerSection { lr: 0.05, weight_decay: 0.3, ..OptimizerSection::default() };
    let rate = |step: usize| section.lr * Schedule::Linear.factor(step, 2, 5);

    // w0, w1, bias.
    let (mut p, mut m, mut v) = ([0.5f64, -0.4, 0.1], [0.0; 3], [0.0; 3]);
    let mut trajectory = Vec::new();
    for step in 0..5 {
        let mut g = [0.0; 3];
        for (x, y) in X.iter().zip(Y) {
            let error = 2.0 * (p[0] * x[0] + p[1] * x[1] + p[2] - y);
            g = [g[0] + error * x[0], g[1] + error * x[1], g[2] + error];
        }
        let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
        let (lr, t) = (rate(step), step as i32 + 1);
        for i in 0..3 {
            let g = g[i] * (1.0 / (norm + 1e-6)).min(1.0);
            p[i] -= if i < 2 { lr * 0.3 * p[i] } else { 0.0 };
            m[i] += 0.1 * (g - m[i]);
            v[i] = 0.999 * v[i] + 0.001 * g * g;
            let denominator = (v[i] / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8;
            p[i] -= lr / (1.0 - 0.9f64.powi(t)) * m[i] / denominator;
        }
        trajectory.push(p);
    }

    let device = Device::cpu();
    let tensor =
        |values: &[f64], dims: &[usize]| Tensor::from_f64(values, dims, DType::F32, &device).unwrap();
    let (w, b) = (tensor(&[0.5, -0.4], &[1, 2]).tracked(), tensor(&[0.1], &[1]).tracked());
    let optimizer = Optimizer::new(vec![("w".into(), w.clone()), ("b".into(), b.clone())], &section).unwrap();
    let (x, y) = (tensor(&X.concat(), &[3, 2]), tensor(&Y, &[3, 1]));
    for (step, want) in trajectory.iter().enumerate() {
        let loss = x.linear(&w, Some(&b)).unwrap().sub(&y).unwrap().sum_squares().unwrap();
        let mut gradients = loss.backward().unwrap();
        let factor = clip_factor(optimizer.global_norm(&gradients).unwrap(), 1.0);
        optimizer.step(&mut gradients, step + 1, rate(step), factor).unwrap();
        let got = [w.to_f64_vec().unwrap(), b.to_f64_vec().unwrap()].concat();
        for (got, want) in got.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "step {step}: {got}, want {want}");
        }
        assert!(step > 0 || (got[0] == 0.5 && got[2] == f64::from(0.1f32)), "the first rate is 0");
    }
}
