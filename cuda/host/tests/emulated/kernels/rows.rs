//! Operations over rows: norms, losses, choices, reductions.

use engine::ops::{
    AddRmsNorm, Argmax, CrossEntropy, CrossEntropyGrad, LayerNorm, LayerNormGrad, Reduce, ReduceKind,
    RmsNorm, RmsNormGrad, TopK,
};
use engine::{Application, DType, Device, Op, Tensor, apply, apply_one};

use super::call::{On, View};
use super::draw::{Draw, captured};
use super::{hold, property};
use crate::session::{Session, check};

const CASES: u64 = 12;
const EPS: f32 = 1e-5;

/// Rows that lie anyhow; lengths of every path: odd, whole vectors, more than a block keeps.
fn rows(d: &mut Draw, dtype: DType) -> Tensor {
    let n = d.of(&[1, 7, 31, 64, 130, 520, 8200]);
    let dims = if d.chance() { vec![d.between(1, 4), n] } else { vec![2, d.between(1, 2), n] };
    d.normal(&dims, dtype)
}

#[test]
fn rms_norm() {
    property(
        CASES,
        |d| {
            let dtype = d.float();
            let x = rows(d, dtype);
            let w = d.dense(&x.dims()[x.rank() - 1..], dtype);
            captured(RmsNorm::NAME, || x.rms_norm(&w, EPS))
        },
        |session, application| {
            let (inputs, outputs) = (session.inputs(application), session.outputs(application));
            let (x, y, w) = (&inputs[0], &outputs[0], session.dense(&inputs[1]));
            let (rows, n) = y.rows();
            let call = session.call(format!("rms_norm_{}", x.name())).pointers(&[y, x, &w]);
            call.rows(x).size(n).float(EPS).per_row(rows);
            session.back_all(&outputs)
        },
    );
}

#[test]
fn add_rms_norm() {
    property(
        2 * CASES,
        |d| {
            let dtype = d.float();
            let x = rows(d, dtype);
            // Like x, or laid out in a way of its own.
            let y = if d.chance() { x.mul(&x).unwrap() } else { d.normal(&x.dims(), dtype) };
            let w = d.dense(&x.dims()[x.rank() - 1..], dtype);
            captured(AddRmsNorm::NAME, || x.add_rms_norm(&y, &w, EPS))
        },
        |session, application| {
            let all: Vec<On> = application.inputs().iter().map(|t| session.on(t)).collect();
            let shifted = session.inputs(application);
            // Everything where 16 bytes begin, or y an element after.
            let (x, y) = (&all[0], if shifted[1].count() % 2 == 0 { &all[1] } else { &shifted[1] });
            let (outputs, w) = (session.outputs(application), session.dense(&all[2]));
            let (rows, n) = outputs[0].rows();
            let call = session.call(format!("add_rms_norm_{}", x.name()));
            let call = call.pointers(&[&outputs[0], &outputs[1], x, y, &w]);
            call.rows(x).rows(y).size(n).float(EPS).per_row(rows);
            // The bits of the two kernels that it stands for.
            let apart = session.outputs(application);
            let call = session.call(format!("binary_{}", x.name())).pointers(&[&apart[0], x, y]);
            call.view(x).view(y).size(rows * n).word(0).over(rows * n);
            let call = session.call(format!("rms_norm_{}", x.name())).pointers(&[&apart[1], &apart[0], &w]);
            call.rows(&apart[0]).size(n).float(EPS).per_row(rows);
            let (together, apart) = (session.back_all(&outputs), session.back_all(&apart));
            for (one, two) in together.iter().zip(&apart) {
                assert!(one.to_bytes().unwrap() == two.to_bytes().unwrap(), "{application:?}");
            }
            together
        },
    );
}

#[test]
fn layer_norm() {
    property(
        CASES,
        |d| {
            let dtype = d.float();
            let x = rows(d, dtype);
            let n = x.dims()[x.rank() - 1];
            let (w, b) = (d.dense(&[n], dtype), d.dense(&[n], dtype));
            captured(LayerNorm::NAME, || x.layer_norm(&w, &b, EPS))
        },
        |session, application| {
            let (inputs, outputs) = (session.inputs(application), session.outputs(application));
            let (x, y) = (&inputs[0], &outputs[0]);
            let (w, b) = (session.dense(&inputs[1]), session.dense(&inputs[2]));
            let (rows, n) = y.rows();
            let call = session.call(format!("layer_norm_{}", x.name())).pointers(&[y, x, &w, &b]);
            call.rows(x).size(n).float(EPS).per_row(rows);
            session.back_all(&outputs)
        },
    );
}

/// Input's gradient, and those of weight and bias from parts.
fn norm_grad(session: &Session, application: &Application) -> Vec<Tensor> {
    let name = application.name();
    let (inputs, outputs) = (session.inputs(application), session.outputs(application));
    let (x, g) = (&inputs[0], &inputs[2]);
    let (rows, n) = x.rows();
    let stats = session.output(&[rows, 2], DType::F32);
    let w = session.dense(&inputs[1]);
    let call = session.call(format!("{name}_{}", x.name())).pointers(&[&outputs[0], &stats, x, &w, g]);
    call.rows(x).rows(g).size(n).float(EPS).per_row(rows);
    let (per_part, shape) = (3, [32, 8]);
    let parts = rows.div_ceil(per_part);
    let sums: Vec<On> = outputs[1..].iter().map(|_| session.output(&[parts, n], DType::F32)).collect();
    let pointers: Vec<&On> = sums.iter().chain([x, g, &stats]).collect();
    let call = session.call(format!("{name}_weight_{}", x.name())).pointers(&pointers);
    call.rows(x).rows(g).sizes(&[rows, n, per_part]).launch([n.div_ceil(32), parts, 1], shape, 2048);
    for (sums, y) in sums.iter().zip(&outputs[1..]) {
        let call = session.call(format!("reduce_columns_f32_{}", y.name())).pointers(&[y, sums]);
        let call = call.view_of(View::dense(n)).view_of(View::of(&[parts], &[n]));
        call.sizes(&[n, parts, 1]).word(0).float(1.0).launch([n.div_ceil(32), 1, 1], shape, 1024);
    }
    session.back_all(&outputs)
}

#[test]
fn norm_grads() {
    property(
        2 * CASES,
        |d| {
            let dtype = d.float();
            let dims = [d.between(1, 7), d.of(&[1, 9, 40, 264])];
            let (x, w, g) = (d.normal(&dims, dtype), d.dense(&dims[1..], dtype), d.normal(&dims, dtype));
            if d.chance() {
                captured(RmsNormGrad::NAME, || apply(RmsNormGrad { eps: EPS }, &[&x, &w, &g]))
            } else {
                captured(LayerNormGrad::NAME, || apply(LayerNormGrad { eps: EPS }, &[&x, &w, &g]))
            }
        },
        norm_grad,
    );
}

/// Normal values, some alike, now and then a NaN or an infinity.
fn choices(d: &mut Draw, dims: &[usize], dtype: DType) -> Tensor {
    d.placed(dims, dtype, |rng| match rng.below(40) {
        0 => f64::NAN,
        1 => f64::INFINITY,
        2 => f64::NEG_INFINITY,
        3 => -0.0,
        4 => 0.0,
        _ => f64::from(rng.normal()),
    })
}

#[test]
fn argmax() {
    property(
        2 * CASES,
        |d| {
            let (dims, dtype) = ([d.between(1, 5), d.of(&[1, 5, 64, 700])], d.float());
            let x = choices(d, &dims, dtype);
            captured(Argmax::NAME, || x.argmax())
        },
        |session, application| {
            let (inputs, outputs) = (session.inputs(application), session.outputs(application));
            let (rows, n) = inputs[0].rows();
            let call =
                session.call(format!("argmax_{}", inputs[0].name())).pointers(&[&outputs[0], &inputs[0]]);
            let threads = if n == 700 { 1024 } else { 256 };
            call.rows(&inputs[0]).size(n).launch([rows, 1, 1], [threads, 1], 256);
            session.back_all(&outputs)
        },
    );
}

#[test]
fn top_k() {
    property(
        2 * CASES,
        |d| {
            let (dims, dtype) = ([d.between(1, 3), d.of(&[1, 5, 64, 700])], d.float());
            let x = choices(d, &dims, dtype);
            captured(TopK::NAME, || x.top_k(d.between(1, dims[1].min(9))))
        },
        |session, application| {
            let (inputs, outputs) = (session.inputs(application), session.outputs(application));
            let (rows, n) = inputs[0].rows();
            let k = application.op::<TopK>().expect("top_k").k;
            let call = session.call(format!("top_k_{}", inputs[0].name()));
            call.pointers(&[&outputs[0], &outputs[1], &inputs[0]])
                .rows(&inputs[0])
                .sizes(&[n, k])
                .per_row(rows);
            session.back_all(&outputs)
        },
    );
}

/// Rows of several shares, the last one short.
#[test]
fn top_k_in_parts() {
    property(
        CASES,
        |d| {
            let (dims, dtype) = ([d.between(1, 2), d.of(&[2049, 4103, 6000])], d.float());
            let x = choices(d, &dims, dtype);
            captured(TopK::NAME, || x.top_k(d.between(1, 20)))
        },
        |session, application| {
            let (inputs, outputs) = (session.inputs(application), session.outputs(application));
            let (rows, n) = inputs[0].rows();
            let k = application.op::<TopK>().expect("top_k").k;
            let parts = n.div_ceil(2048);
            let [keys, places] = [0; 2].map(|_| session.output(&[rows, parts, k], DType::U32));
            let call = session.call(format!("top_k_split_{}", inputs[0].name()));
            let call = call.pointers(&[&keys, &places, &inputs[0]]).rows(&inputs[0]).sizes(&[n, k]);
            call.launch([parts, rows, 1], [256, 1], 256);
            let call = session.call(format!("top_k_merge_{}", inputs[0].name()));
            let call = call.pointers(&[&outputs[0], &outputs[1], &inputs[0], &keys, &places]);
            call.rows(&inputs[0]).sizes(&[parts * k, k]).per_row(rows);
            session.back_all(&outputs)
        },
    );
}

const IGNORE: i32 = -100;

fn labels(d: &mut Draw, rows: usize, n: usize) -> Tensor {
    let one = |d: &mut Draw| if d.rng.below(4) == 0 { IGNORE } else { d.rng.below(n) as i32 };
    let labels: Vec<i32> = (0..rows).map(|_| one(d)).collect();
    Tensor::from_slice(&labels, &[rows], &Device::cpu()).unwrap()
}

/// Of the loss or its gradient: outputs, logits, labels, and what the gradient takes more.
fn entropy(session: &Session, application: &Application) -> (Vec<Tensor>, Vec<u32>) {
    let (inputs, outputs) = (session.inputs(application), session.outputs(application));
    let (rows, n) = inputs[0].rows();
    let rest: Vec<On> = inputs[1..].iter().map(|x| session.dense(x)).collect();
    let fault = session.no_fault();
    let pointers: Vec<&On> = outputs.iter().chain([&inputs[0]]).chain(&rest).chain([&fault]).collect();
    let call = session.call(format!("{}_{}", application.name(), inputs[0].name())).pointers(&pointers);
    call.rows(&inputs[0]).size(n).word(5).signed(IGNORE).per_row(rows);
    (session.back_all(&outputs), session.back(&fault).to_vec().unwrap())
}

fn without_fault(session: &Session, application: &Application) -> Vec<Tensor> {
    let (outputs, fault) = entropy(session, application);
    assert_eq!(fault[0], 0, "{application:?}");
    outputs
}

#[test]
fn cross_entropy() {
    property(
        CASES,
        |d| {
            let (dims, dtype) = ([d.between(1, 6), d.of(&[1, 3, 64, 1030])], d.float());
            let (x, labels) = (d.normal(&dims, dtype), labels(d, dims[0], dims[1]));
            captured(CrossEntropy::NAME, || x.cross_entropy(&labels, IGNORE))
        },
        without_fault,
    );
}

#[test]
fn cross_entropy_grad() {
    property(
        CASES,
        |d| {
            let (dims, dtype) = ([d.between(1, 6), d.of(&[1, 3, 64, 1030])], d.float());
            let (x, labels) = (d.normal(&dims, dtype), labels(d, dims[0], dims[1]));
            let lse = apply(CrossEntropy { ignore: IGNORE }, &[&x, &labels]).unwrap().swap_remove(1);
            let g = d.normal(&dims[..1], DType::F32);
            let op = CrossEntropyGrad { ignore: IGNORE };
            captured(CrossEntropyGrad::NAME, || apply_one(op, &[&x, &labels, &lse, &g]))
        },
        without_fault,
    );
}

#[test]
fn bad_labels_are_reported() {
    let mut d = Draw::new(1);
    let x = d.dense(&[3, 5], DType::F32);
    let cpu = Device::cpu();
    let good = Tensor::from_slice(&[0_i32, 1, 2], &[3], &cpu).unwrap();
    let bad = Tensor::from_slice(&[0_i32, 5, IGNORE], &[3], &cpu).unwrap();
    let application = captured(CrossEntropy::NAME, || x.cross_entropy(&good, IGNORE));
    let wrong = application.on(&[x, bad]).unwrap();
    check(|session| {
        assert_eq!(entropy(session, &application).1, [0; 4]);
        assert_eq!(entropy(session, &wrong).1, [5, 1, 5, 0], "number, place, value");
    });
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rung {
    Rows,
    Columns,
}

/// In one launch, or in parts that a second one adds.
fn reduce(session: &Session, application: &Application, rung: Rung, parts: usize) -> Vec<Tensor> {
    const KINDS: [ReduceKind; 4] =
        [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::SumSquares, ReduceKind::Max];
    let op = application.op::<Reduce>().expect("reduce");
    let (x, y) = (&session.inputs(application)[0], session.outputs(application).swap_remove(0));
    let axes = |reduced: bool| -> (Vec<usize>, Vec<usize>) {
        let all = x.dims().iter().zip(x.layout.strides.iter()).enumerate();
        all.filter(|(i, _)| (op.axes >> i & 1 == 1) == reduced).map(|(_, (&d, &s))| (d, s)).unzip()
    };
    let ((kept_dims, kept_strides), (dims, strides)) = (axes(false), axes(true));
    let (kept, reduced): (usize, usize) = (kept_dims.iter().product(), dims.iter().product());
    let (grid, block, shared, name) = match rung {
        Rung::Rows => (kept, [256, 1], 256, "rows"),
        Rung::Columns => (kept.div_ceil(32), [32, 8], 1024, "columns"),
    };
    let kind = KINDS.iter().position(|k| *k == op.kind).expect("listed") as u32;
    let partial = session.output(&[parts, kept], DType::F32);
    let (first, last) = if parts > 1 { (&partial, Some(&y)) } else { (&y, None) };
    let call = session.call(format!("reduce_{name}_{}_{}", x.name(), first.name())).pointers(&[first, x]);
    let call = call.view_of(View::of(&kept_dims, &kept_strides)).view_of(View::of(&dims, &strides));
    // Mean divides at the end.
    let early = if parts > 1 && kind == 1 { 0 } else { kind };
    let call = call.sizes(&[kept, reduced, parts]).word(early).float(reduced as f32);
    call.launch([grid, parts, 1], block, shared);
    if let Some(y) = last {
        let call = session.call(format!("reduce_columns_f32_{}", y.name())).pointers(&[y, &partial]);
        let call = call.view_of(View::dense(kept)).view_of(View::of(&[parts], &[kept]));
        let late = if kind == 2 { 0 } else { kind };
        let call = call.sizes(&[kept, parts, 1]).word(late).float(reduced as f32);
        call.launch([kept.div_ceil(32), 1, 1], [32, 8], 1024);
    }
    vec![session.back(&y)]
}

#[test]
fn reductions() {
    const KINDS: [ReduceKind; 4] =
        [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::SumSquares, ReduceKind::Max];
    let make = |seed: u64| {
        let d = &mut Draw::new(seed);
        let dims = if d.chance() { vec![d.between(1, 9), d.of(&[1, 40, 300])] } else { d.dims(4, 6) };
        let (kind, dtype) = (KINDS[seed as usize % 4], d.float());
        let axes = d.rng.below(1 << dims.len()) as u32;
        let x = d.normal(&dims, dtype);
        let what = (d.of(&[Rung::Rows, Rung::Columns]), d.of(&[1, 1, 3]));
        (captured(Reduce::NAME, || apply_one(Reduce { kind, axes }, &[&x])), what)
    };
    let cases: Vec<_> = (0..32).map(make).collect();
    hold(&cases, |session, application, &(rung, parts)| reduce(session, application, rung, parts));
}

#[test]
fn a_maximum_keeps_nan() {
    let x =
        Tensor::from_slice(&[1.0_f32, f32::NAN, 3.0, -1.0, -2.0, f32::NEG_INFINITY], &[2, 3], &Device::cpu())
            .unwrap();
    let application = captured(Reduce::NAME, || x.max(&[1]));
    let ways = [(Rung::Rows, 1), (Rung::Columns, 1), (Rung::Rows, 3)];
    let cases = ways.map(|way| (application.clone(), way));
    hold(&cases, |session, application, &(rung, parts)| reduce(session, application, rung, parts));
}
