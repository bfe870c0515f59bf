//! The tape: what is recorded, kept, computed and refused.

use engine::{Cpu, Cuda, DType, Device, Gradients, Tensor, checkpoint, no_grad};
use proptest::prelude::*;

use crate::harness::{Source, cases, devices, seed};

fn vector(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, &[values.len()], &devices()[0]).unwrap()
}

fn values(gradients: &Gradients, leaf: &Tensor) -> Vec<f64> {
    gradients.get(leaf).unwrap().to_f64_vec().unwrap()
}

/// The text of the error that a backward pass gives.
fn refusal(result: engine::Result<Gradients>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn a_tensor_used_twice_gets_the_sum() {
    let x = vector(&[1.0, 2.0, 3.0]).tracked();
    let y = x.mul(&x).unwrap().add(&x.affine(3.0, 0.0).unwrap()).unwrap();
    let gradients = y.sum(&[0]).unwrap().backward().unwrap();
    assert_eq!(values(&gradients, &x), [5.0, 7.0, 9.0]);
    assert_eq!(gradients.len(), 1);
}

#[test]
fn an_intermediate_used_twice_gets_the_sum() {
    let x = vector(&[1.0, 2.0]).tracked();
    let y = x.affine(2.0, 0.0).unwrap();
    let z = y.mul(&y).unwrap().add(&y).unwrap().sum(&[0]).unwrap();
    assert_eq!(values(&z.backward().unwrap(), &x), [10.0, 18.0]);
}

#[test]
fn two_leaves_over_one_storage_are_two_leaves() {
    let data = vector(&[2.0, 3.0]);
    let (a, b) = (data.tracked(), data.tracked());
    let gradients = a.mul(&b).unwrap().sum(&[0]).unwrap().backward().unwrap();
    assert_eq!((values(&gradients, &a), values(&gradients, &b)), (vec![2.0, 3.0], vec![2.0, 3.0]));
    assert!(gradients.get(&data).is_none());
}

#[test]
fn no_grad_records_nothing_and_ends() {
    let x = vector(&[1.0]).tracked();
    let y = no_grad(|| x.exp()).unwrap();
    assert!(!y.is_tracked());
    assert!(y.backward().unwrap().is_empty());
    let outcome = std::panic::catch_unwind(|| no_grad(|| panic!("planted")));
    assert!(outcome.is_err());
    assert!(x.exp().unwrap().is_tracked());
}

#[test]
fn detach_stops_the_gradient() {
    let x = vector(&[2.0]).tracked();
    let y = x.mul(&x.detach()).unwrap().sum(&[0]).unwrap();
    assert_eq!(values(&y.backward().unwrap(), &x), [2.0]);
}

/// A tower of linear layers with a nonlinearity; returns its output.
fn tower(x: &Tensor, weights: &[Tensor]) -> Tensor {
    weights.iter().fold(x.clone(), |x, w| x.linear(w, None).unwrap().tanh().unwrap())
}

fn layers(n: usize, width: usize, device: &Device) -> Vec<Tensor> {
    let mut rng = engine::Rng::new(7);
    (0..n).map(|_| Tensor::randn(&[width, width], 0.2, DType::F32, &mut rng, device).unwrap()).collect()
}

#[test]
fn a_frozen_tower_costs_nothing() {
    let device = Device::new(Cpu::new());
    let x = Tensor::full(&[16, 32], 0.5, DType::F32, &device).unwrap();
    let weights = layers(8, 32, &device);
    let before = device.memory().total().current;
    let out = tower(&x, &weights);
    assert!(!out.is_tracked());
    assert_eq!(device.memory().total().current - before, out.bytes(), "only the output is held");
    // Below one trained head: the head saves its own input, the tower still nothing.
    let head = layers(1, 32, &device).remove(0).tracked();
    let before = device.memory().total().current;
    let y = out.linear(&head, None).unwrap();
    assert_eq!(device.memory().total().current - before, y.bytes());
    let gradients = y.sum(&[0, 1]).unwrap().backward().unwrap();
    assert_eq!(gradients.len(), 1);
    assert!(weights.iter().all(|w| gradients.get(w).is_none()));
}

#[test]
fn a_frozen_weight_saves_no_activation() {
    let device = Device::new(Cpu::new());
    let x = Tensor::full(&[64, 32], 0.5, DType::F32, &device).unwrap();
    let weights = layers(4, 32, &device);
    let held = |track_input: bool, track_weights: bool| {
        let before = device.memory().total().current;
        let x = if track_input { x.tracked() } else { x.clone() };
        let weights: Vec<Tensor> =
            weights.iter().map(|w| if track_weights { w.tracked() } else { w.clone() }).collect();
        let out = weights.iter().fold(x, |x, w| x.linear(w, None).unwrap().affine(2.0, 0.0).unwrap());
        let held = device.memory().total().current - before;
        drop(out);
        assert_eq!(device.memory().total().current, before);
        held
    };
    let one = 64 * 32 * 4;
    assert_eq!(held(false, false), one);
    // dX = G·W needs no activation at all.
    assert_eq!(held(true, false), one);
    // dW = Gᵀ·X needs the input of each layer; the first is held by the caller anyway.
    assert_eq!(held(false, true), 4 * one);
}

#[test]
fn saved_tensors_are_freed_during_the_backward_pass() {
    let device = Device::new(Cpu::new());
    let x = Tensor::full(&[64, 32], 0.5, DType::F32, &device).unwrap();
    let weights: Vec<Tensor> = layers(6, 32, &device).iter().map(Tensor::tracked).collect();
    let out = tower(&x, &weights);
    let before = device.memory().total().current;
    let gradients = out.backward_from(&out.detach()).unwrap();
    drop(gradients);
    assert!(device.memory().total().current < before, "the tape let go of its activations");
    let now = device.memory().total().current;
    assert_eq!(now, x.bytes() + out.bytes() + weights.iter().map(Tensor::bytes).sum::<usize>());
}

#[test]
fn a_second_backward_pass_is_refused() {
    let x = vector(&[1.0]).tracked();
    let y = x.exp().unwrap().sum(&[0]).unwrap();
    y.backward().unwrap();
    let text = refusal(y.backward());
    assert!(text.contains("already differentiated"), "{text}");
}

#[test]
fn changing_a_saved_tensor_is_noticed() {
    let x = vector(&[1.0, 2.0]);
    let w = vector(&[3.0, 4.0]).tracked();
    let y = x.mul(&w).unwrap().sum(&[0]).unwrap();
    x.write(&vector(&[5.0, 6.0])).unwrap();
    let text = refusal(y.backward());
    assert!(text.contains("binary") && text.contains("in place"), "{text}");
    // What is not saved may change.
    let x = vector(&[1.0, 2.0]);
    let y = x.add(&w).unwrap().sum(&[0]).unwrap();
    x.write(&vector(&[5.0, 6.0])).unwrap();
    assert_eq!(values(&y.backward().unwrap(), &w), [1.0, 1.0]);
    // Through a view of the same storage too.
    let y = w.exp().unwrap();
    let view = y.detach();
    let z = y.sum(&[0]).unwrap();
    view.narrow(0, 0, 1).unwrap().write(&vector(&[9.0])).unwrap();
    assert!(refusal(z.backward()).contains("in place"));
}

#[test]
fn seeds_of_the_wrong_kind_are_refused_or_converted() {
    let x = vector(&[1.0, 2.0]).tracked();
    let y = x.exp().unwrap();
    let text = refusal(y.backward());
    assert!(text.contains("[2]") && text.contains("backward_from"), "{text}");
    let text = refusal(y.backward_from(&vector(&[1.0])));
    assert!(text.contains("[1]") && text.contains("[2]"), "{text}");
    let other = Device::new(Cpu::new());
    let elsewhere = Tensor::full(&[2], 1.0, DType::F32, &other).unwrap();
    assert!(refusal(y.backward_from(&elsewhere)).contains("device"));
    let half = vector(&[1.0, 1.0]).to_dtype(DType::BF16).unwrap();
    let gradients = y.backward_from(&half).unwrap();
    assert_eq!(gradients.get(&x).unwrap().dtype(), DType::F32);
}

#[test]
fn a_long_chain_does_not_overflow_the_stack() {
    // A small stack makes recursion of any kind show.
    let run = || {
        let x = vector(&[1.0]).tracked();
        // A launch is a long step for an emulated device.
        let links = if x.device().backend::<Cuda>().is_some() { 20_000 } else { 100_000 };
        let mut y = x.clone();
        for _ in 0..links {
            y = y.affine(1.0, 0.0).unwrap();
        }
        assert_eq!(values(&y.backward().unwrap(), &x), [1.0]);
        drop(y);
        let mut y = x.clone();
        for _ in 0..links {
            y = y.add(&x).unwrap();
        }
        drop(y);
    };
    std::thread::Builder::new().stack_size(256 << 10).spawn(run).unwrap().join().unwrap();
}

#[test]
fn gradients_accumulate_and_scale() {
    let (a, b) = (vector(&[1.0, 2.0]).tracked(), vector(&[3.0, 4.0]).tracked());
    let mut sum = a.mul(&b).unwrap().sum(&[0]).unwrap().backward().unwrap();
    sum.accumulate(a.exp().unwrap().sum(&[0]).unwrap().backward().unwrap()).unwrap();
    sum.scale(0.5).unwrap();
    let want = [0.5 * (3.0 + 1f64.exp()), 0.5 * (4.0 + 2f64.exp())];
    for (got, want) in values(&sum, &a).iter().zip(want) {
        assert!((got - want).abs() < 1e-5, "{got} {want}");
    }
    assert_eq!(values(&sum, &b), [0.5, 1.0]);
    assert_eq!(sum.take(&b).unwrap().to_f64_vec().unwrap(), [0.5, 1.0]);
    assert!(sum.get(&b).is_none());
    assert_eq!(sum.len(), 1);
}

#[test]
fn an_operation_without_a_gradient_says_so() {
    let x = vector(&[1.0, 2.0]).tracked();
    let y = engine::apply_one(engine::ops::Write, &[&x, &x]);
    if let Ok(y) = y {
        assert!(refusal(y.backward_from(&y.detach())).contains("write has no gradient"));
    }
}

fn block(weight: &Tensor) -> impl Fn(&[Tensor]) -> engine::Result<Tensor> + Send + Sync + 'static {
    let weight = weight.clone();
    move |t| {
        let wide = t[0].linear(&weight, None)?.tanh()?;
        wide.mul(&t[1])?.exp()?.tanh()?.add(&t[0])
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn a_checkpoint_changes_no_bit(
        rows in 1usize..6, width in 1usize..12, seed in seed(), track in prop::collection::vec(any::<bool>(), 3),
    ) {
        let mut source = Source::new(seed);
        let device = devices().remove(0);
        let draw = [&[rows, width][..], &[rows, width], &[width, width]]
            .map(|dims| source.normal(dims, DType::F32));
        let leaves: Vec<Tensor> = draw
            .iter()
            .zip(&track)
            .map(|(o, &track)| o.on(&device).map(|t| if track { t.tracked() } else { t }))
            .collect::<Result<_, _>>()?;
        let plain = block(&leaves[2])(&leaves[..2])?;
        let kept = checkpoint(&[&leaves[0], &leaves[1]], block(&leaves[2]))?;
        prop_assert_eq!(plain.to_bytes()?, kept.to_bytes()?);
        prop_assert_eq!(kept.is_tracked(), track.contains(&true));
        let (a, b) = (plain.backward_from(&plain.detach())?, kept.backward_from(&kept.detach())?);
        prop_assert_eq!(b.len(), track.iter().filter(|&&t| t).count());
        for leaf in &leaves {
            let bytes = |g: &Gradients| g.get(leaf).map(|t| t.to_bytes().unwrap());
            prop_assert_eq!(bytes(&a), bytes(&b));
        }
    }
}

/// Peak bytes of a forward and a backward pass over `n` blocks.
fn peak(device: &Device, x: &Tensor, weights: &[Tensor], checkpointed: bool) -> usize {
    device.memory().reset_peak();
    let start = device.memory().total().current;
    let mut y = x.clone();
    for w in weights {
        y = if checkpointed {
            checkpoint(&[&y, x], block(w)).unwrap()
        } else {
            block(w)(&[y, x.clone()]).unwrap()
        };
    }
    let gradients = y.backward_from(&y.detach()).unwrap();
    assert_eq!(gradients.len(), weights.len());
    device.memory().total().peak - start
}

#[test]
fn a_checkpoint_lowers_the_peak() {
    let device = Device::new(Cpu::new());
    let x = Tensor::full(&[64, 16], 0.5, DType::F32, &device).unwrap();
    let weights: Vec<Tensor> = layers(8, 16, &device).iter().map(Tensor::tracked).collect();
    let (plain, kept) = (peak(&device, &x, &weights, false), peak(&device, &x, &weights, true));
    assert!(kept * 2 < plain, "{kept} bytes with checkpoints, {plain} without");
}

#[test]
fn checkpoints_nest_and_fail_cleanly() {
    let x = vector(&[0.5, -0.5]).tracked();
    let plain = x.exp().unwrap().tanh().unwrap().exp().unwrap();
    let nested = checkpoint(&[&x], |t| checkpoint(&[&t[0].exp()?], |t| t[0].tanh()?.exp())).unwrap();
    assert_eq!(plain.to_bytes().unwrap(), nested.to_bytes().unwrap());
    let want = values(&plain.backward_from(&plain.detach()).unwrap(), &x);
    assert_eq!(values(&nested.backward_from(&nested.detach()).unwrap(), &x), want);
    assert!(checkpoint(&[&x], |t| t[0].reshape(&[3])).is_err());
    assert!(x.exp().unwrap().is_tracked(), "recording goes on after a failure");
    // Under no_grad nothing is kept.
    assert!(!no_grad(|| checkpoint(&[&x], |t| t[0].exp())).unwrap().is_tracked());
}
