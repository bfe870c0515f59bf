//! `cuda/linear_nf4.cu`, `cuda/linear_nf4_grad.cu` and `cuda/lora.cu`, put together as a launcher does.

use engine::ops::{Dropout, LinearNf4, LinearNf4Grad, LinearNf4Group, Lora, LoraTerm};
use engine::{Application, BlockFormat, DType, Op, QuantConfig, Quantized, Rng, Tensor, apply};

use super::call::{Call, Group, Member, On};
use super::draw::{Draw, captured};
use super::quantized::{quantised, table};
use super::{hold, property};
use crate::session::Session;

/// Which rung: any sizes, few rows, tensor cores on small and large tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rung {
    Tile,
    Gemv,
    Decode,
    Gemm,
    Large,
}

/// Low, high, threshold and scale of a dropout; none keeps everything.
fn dropout(call: Call<'_>, dropout: Option<Dropout>) -> Call<'_> {
    let key = dropout.map_or(0, |d| Rng::new(d.seed).bits());
    let (threshold, scale) = dropout.map_or((0, 1.0), |d| (d.threshold(), d.scale()));
    call.word(key as u32).word((key >> 32) as u32).word(threshold).float(scale)
}

/// A factor times `scale` in the products' type, maybe transposed.
fn factor(session: &Session, f: &On, dtype: DType, transposed: bool, scale: f32) -> On {
    let f = session.dense(f);
    let [rows, cols] = [f.dims()[0], f.dims()[1]];
    let dims = if transposed { [cols, rows] } else { [rows, cols] };
    let y = session.output(&dims, dtype);
    // f32 stays or becomes bf16; bf16 stays.
    let call = session.call(format!("lora_factor_{}_{}", f.name(), dtype.name())).pointers(&[&y, &f]);
    call.sizes(&[rows, cols]).word(u32::from(transposed)).float(scale).over(rows * cols);
    y
}

/// dropout(x) · fᵀ
fn down(session: &Session, y: &On, x: &On, f: &On, drop: Option<Dropout>) {
    let (rows, k, rank) = (x.dims()[0], x.dims()[1], f.dims()[0]);
    let call = |kind: &str| {
        let call = session.call(format!("lora_{kind}_{}_{}", f.name(), x.name())).pointers(&[y, x, f]);
        call.sizes(&[rows, k, rank])
    };
    if rows <= 8 && drop.is_none() && k.is_multiple_of(8) {
        return call("thin").launch([rank, 1, 1], [256, 1], 256);
    }
    dropout(call("down"), drop).launch([rows.div_ceil(16), rank.div_ceil(16), 1], [256, 1], 8192);
}

/// y = scale · leftᵀ · dropout(right), maybe transposed.
fn outer(
    session: &Session,
    y: &On,
    [left, right]: [&On; 2],
    drop: Option<Dropout>,
    scale: f32,
    transposed: bool,
) {
    let (k, rank, n, splits) = (left.dims()[0], left.dims()[1], right.dims()[1], 2);
    let parts = session.output(&[splits, rank, n], DType::F32);
    let call = session.call(format!("lora_outer_{}", left.name())).pointers(&[&parts, left, right]);
    let call = dropout(call.sizes(&[k, rank, n, splits]), drop);
    call.launch([n.div_ceil(64), rank.div_ceil(16), splits], [128, 1], 6144);
    let call =
        session.call(format!("lora_sum_{}", y.name())).pointers(&[y, &parts]).sizes(&[rank, n, splits]);
    call.word(u32::from(transposed)).float(scale).over(rank * n);
}

/// y = x · Wᵀ (+ bias) (+ h · (scale · B)ᵀ)
fn product(
    session: &Session,
    rung: Rung,
    y: &On,
    x: &On,
    (format, parts): (&BlockFormat, &[On]),
    bias: Option<&On>,
    lora: Option<(&On, &On, f32)>,
) {
    let (rows, inner, outer) = (x.dims()[0], x.dims()[1], y.dims()[1]);
    let table = table(session, format.codebook);
    let name = match rung {
        Rung::Tile => "tile",
        Rung::Gemv => "gemv",
        Rung::Decode => "decode",
        Rung::Gemm => "gemm",
        Rung::Large => "large",
    };
    let call = session.call(format!("linear_nf4_{name}_{}", x.name())).pointers(&[y, x]);
    let call = quantised(call, format, parts, &table)
        .optional(bias)
        .optional(lora.map(|l| l.0))
        .optional(lora.map(|l| l.1));
    let call = call.blocks(format).sizes(&[rows, outer, inner, lora.map_or(0, |l| l.0.dims()[1])]);
    let wide = lora.is_some_and(|l| l.1.dtype == DType::F32);
    let call = call.word(u32::from(wide)).float(lora.map_or(1.0, |l| l.2));
    match rung {
        Rung::Tile => call.launch([outer.div_ceil(64), rows.div_ceil(64), 1], [256, 1], 16_640),
        Rung::Gemv => call.launch([outer.div_ceil(4), 1, 1], [128, 1], 2048),
        Rung::Decode => call.launch([outer.div_ceil(16), 1, 1], [256, 1], 36_864),
        Rung::Gemm => call.launch([outer.div_ceil(64), rows.div_ceil(64), 1], [128, 1], 30_720),
        Rung::Large => call.launch([outer.div_ceil(128), rows.div_ceil(128), 1], [256, 1], 59_392),
    }
}

fn forward(session: &Session, application: &Application, rung: Rung) -> Vec<Tensor> {
    let op = application.op::<LinearNf4>().expect("linear_nf4");
    let inputs: Vec<On> = application.inputs().iter().map(|t| session.on(t)).collect();
    let outputs = session.outputs(application);
    let x = session.dense(&inputs[0]);
    let parts = if op.format.nested.is_some() { 4 } else { 2 };
    let bias = op.bias.then(|| session.dense(&inputs[1 + parts]));
    let at = 1 + parts + usize::from(op.bias);
    let b = op.lora.map(|term| {
        let a = session.dense(&inputs[at]);
        down(session, &outputs[1], &x, &a, term.dropout);
        (session.dense(&inputs[at + 1]), term.scale)
    });
    let lora = b.as_ref().map(|(b, scale)| (&outputs[1], b, *scale));
    product(session, rung, &outputs[0], &x, (&op.format, &inputs[1..=parts]), bias.as_ref(), lora);
    session.back_all(&outputs)
}

fn backward(session: &Session, application: &Application, rung: Rung) -> Vec<Tensor> {
    let op = application.op::<LinearNf4Grad>().expect("linear_nf4_grad");
    let inputs: Vec<On> = application.inputs().iter().map(|t| session.on(t)).collect();
    let outputs = session.outputs(application);
    let dy = session.dense(&inputs[0]);
    let (rows, outer_size, inner) = (dy.dims()[0], dy.dims()[1], op.inner);
    let parts = if op.format.nested.is_some() { 4 } else { 2 };
    let at = 1 + parts;
    let low = op.lora.map(|term| {
        let a = factor(session, &inputs[at], dy.dtype, false, 1.0);
        let b = factor(session, &inputs[at + 1], dy.dtype, true, term.scale);
        let u = session.output(&[rows, b.dims()[0]], dy.dtype);
        down(session, &u, &dy, &b, None);
        (u, a, term)
    });
    if op.x {
        let table = table(session, op.format.codebook);
        let name = match rung {
            Rung::Tile | Rung::Gemv | Rung::Decode => "tile",
            Rung::Gemm => "mma",
            Rung::Large => "large",
        };
        let call =
            session.call(format!("linear_nf4_grad_{name}_{}", dy.name())).pointers(&[&outputs[0], &dy]);
        let call = quantised(call, &op.format, &inputs[1..=parts], &table);
        let call =
            call.optional(low.as_ref().map(|l| &l.0)).optional(low.as_ref().map(|l| &l.1)).blocks(&op.format);
        let call = call.sizes(&[rows, outer_size, inner, low.as_ref().map_or(0, |l| l.0.dims()[1])]);
        let call = dropout(call, low.as_ref().and_then(|l| l.2.dropout));
        match rung {
            Rung::Tile | Rung::Gemv | Rung::Decode => {
                call.launch([inner.div_ceil(64), rows.div_ceil(64), 1], [256, 1], 16_640);
            }
            Rung::Gemm => call.launch([inner.div_ceil(64), rows.div_ceil(64), 1], [128, 1], 30_720),
            Rung::Large => call.launch([inner.div_ceil(128), rows.div_ceil(128), 1], [256, 1], 59_392),
        }
    }
    if let (true, Some((u, _, term))) = (op.factors, &low) {
        let (x, h) = (session.dense(&inputs[at + 2]), session.dense(&inputs[at + 3]));
        let first = usize::from(op.x);
        outer(session, &outputs[first], [u, &x], term.dropout, 1.0, false);
        outer(session, &outputs[first + 1], [&h, &dy], None, term.scale, true);
    }
    session.back_all(&outputs)
}

fn weight(d: &mut Draw, outer: usize, inner: usize) -> Quantized {
    let codebook = d.of(&[engine::Codebook::Nf4, engine::Codebook::Fp4]);
    let config = QuantConfig { codebook, block: d.of(&[32, 64, 128]), double: d.chance() };
    Quantized::quantize(&d.dense(&[outer, inner], DType::F32), &config).unwrap()
}

fn term(d: &mut Draw) -> LoraTerm {
    let dropout = d.chance().then_some(Dropout { p: 0.3, seed: d.rng.bits() });
    LoraTerm { scale: 0.5, dropout }
}

/// Factors in f32 or the products' type.
fn factors(d: &mut Draw, r: usize, outer: usize, inner: usize, dtype: DType) -> [Tensor; 2] {
    let own = if d.chance() { DType::F32 } else { dtype };
    [d.normal(&[r, inner], own), d.normal(&[outer, r], own)]
}

fn layer(d: &mut Draw, [rows, outer, inner]: [usize; 3], dtype: DType) -> Application {
    let (w, x, bias) = (weight(d, outer, inner), d.normal(&[rows, inner], dtype), d.normal(&[outer], dtype));
    let r = d.of(&[1, 8, 40]);
    let ([a, b], term) = (factors(d, r, outer, inner, dtype), term(d));
    let lora = d.chance().then_some(Lora { a: &a, b: &b, term });
    captured(LinearNf4::NAME, || x.linear_nf4(&w, d.chance().then_some(&bias), lora))
}

fn layer_grad(d: &mut Draw, [rows, outer, inner]: [usize; 3], dtype: DType) -> Application {
    let (w, dy) = (weight(d, outer, inner), d.normal(&[rows, outer], dtype));
    let r = d.of(&[1, 8, 40]);
    let ([a, b], term) = (factors(d, r, outer, inner, dtype), term(d));
    let (x, h) = (d.normal(&[rows, inner], dtype), d.normal(&[rows, r], dtype));
    let (with, factors) = (d.chance(), d.chance());
    let lora = with.then_some(term);
    let format = w.parts().format;
    let factors = with && factors;
    let op = LinearNf4Grad { format, inner, x: true, lora, factors };
    let parts = w.parts();
    let mut inputs = vec![&dy, &parts.codes, &parts.absmax];
    if let Some((second, map)) = &parts.nested {
        inputs.extend([second, map]);
    }
    if with {
        inputs.extend([&a, &b]);
    }
    if factors {
        inputs.extend([&x, &h]);
    }
    captured(LinearNf4Grad::NAME, || apply(op, &inputs))
}

#[test]
fn any_sizes() {
    property(
        10,
        |d| {
            let sizes = [d.of(&[1, 9, 67]), d.of(&[1, 20, 65]), d.of(&[1, 33, 96])];
            let dtype = d.parameter();
            layer(d, sizes, dtype)
        },
        |session, application| forward(session, application, Rung::Tile),
    );
}

#[test]
fn any_sizes_backward() {
    property(
        12,
        |d| {
            let sizes = [d.of(&[1, 9, 67]), d.of(&[1, 20, 65]), d.of(&[1, 33, 96])];
            let dtype = d.parameter();
            layer_grad(d, sizes, dtype)
        },
        |session, application| backward(session, application, Rung::Tile),
    );
}

#[test]
fn few_rows() {
    property(
        10,
        |d| {
            // Rows that begin at 16 bytes of codes, and at 8.
            let sizes = [d.between(1, 8), d.between(1, 9), d.of(&[16, 64, 48, 1104, 1152])];
            let dtype = d.parameter();
            layer(d, sizes, dtype)
        },
        |session, application| forward(session, application, Rung::Gemv),
    );
}

#[test]
fn few_rows_on_matrix_units() {
    property(
        10,
        |d| {
            let sizes = [d.between(1, 8), d.of(&[1, 16, 21, 40]), d.of(&[32, 96, 256, 2080, 2304])];
            layer(d, sizes, DType::BF16)
        },
        |session, application| forward(session, application, Rung::Decode),
    );
}

#[test]
fn matrix_units() {
    let make = |seed: u64, rows: &[usize], others: &[usize]| {
        let d = &mut Draw::new(seed);
        let sizes = [d.of(rows), d.of(others), d.of(&[16, 96, 80])];
        layer(d, sizes, DType::BF16)
    };
    let small = (0..8).map(|seed| (make(seed, &[1, 9, 70], &[3, 70]), Rung::Gemm));
    let large = (0..4).map(|seed| (make(seed, &[9, 140], &[70, 130]), Rung::Large));
    let cases: Vec<_> = small.chain(large).collect();
    hold(&cases, |session, application, rung| forward(session, application, *rung));
}

#[test]
fn matrix_units_backward() {
    let make = |seed: u64, rows: &[usize], inner: &[usize]| {
        let d = &mut Draw::new(seed);
        let sizes = [d.of(rows), d.of(&[8, 72]), d.of(inner)];
        layer_grad(d, sizes, DType::BF16)
    };
    let small = (0..8).map(|seed| (make(seed, &[1, 9, 70], &[16, 80]), Rung::Gemm));
    let large = (0..4).map(|seed| (make(seed, &[9, 140], &[80, 144]), Rung::Large));
    let cases: Vec<_> = small.chain(large).collect();
    hold(&cases, |session, application, rung| backward(session, application, *rung));
}

fn group(d: &mut Draw, count: usize, dtype: DType) -> Application {
    let (rows, inner) = (d.between(1, 3), d.of(&[64, 320]));
    let x = d.normal(&[rows, inner], dtype);
    let weights: Vec<_> = (0..count)
        .map(|_| {
            let outer = d.between(1, 40);
            weight(d, outer, inner)
        })
        .collect();
    let weights: Vec<_> = weights.iter().collect();
    captured(LinearNf4Group::NAME, || x.linear_nf4_group(&weights))
}

/// Each weight with its tensors.
fn members(op: &LinearNf4Group) -> impl Iterator<Item = (&BlockFormat, usize, std::ops::Range<usize>)> {
    op.weights.iter().scan(1, |next, (format, outer)| {
        let start = *next;
        *next += if format.nested.is_some() { 4 } else { 2 };
        Some((format, *outer, start..*next))
    })
}

#[test]
fn several_weights() {
    property(
        4,
        |d| {
            let dtype = d.parameter();
            group(d, 3, dtype)
        },
        |session, application| {
            let op = application.op::<LinearNf4Group>().expect("linear_nf4_group");
            let inputs: Vec<On> = application.inputs().iter().map(|t| session.on(t)).collect();
            let (x, outputs) = (session.dense(&inputs[0]), session.outputs(application));
            for ((format, _, parts), y) in members(op).zip(&outputs) {
                product(session, Rung::Gemv, y, &x, (format, &inputs[parts]), None, None);
            }
            session.back_all(&outputs)
        },
    );
}

#[test]
fn several_weights_in_one_launch() {
    property(
        6,
        |d| {
            let count = d.between(1, 4);
            group(d, count, DType::BF16)
        },
        |session, application| {
            let op = application.op::<LinearNf4Group>().expect("linear_nf4_group");
            let inputs: Vec<On> = application.inputs().iter().map(|t| session.on(t)).collect();
            let (x, outputs) = (session.dense(&inputs[0]), session.outputs(application));
            let tables: Vec<On> =
                op.weights.iter().map(|(format, _)| table(session, format.codebook)).collect();
            let mut group = Group::default();
            let mut blocks = 0;
            for (i, (format, outer, parts)) in members(op).enumerate() {
                group.members[i] =
                    Member::new(&outputs[i], &inputs[parts], &tables[i], format, [outer, blocks]);
                blocks += outer.div_ceil(16);
            }
            let call = session.call("linear_nf4_group_decode_bf16").pointers(&[&x]).group(&group);
            let call = call.sizes(&[op.weights.len(), x.dims()[0], x.dims()[1]]);
            call.launch([blocks, 1, 1], [256, 1], 36_864);
            session.back_all(&outputs)
        },
    );
}
