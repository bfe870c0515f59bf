//! Rows that ids name, and rotation by position.

use engine::ops::{Embedding, EmbeddingGrad, Rope, RopeKind, RopeWrite, ScatterRows};
use engine::{Application, DType, Device, Op, Tensor, apply_one};

use super::call::{Call, On};
use super::draw::{Draw, captured};
use super::property;
use crate::session::{Session, check};

const CASES: u64 = 12;
const NUMBER: u32 = 7;

/// Outputs and the words of the fault.
fn embedding(session: &Session, application: &Application) -> (Vec<Tensor>, Vec<u32>) {
    let (inputs, y) = (session.inputs(application), session.outputs(application).swap_remove(0));
    let (table, ids, fault) = (&inputs[0], session.dense(&inputs[1]), session.no_fault());
    let [down, step, ..] = table.strides();
    let call = session.call(format!("embedding_{}", table.dtype.size())).pointers(&[&y, table, &ids, &fault]);
    let call = call.sizes(&[ids.count(), table.dims()[0], table.dims()[1]]);
    call.word(down).word(step).word(NUMBER).per_warp(ids.count());
    (vec![session.back(&y)], session.back(&fault).to_vec().unwrap())
}

#[test]
fn rows_of_a_table() {
    property(
        CASES,
        |d| {
            let (dims, dtype) = ([d.between(1, 9), d.of(&[1, 7, 64, 300])], d.float());
            let (table, lead) = (d.normal(&dims, dtype), d.dims(2, 4));
            let ids = d.below(&lead, dims[0]);
            captured(Embedding::NAME, || table.embedding(&ids))
        },
        |session, application| {
            let (outputs, fault) = embedding(session, application);
            assert_eq!(fault[0], 0);
            outputs
        },
    );
}

#[test]
fn an_unknown_id_is_reported_and_gives_zeros() {
    let mut d = Draw::new(3);
    let table = d.dense(&[4, 8], DType::BF16);
    let ids = |ids: &[u32]| Tensor::from_slice(ids, &[3], &Device::cpu()).unwrap();
    let application = captured(Embedding::NAME, || table.embedding(&ids(&[1, 2, 3])));
    let wrong = application.on(&[table, ids(&[1, 4, 3])]).unwrap();
    check(|session| {
        let (outputs, fault) = embedding(session, &wrong);
        assert_eq!(fault, [NUMBER, 1, 4, 0], "number, place, value");
        assert!(outputs[0].narrow(0, 1, 1).unwrap().to_f64_vec().unwrap().iter().all(|&x| x == 0.0));
    });
}

#[test]
fn gradient_of_a_table() {
    property(
        CASES,
        |d| {
            let (rows, n, dtype) = (d.between(1, 9), d.of(&[1, 7, 300, 1028]), d.float());
            // More than are compared at once, too.
            let places = d.of(&[1, 5, 12, 300]);
            let (ids, g) = (d.below(&[places], rows), d.normal(&[places, n], dtype));
            captured(EmbeddingGrad::NAME, || apply_one(EmbeddingGrad { rows }, &[&ids, &g]))
        },
        |session, application| {
            let inputs = session.inputs(application);
            let spec = application.output_specs().unwrap()[0];
            let (y, fault) = (session.zeros(&spec.dims, spec.dtype), session.no_fault());
            let (ids, g) = (session.dense(&inputs[0]), session.dense(&inputs[1]));
            let call = session.call(format!("embedding_grad_{}", g.name())).pointers(&[&y, &ids, &g, &fault]);
            let call = call.sizes(&[ids.count(), spec.dims[0], spec.dims[1]]).word(NUMBER);
            call.launch([ids.count(), spec.dims[1].div_ceil(1024), 1], [256, 1], 1312);
            assert_eq!(session.back(&fault).to_vec::<u32>().unwrap()[0], 0);
            vec![session.back(&y)]
        },
    );
}

fn scatter(session: &Session, application: &Application) -> (Vec<Tensor>, Vec<u32>) {
    let (inputs, y) = (session.inputs(application), session.outputs(application).swap_remove(0));
    let (base, new, index) = (&inputs[0], &inputs[1], session.dense(&inputs[2]));
    let (rows, n) = base.rows();
    let (source, fault) = (session.zeros(&[rows], DType::U32), session.no_fault());
    let call = session.call("scatter_rows_index").pointers(&[&source, &index, &fault]);
    call.sizes(&[index.count(), rows]).word(NUMBER).word(NUMBER + 1).over(index.count());
    let call =
        session.call(format!("scatter_rows_{}", base.dtype.size())).pointers(&[&y, base, new, &source]);
    call.rows(base).rows(new).size(n).per_row(rows);
    (vec![session.back(&y)], session.back(&fault).to_vec().unwrap())
}

#[test]
fn rows_replaced() {
    property(
        CASES,
        |d| {
            let (rows, n, dtype) = (d.between(1, 9), d.of(&[1, 7, 64, 300]), d.float());
            let m = d.between(1, rows);
            let mut index: Vec<u32> = (0..rows as u32).collect();
            d.rng.shuffle(&mut index);
            let index = Tensor::from_slice(&index[..m], &[m], &Device::cpu()).unwrap();
            let (base, new) = (d.normal(&[rows, n], dtype), d.normal(&[m, n], dtype));
            captured(ScatterRows::NAME, || base.scatter_rows(&new, &index))
        },
        |session, application| {
            let (outputs, fault) = scatter(session, application);
            assert_eq!(fault[0], 0);
            outputs
        },
    );
}

#[test]
fn an_index_that_is_wrong_is_reported() {
    let mut d = Draw::new(4);
    let (base, new) = (d.dense(&[4, 8], DType::F32), d.dense(&[2, 8], DType::F32));
    let index = |index: [u32; 2]| Tensor::from_slice(&index, &[2], &Device::cpu()).unwrap();
    let application = captured(ScatterRows::NAME, || base.scatter_rows(&new, &index([1, 2])));
    let other = |i| application.on(&[base.clone(), new.clone(), index(i)]).unwrap();
    let (unknown, twice) = (other([4, 2]), other([2, 2]));
    check(|session| {
        assert_eq!(scatter(session, &unknown).1, [NUMBER, 0, 4, 0]);
        let fault = scatter(session, &twice).1;
        assert_eq!((fault[0], fault[2]), (NUMBER + 1, 2), "either of the two places");
    });
}

#[test]
fn rotations() {
    property(
        2 * CASES,
        |d| {
            let dims = [d.between(1, 2), d.between(1, 5), d.between(1, 3), 2 * d.of(&[1, 3, 32, 36])];
            let (dtype, kind) = (d.float(), d.of(&[RopeKind::Half, RopeKind::Interleaved]));
            let x = d.normal(&dims, dtype);
            let most = d.of(&[2, 40, 200_000]);
            let positions = d.below(&dims[..2], most);
            let op = Rope { theta: d.of(&[10_000.0, 1e6]), kind, inverse: d.chance() };
            captured(Rope::NAME, || apply_one(op, &[&x, &positions]))
        },
        |session, application| {
            let op = application.op::<Rope>().expect("rope");
            let (inputs, y) = (session.inputs(application), session.outputs(application).swap_remove(0));
            let contiguous = inputs[0].layout.strides[3] == 1;
            let dense = session.dense(&inputs[0]);
            let (x, positions) = (if contiguous { &inputs[0] } else { &dense }, session.dense(&inputs[1]));
            let frequencies = frequencies(session, op.theta, y.dims()[3]);
            let call =
                session.call(format!("rope_{}", x.name())).pointers(&[&y, x, &positions, &frequencies]);
            let call = call.heads(x).sizes(y.dims()).word(u32::from(op.kind == RopeKind::Interleaved));
            call.float(if op.inverse { -1.0 } else { 1.0 }).over(y.count() / 2);
            vec![session.back(&y)]
        },
    );
}

/// `theta^(−2i/D)`, as `engine/src/cpu/rope.rs` makes them.
fn frequencies(session: &Session, theta: f32, d: usize) -> On {
    let power = |i: usize| f64::from(theta).powf(f64::from(2.0 * i as f32 / d as f32)) as f32;
    let frequencies: Vec<f32> = (0..d / 2).map(|i| 1.0 / power(i)).collect();
    session.on(&Tensor::from_slice(&frequencies, &[d / 2], &Device::cpu()).unwrap())
}

#[test]
fn rope_write() {
    property(
        2 * CASES,
        |d| {
            let [b, s, heads, kv] = [d.between(1, 2), d.between(1, 5), d.between(1, 3), d.between(1, 2)];
            let width = 2 * d.of(&[1, 3, 32, 36]);
            let (from, to, kind) = (d.float(), d.float(), d.of(&[RopeKind::Half, RopeKind::Interleaved]));
            let q = d.normal(&[b, s, heads, width], from);
            let [k, v] = [(); 2].map(|()| d.normal(&[b, s, kv, width], from));
            let most = d.of(&[2, 40, 200_000]);
            let positions = d.below(&[b, s], most);
            // As models have it, or with the elements of a head apart.
            let apart = d.chance();
            let mut cache = || {
                let whole = if apart {
                    d.dense(&[b, s + 3, width, kv], to)
                } else {
                    d.dense(&[b, s + 3, kv, width], to)
                };
                let whole = if apart { whole.transpose(2, 3).unwrap() } else { whole };
                whole.narrow(1, 2, s).unwrap()
            };
            let caches = [cache(), cache()];
            let op = RopeWrite { theta: 10_000.0, kind };
            captured(RopeWrite::NAME, || {
                Tensor::rope_write([&q, &k, &v], &positions, [&caches[0], &caches[1]], &op)
            })
        },
        |session, application| {
            let op = application.op::<RopeWrite>().expect("rope_write");
            let all = session.inputs(application);
            let (positions, dims) = (session.dense(&all[6]), all[3].dims());
            let frequencies = frequencies(session, op.theta, dims[3]);
            let call = session.call(format!("rope_write_{}_{}", all[3].name(), all[0].name()));
            let call = call.pointers(&all[..6].iter().chain([&positions, &frequencies]).collect::<Vec<_>>());
            let call = all[..6].iter().fold(call, Call::elements);
            let call = call.sizes(&[dims[0], dims[1], dims[2], all[4].dims()[2], dims[3]]);
            let pairs = all[3].count() / 2 + all[4].count();
            call.word(u32::from(op.kind == RopeKind::Interleaved)).over(pairs);
            session.back_all(&all[..3])
        },
    );
}
