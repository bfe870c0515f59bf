//! Optimiser steps, and bytes that come as an argument.

use engine::ops::{AdamW, AdamW8bit, Moments8bit, Sgd};
use engine::{Application, Codebook, DType, Device, Op, Tensor};

use cudarc::driver::{DeviceRepr, PushKernelArg};

use super::call::{Call, Factors, On};
use super::draw::{Draw, captured};
use super::property;
use crate::session::{Session, check, shape};

const CASES: u64 = 12;

fn factors(op: &AdamW) -> Factors {
    let correction = |beta: f64| 1.0 - beta.powi(op.step as i32);
    [
        op.grad_scale,
        (1.0 - op.lr * op.weight_decay) as f32,
        (1.0 - op.beta1) as f32,
        op.beta2 as f32,
        (1.0 - op.beta2) as f32,
        -(op.lr / correction(op.beta1)) as f32,
        correction(op.beta2).sqrt() as f32,
        op.eps as f32,
    ]
}

fn hyper(step: u32) -> AdamW {
    AdamW { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step, grad_scale: 0.7 }
}

/// A target: contiguous, or a part of something bigger.
fn target(d: &mut Draw, dims: &[usize], dtype: DType) -> Tensor {
    let mut whole = dims.to_vec();
    let extra = if d.chance() { 3 } else { 0 };
    whole[0] += extra;
    d.dense(&whole, dtype).narrow(0, extra / 2, dims[0]).unwrap()
}

fn dims(d: &mut Draw) -> Vec<usize> {
    vec![d.between(1, 9), d.of(&[1, 30, 100])]
}

/// All targets and the gradient as views.
fn step(
    session: &Session,
    application: &Application,
    scalars: impl Fn(Call<'_>, usize) -> Call<'_>,
) -> Vec<Tensor> {
    let all: Vec<On> = application.inputs().iter().map(|t| session.on(t)).collect();
    let (p, g) = (&all[0], &all[all.len() - 1]);
    let call = session.call(format!("{}_{}_{}", application.name(), p.name(), g.name()));
    let (targets, count) = (application.targets(), p.count());
    // A momentum buffer that there is not.
    let call = match &all[..] {
        [p, g] => call.pointers(&[p]).optional(None).pointers(&[g]).view(p).view(p).view(g),
        _ => all.iter().fold(call.pointers(&all.iter().collect::<Vec<_>>()), Call::view),
    };
    scalars(call, count).over(count);
    session.back_all(&all[..targets])
}

#[test]
fn adamw() {
    property(
        CASES,
        |d| {
            let (dims, p_type, g_type) = (dims(d), d.parameter(), d.parameter());
            let (p, m) = (target(d, &dims, p_type), target(d, &dims, DType::F32));
            let v = target(d, &dims, DType::F32);
            v.write(&v.mul(&v).unwrap()).unwrap();
            let (g, step) = (d.normal(&dims, g_type), d.between(1, 50));
            captured(AdamW::NAME, || Tensor::adamw_step(&p, &m, &v, &g, &hyper(step as u32)))
        },
        |session, application| {
            let op = application.op::<AdamW>().expect("adamw");
            step(session, application, |call, count| call.factors(factors(op)).size(count))
        },
    );
}

/// The table of a list's kernel: of each parameter the pointers, then its elements and its first block. Also the number of
/// blocks. `each` targets a parameter; then the gradients follow.
fn table(session: &Session, all: &[On], each: usize, per_block: usize) -> (On, usize, usize) {
    let parameters = all.len() / (each + 1);
    let (mut words, mut blocks) = (Vec::new(), 0);
    for i in 0..parameters {
        let targets = &all[i * each..(i + 1) * each];
        for pointer in targets.iter().chain([&all[parameters * each + i]]).map(On::address) {
            words.extend([pointer as u32, (pointer >> 32) as u32]);
        }
        words.extend([targets[0].count() as u32, blocks as u32]);
        blocks += targets[0].count().div_ceil(per_block);
    }
    let table = Tensor::from_slice(&words, &[words.len()], &Device::cpu()).unwrap();
    (session.on(&table), parameters, blocks)
}

#[test]
fn adamw_list() {
    property(
        CASES,
        |d| {
            let (p_type, g_type, step) = (d.parameter(), d.parameter(), d.between(1, 50) as u32);
            let parameters: Vec<[Tensor; 4]> = (0..d.between(1, 7))
                .map(|_| {
                    let n = [d.of(&[1, 3, 64, 4095, 4096, 4100, 9000])];
                    let v = d.dense(&n, DType::F32);
                    v.write(&v.mul(&v).unwrap()).unwrap();
                    [d.dense(&n, p_type), d.dense(&n, DType::F32), v, d.dense(&n, g_type)]
                })
                .collect();
            let list: Vec<[&Tensor; 4]> = parameters.iter().map(<[Tensor; 4]>::each_ref).collect();
            captured(AdamW::NAME, || Tensor::adamw_steps(&list, &hyper(step)))
        },
        |session, application| {
            let op = application.op::<AdamW>().expect("adamw");
            // Every second one lies an element after where 16 bytes begin.
            let all = session.inputs(application);
            let (table, parameters, blocks) = table(session, &all, 3, 4096);
            let last = &all[all.len() - 1];
            let call = session.call(format!("adamw_list_{}_{}", all[0].name(), last.name()));
            let call = call.pointers(&[&table]).factors(factors(op)).size(parameters);
            call.launch([blocks, 1, 1], [256, 1], 0);
            session.back_all(&all[..application.targets()])
        },
    );
}

#[test]
fn sgd() {
    property(
        CASES,
        |d| {
            let (dims, p_type, g_type) = (dims(d), d.parameter(), d.parameter());
            let (p, b) = (target(d, &dims, p_type), target(d, &dims, DType::F32));
            let g = d.normal(&dims, g_type);
            let momentum = d.of(&[0.0, 0.9]);
            let op = Sgd { lr: 0.05, momentum, weight_decay: 0.1, grad_scale: 0.7 };
            let buffer = (momentum != 0.0).then_some(&b);
            captured(Sgd::NAME, || Tensor::sgd_step(&p, buffer, &g, &op))
        },
        |session, application| {
            let op = application.op::<Sgd>().expect("sgd");
            step(session, application, |call, count| {
                let call = call.size(count).float(op.grad_scale).float(op.weight_decay as f32);
                call.float(op.momentum as f32).float(-op.lr as f32)
            })
        },
    );
}

#[test]
fn adamw8bit() {
    property(
        CASES,
        |d| {
            let (p_type, g_type, cpu) = (d.parameter(), d.parameter(), Device::cpu());
            let parameters: Vec<(Tensor, Moments8bit, Tensor)> = (0..d.between(1, 4))
                .map(|_| {
                    let count = d.of(&[1, 200, 256, 700]);
                    let p = d.dense(&[count], p_type);
                    // Now and then a gradient that is not finite, or whose square is not.
                    let g: Vec<f64> = (0..count)
                        .map(|_| match d.rng.below(30) {
                            0 => [f64::NAN, f64::INFINITY, 1e30][d.rng.below(3)],
                            _ => f64::from(d.rng.normal()),
                        })
                        .collect();
                    let g = Tensor::from_f64(&g, &[count], g_type, &cpu).unwrap();
                    let codes = || Tensor::zeros(&[count], DType::U8, &cpu).unwrap();
                    let blocks =
                        || Tensor::zeros(&[count.div_ceil(AdamW8bit::BLOCK)], DType::F32, &cpu).unwrap();
                    (p, Moments8bit { m: codes(), v: codes(), absmax_m: blocks(), absmax_v: blocks() }, g)
                })
                .collect();
            let list: Vec<_> = parameters.iter().map(|(p, state, g)| (p, state, g)).collect();
            // The captured step leaves the moments of one step behind: kernels go on from there.
            captured(AdamW8bit::NAME, || Tensor::adamw8bit_steps(&list, &hyper(2)))
        },
        |session, application| {
            let op = application.op::<AdamW8bit>().expect("adamw8bit");
            let all: Vec<On> = application.inputs().iter().map(|t| session.on(t)).collect();
            let maps = [Codebook::Dynamic.values(), Codebook::DynamicUnsigned.values()].concat();
            let tables = session.on(&Tensor::from_slice(&maps, &[512], &Device::cpu()).unwrap());
            let (table, parameters, blocks) = table(session, &all, 5, AdamW8bit::BLOCK);
            let call = session.call(format!("adamw8bit_{}_{}", all[0].name(), all[all.len() - 1].name()));
            call.pointers(&[&table, &tables]).factors(factors(&op.0)).size(parameters).per_row(blocks);
            session.back_all(&all[..application.targets()])
        },
    );
}

/// Bytes on their way.
#[repr(C)]
#[derive(Clone, Copy)]
struct Bytes64([u8; 64]);

// SAFETY: plain bytes, as the kernel takes them.
unsafe impl DeviceRepr for Bytes64 {}

#[test]
fn upload() {
    check(|session| {
        let function = session.function("upload_u8");
        let bytes = Bytes64(std::array::from_fn(|i| (i as u8).wrapping_mul(37).wrapping_add(5)));
        for count in [1_u32, 3, 4, 31, 63, 64] {
            let mut out = session.upload(&[7_u8; 64]);
            // SAFETY: the kernel's arguments; it writes the first `count` bytes.
            unsafe {
                let mut launch = session.stream.launch_builder(&function);
                launch.arg(&mut out).arg(&bytes).arg(&count).launch(shape(1, 64, 0)).expect("a launch");
            }
            let (written, rest) = (session.download(&out), vec![7; 64 - count as usize]);
            assert_eq!(written, [&bytes.0[..count as usize], &rest].concat());
        }
    });
}
