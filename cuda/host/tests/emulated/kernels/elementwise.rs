//! Elementwise operations, conversions and copies.

use engine::ops::{
    Affine, Binary, BinaryKind, Burst, Cast, Concat, Dropout, GatedSilu, GatedSiluGrad, Gelu, GeluGrad,
    GeluKind, Unary, UnaryKind, Write,
};
use engine::{Application, DType, Op, Rng, Tensor, apply, apply_in_place, apply_one};

use super::call::{Call, On};
use super::draw::{Draw, captured};
use super::property;
use crate::session::Session;

const CASES: u64 = 12;

/// Shapes of one short row up to more elements than a grid of the tests has threads.
fn dims(d: &mut Draw) -> Vec<usize> {
    if d.chance() {
        vec![d.between(1, 40), 64]
    } else {
        let rank = d.between(1, 4);
        d.dims(rank, 9)
    }
}

fn number<T: PartialEq>(all: &[T], kind: &T) -> u32 {
    all.iter().position(|k| k == kind).expect("every kind is listed") as u32
}

/// Launches `<name>_<type>` with views of all inputs; `scalars` follow the count.
fn elementwise(
    session: &Session,
    application: &Application,
    scalars: impl for<'a> Fn(Call<'a>) -> Call<'a>,
) -> Vec<Tensor> {
    let (inputs, outputs) = (session.inputs(application), session.outputs(application));
    let count = outputs[0].count();
    let all: Vec<&On> = outputs.iter().chain(&inputs).collect();
    let call = session.call(format!("{}_{}", application.name(), inputs[0].name())).pointers(&all);
    let call = inputs.iter().fold(call, Call::view).size(count);
    scalars(call).over(count);
    session.back_all(&outputs)
}

#[test]
fn unary() {
    use UnaryKind::{Exp, Ln, Relu, Sigmoid, Sqrt, Step, Tanh};
    const KINDS: [UnaryKind; 7] = [Exp, Ln, Sqrt, Tanh, Sigmoid, Relu, Step];
    property(
        2 * CASES,
        |d| {
            let (dims, dtype, kind) = (dims(d), d.float(), d.of(&KINDS));
            let positive = matches!(kind, Ln | Sqrt);
            let x = d.placed(&dims, dtype, |rng| {
                let x = f64::from(rng.normal());
                if positive { x.abs() + 0.01 } else { 2.0 * x }
            });
            captured(Unary::NAME, || apply_one(Unary { kind }, &[&x]))
        },
        |session, application| {
            let kind = application.op::<Unary>().expect("unary").kind;
            elementwise(session, application, |call| call.word(number(&KINDS, &kind)))
        },
    );
}

#[test]
fn affine() {
    property(
        CASES,
        |d| {
            let (dims, dtype) = (dims(d), d.float());
            let x = d.normal(&dims, dtype);
            captured(Affine::NAME, || x.affine(-1.7, 0.3))
        },
        |session, application| elementwise(session, application, |call| call.float(-1.7).float(0.3)),
    );
}

#[test]
fn binary() {
    const KINDS: [BinaryKind; 4] = [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul, BinaryKind::Div];
    property(
        2 * CASES,
        |d| {
            let (dims, dtype, kind) = (dims(d), d.float(), d.of(&KINDS));
            let (a, b) = (d.normal(&dims, dtype), d.normal(&dims, dtype));
            captured(Binary::NAME, || apply_one(Binary { kind }, &[&a, &b]))
        },
        |session, application| {
            let kind = application.op::<Binary>().expect("binary").kind;
            elementwise(session, application, |call| call.word(number(&KINDS, &kind)))
        },
    );
}

const GELU_KINDS: [GeluKind; 2] = [GeluKind::Tanh, GeluKind::Erf];

#[test]
fn gelu() {
    property(
        CASES,
        |d| {
            let (dims, dtype, kind) = (dims(d), d.float(), d.of(&GELU_KINDS));
            let x = d.normal(&dims, dtype);
            captured(Gelu::NAME, || x.gelu(kind))
        },
        |session, application| {
            let kind = application.op::<Gelu>().expect("gelu").kind;
            elementwise(session, application, |call| call.word(number(&GELU_KINDS, &kind)))
        },
    );
}

#[test]
fn gelu_grad() {
    property(
        CASES,
        |d| {
            let (dims, dtype, kind) = (dims(d), d.float(), d.of(&GELU_KINDS));
            let (x, g) = (d.normal(&dims, dtype), d.normal(&dims, dtype));
            captured(GeluGrad::NAME, || apply_one(GeluGrad { kind }, &[&x, &g]))
        },
        |session, application| {
            let kind = application.op::<GeluGrad>().expect("gelu_grad").kind;
            elementwise(session, application, |call| call.word(number(&GELU_KINDS, &kind)))
        },
    );
}

#[test]
fn gated_silu() {
    property(
        CASES,
        |d| {
            let (dims, dtype) = (dims(d), d.float());
            let (gate, up) = (d.normal(&dims, dtype), d.normal(&dims, dtype));
            captured(GatedSilu::NAME, || gate.gated_silu(&up))
        },
        |session, application| elementwise(session, application, |call| call),
    );
}

#[test]
fn gated_silu_grad() {
    property(
        CASES,
        |d| {
            let (dims, dtype) = (dims(d), d.float());
            let (gate, up, g) = (d.normal(&dims, dtype), d.normal(&dims, dtype), d.normal(&dims, dtype));
            captured(GatedSiluGrad::NAME, || apply(GatedSiluGrad, &[&gate, &up, &g]))
        },
        |session, application| elementwise(session, application, |call| call),
    );
}

#[test]
fn dropout() {
    property(
        CASES,
        |d| {
            let (dims, dtype) = (dims(d), d.float());
            let x = d.normal(&dims, dtype);
            captured(Dropout::NAME, || x.dropout(0.3, d.rng.bits()))
        },
        |session, application| {
            let op = application.op::<Dropout>().expect("dropout");
            let key = Rng::new(op.seed).bits();
            elementwise(session, application, |call| {
                call.word(key as u32).word((key >> 32) as u32).word(op.threshold()).float(op.scale())
            })
        },
    );
}

/// Values of a type, among them those at which conversions differ.
fn any_values(d: &mut Draw, dims: &[usize], dtype: DType) -> Tensor {
    d.placed(dims, dtype, |rng| match rng.below(8) {
        0 => f64::from(rng.normal()) * 1e9,
        1 => f64::from(rng.normal()) * 70_000.0,
        2 => f64::from(rng.normal()) * 1e-7,
        3 => [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 255.5][rng.below(4)],
        _ => f64::from(rng.normal()) * 100.0,
    })
}

#[test]
fn cast() {
    property(
        72,
        |d| {
            let (dims, from, to) = (dims(d), d.of(&DType::ALL), d.of(&DType::ALL));
            let x = any_values(d, &dims, from);
            captured(Cast::NAME, || apply_one(Cast { to }, &[&x]))
        },
        |session, application| {
            let (x, y) = (&session.inputs(application)[0], session.outputs(application).swap_remove(0));
            let call = session.call(format!("cast_{}_{}", x.name(), y.name()));
            call.pointers(&[&y, x]).view(x).size(x.count()).over(x.count());
            vec![session.back(&y)]
        },
    );
}

#[test]
fn write() {
    property(
        72,
        |d| {
            let (dims, from, to) = (dims(d), d.of(&DType::ALL), d.of(&DType::ALL));
            let x = any_values(d, &dims, from);
            // A part of something bigger, as a cache is.
            let mut whole = dims.clone();
            let axis = d.rng.below(dims.len());
            whole[axis] += 2;
            let target = d.dense(&whole, to).narrow(axis, d.rng.below(3), dims[axis]).unwrap();
            captured(Write::NAME, || apply_in_place(Write, &[&target], &[&x]))
        },
        |session, application| {
            let all = session.inputs(application);
            let (y, x) = (&all[0], &all[1]);
            let call = session.call(format!("write_{}_{}", x.name(), y.name()));
            call.pointers(&[y, x]).view(y).view(x).size(x.count()).over(x.count());
            vec![session.back(y)]
        },
    );
}

#[test]
fn concat() {
    property(
        2 * CASES,
        |d| {
            let (dims, dtype) = (dims(d), d.of(&DType::ALL));
            let axis = d.rng.below(dims.len());
            let parts: Vec<Tensor> = (0..d.between(1, 3))
                .map(|_| {
                    let mut dims = dims.clone();
                    dims[axis] = d.of(&[1, 3, 8]);
                    d.normal(&dims, dtype)
                })
                .collect();
            let parts: Vec<&Tensor> = parts.iter().collect();
            captured(Concat::NAME, || Tensor::concat(&parts, axis))
        },
        |session, application| {
            let axis = application.op::<Concat>().expect("concat").axis;
            let (parts, y) = (session.inputs(application), session.outputs(application).swap_remove(0));
            let pitch: usize = y.dims()[axis..].iter().product();
            let mut start = 0;
            for x in &parts {
                let run: usize = x.dims()[axis..].iter().product();
                let call = session.call(format!("concat_{}", x.dtype.size())).pointer_at(&y, start);
                call.pointers(&[x]).view(x).sizes(&[x.count(), run, pitch]).over(x.count());
                start += run;
            }
            vec![session.back(&y)]
        },
    );
}

#[test]
fn burst() {
    let kinds = [
        ("burst_multiply_adds", Burst::MultiplyAdds { rounds: 32 }),
        ("burst_products", Burst::Products { rounds: 32 }),
        ("burst_read", Burst::Read { sums: 128 }),
        ("burst_triad", Burst::Triad),
    ];
    for (entry, op) in kinds {
        property(
            CASES / 4,
            |d| {
                let n = 128 * d.between(1, 20);
                let (x, c) = (d.dense(&[n], DType::F32), d.dense(&[n], DType::F32));
                let inputs: &[&Tensor] = if op == Burst::Triad { &[&x, &c] } else { &[&x] };
                captured(Burst::NAME, || apply_one(op, inputs))
            },
            |session, application| {
                let (inputs, outputs) = (session.inputs(application), session.outputs(application));
                let all: Vec<&On> = outputs.iter().chain(&inputs).collect();
                let (count, n) = (outputs[0].count(), inputs[0].count());
                let call = session.call(entry).pointers(&all).size(count);
                let (repeats, threads) = match op {
                    Burst::Products { rounds } => (rounds, count / 4),
                    Burst::MultiplyAdds { rounds } => (rounds, count),
                    _ => (n / count, count),
                };
                call.size(repeats).launch([threads.div_ceil(256), 1, 1], [256, 1], 0);
                session.back_all(&outputs)
            },
        );
    }
}
