//! Schedule, clipping and steps against references.

use cuda_host::{How, again};
use engine::{DType, Rng, Tensor};
use roentgen_oracle::gpu::device;
use serde_json::Value;
use train::config::{OptimizerKind, OptimizerSection, ScheduleSection, StatePlace};
use train::optimizer::{Optimizer, clip_factor};
use train::schedule::{Schedule, warmup_steps};

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

/// `TrainingArguments.get_warmup_steps`: steps win over the ratio, which is rounded up.
#[test]
fn warm_up_is_counted_as_in_transformers() {
    for (steps, ratio, total, want) in [
        (0, 0.0, 100, 0),
        (0, 0.03, 1000, 30),
        (0, 0.1, 37, 4),
        // 100 · 0.07 is a little more than 7 in f64, there too.
        (0, 0.07, 100, 8),
        (0, 1.0, 5, 5),
        (2, 0.5, 100, 2),
    ] {
        assert_eq!(warmup_steps(steps, ratio, total), want, "{steps} {ratio} {total}");
    }
    let section =
        |warmup_steps, warmup_ratio| ScheduleSection { shape: Schedule::Cosine, warmup_steps, warmup_ratio };
    assert_eq!(section(None, None).warmup(400), 50);
    assert_eq!(section(None, Some(0.25)).warmup(400), 100);
    assert_eq!(section(Some(0), Some(0.25)).warmup(400), 100);
    assert_eq!(section(Some(7), Some(0.25)).warmup(400), 7);
    assert_eq!(section(Some(0), None).warmup(400), 0);
}

#[test]
fn clipping_is_torchs() {
    let clip = &reference()["clip"];
    let values = |key: &str| -> Vec<Vec<f32>> { serde_json::from_value(clip[key].clone()).unwrap() };
    let device = device();
    let leaf = |n| Tensor::zeros(&[n], DType::F32, device).unwrap().tracked();
    let tensors = vec![("a".to_owned(), leaf(3)), ("b".to_owned(), leaf(4))];
    let optimizer = Optimizer::new(tensors, &OptimizerSection::default()).unwrap();
    // The gradient of Σ p·g is g.
    let gradients = optimizer
        .parameters
        .iter()
        .zip(values("grads_in"))
        .map(|(p, g)| p.value.mul(&Tensor::from_slice(&g, &[g.len()], device)?)?.sum(&[0]))
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

    let device = device();
    let tensor = |values: &[f64], dims: &[usize]| Tensor::from_f64(values, dims, DType::F32, device).unwrap();
    let (w, b) = (tensor(&[0.5, -0.4], &[1, 2]).tracked(), tensor(&[0.1], &[1]).tracked());
    let optimizer =
        Optimizer::new(vec![("w".into(), w.clone()), ("bias".into(), b.clone())], &section).unwrap();
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

/// An optimiser of `kind` over a matrix, a small matrix and a bias, and gradients of their sum weighted with `g`.
fn three(kind: &str, change: impl Fn(&mut OptimizerSection)) -> Optimizer {
    let device = device();
    let mut section = OptimizerSection {
        kind: serde_json::from_value(kind.into()).unwrap(),
        lr: 0.01,
        ..OptimizerSection::default()
    };
    change(&mut section);
    let leaf = |dims: &[usize]| Tensor::full(dims, 0.5, DType::F32, device).unwrap().tracked();
    let tensors = [("large.weight", &[64, 65][..]), ("small.weight", &[63, 65]), ("large.bias", &[5000])];
    let tensors = tensors.map(|(name, dims)| (name.to_owned(), leaf(dims)));
    Optimizer::new(tensors.into(), &section).unwrap()
}

fn steps(optimizer: &Optimizer, count: usize, seed: u64) {
    let mut rng = Rng::new(seed);
    for step in 1..=count {
        let terms = optimizer.parameters.iter().map(|p| {
            let g = Tensor::randn(&p.value.dims(), 1.0, DType::F32, &mut rng, p.value.device()).unwrap();
            p.value.mul(&g).unwrap().sum(&(0..p.value.rank()).collect::<Vec<_>>()).unwrap()
        });
        let loss = terms.reduce(|a, b| a.add(&b).unwrap()).unwrap();
        optimizer.step(&mut loss.backward().unwrap(), step, 0.01, 0.5).unwrap();
    }
}

fn bytes(optimizer: &Optimizer) -> Vec<Vec<u8>> {
    let values = optimizer.parameters.iter().map(|p| p.value.to_bytes().unwrap());
    values.chain(optimizer.state().iter().map(|(_, t)| t.to_bytes().unwrap())).collect()
}

#[test]
fn eight_bits_are_for_large_tensors() {
    let shape = |optimizer: &Optimizer| -> Vec<(String, DType, usize)> {
        optimizer.state().into_iter().map(|(name, t)| (name, t.dtype(), t.count())).collect()
    };
    let named = |name: &str, dtype, count| (name.to_owned(), dtype, count);
    let optimizer = three("adamw_8bit", |_| {});
    assert_eq!(optimizer.kind(), OptimizerKind::Adamw8bit);
    let want = [
        named("m.large.weight", DType::U8, 4160),
        named("v.large.weight", DType::U8, 4160),
        named("absmax_m.large.weight", DType::F32, 17),
        named("absmax_v.large.weight", DType::F32, 17),
        // 4095 elements: one fewer than the limit.
        named("m.small.weight", DType::F32, 4095),
        named("v.small.weight", DType::F32, 4095),
        named("m.large.bias", DType::U8, 5000),
        named("v.large.bias", DType::U8, 5000),
        named("absmax_m.large.bias", DType::F32, 20),
        named("absmax_v.large.bias", DType::F32, 20),
    ];
    assert_eq!(shape(&optimizer), want);
    assert_eq!(optimizer.state_bytes(), 2 * (4160 + 5000) + 8 * 4095 + 8 * (17 + 20));
    let all = three("adamw_8bit", |s| s.min_8bit_size = 0);
    assert!(shape(&all).iter().all(|(name, dtype, _)| name.starts_with("absmax") || *dtype == DType::U8));
    let none = three("adamw_8bit", |s| s.min_8bit_size = usize::MAX);
    assert_eq!(shape(&none), shape(&three("adamw", |_| {})));
    assert!(shape(&three("sgd", |_| {})).is_empty());
    assert_eq!(
        shape(&three("sgd", |s| s.momentum = 0.9))[0],
        named("momentum.large.weight", DType::F32, 4160)
    );
}

#[test]
fn each_kind_steps_and_none_decays_a_bias() {
    for kind in ["adamw", "adamw_8bit", "sgd"] {
        let value = |i: usize, decay: f64, biases: bool| {
            let optimizer = three(kind, |s| {
                s.weight_decay = decay;
                s.decay_norms_and_biases = biases;
            });
            steps(&optimizer, 3, 1);
            optimizer.parameters[i].value.to_bytes().unwrap()
        };
        let start = three(kind, |_| {}).parameters[0].value.to_bytes().unwrap();
        assert!(value(0, 0.0, false) != start, "{kind} does not move");
        assert!(value(0, 0.0, false) != value(0, 0.5, false), "{kind} does not decay a matrix");
        assert!(value(2, 0.0, false) == value(2, 0.5, false), "{kind} decays a bias");
        assert!(value(2, 0.0, false) != value(2, 0.5, true), "{kind} does not decay a bias when asked");
    }
}

#[test]
fn the_place_of_the_state_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.bin");
    for kind in ["adamw", "adamw_8bit", "sgd"] {
        let run = |place| {
            let optimizer = three(kind, |s| {
                s.momentum = 0.9;
                s.state = place;
                s.state_file = Some(path.clone());
            });
            steps(&optimizer, 3, 2);
            bytes(&optimizer)
        };
        assert!(run(StatePlace::File) == run(StatePlace::Memory), "{kind}");
        assert!(!path.exists());
    }
    // A file that is somebody else's is left alone.
    std::fs::write(&path, b"precious").unwrap();
    let mut section = OptimizerSection { state: StatePlace::File, ..OptimizerSection::default() };
    let make = |section: &OptimizerSection| {
        let value = Tensor::zeros(&[4], DType::F32, device()).unwrap().tracked();
        Optimizer::new(vec![("w".into(), value)], section).err().unwrap().to_string()
    };
    assert!(make(&section).contains("state_file"));
    section.state_file = Some(path.clone());
    let said = make(&section);
    assert!(said.contains("state.bin") && said.contains("cannot create"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

/// On the stand-in for CUDA's driver.
#[test]
fn on_cuda() {
    let tests = [
        "clipping_is_torchs",
        "five_steps_follow_the_f64_trajectory",
        "each_kind_steps_and_none_decays_a_bias",
    ];
    for how in How::SCHEDULES {
        again(&tests, how);
    }
}
