//! `cuda/matmul.cu`.

use engine::ops::MatMul;
use engine::{Application, DType, Op, Tensor, apply_one};

use super::call::{On, View};
use super::draw::{Draw, captured};
use super::{hold, property};
use crate::session::Session;

/// Strides of the last two dimensions, and a view of those before.
fn matrix(x: &On) -> ([u32; 2], View) {
    let rank = x.dims().len();
    let strides = &x.layout.strides;
    (
        [strides[rank - 2] as u32, strides[rank - 1] as u32],
        View::of(&x.dims()[..rank - 2], &strides[..rank - 2]),
    )
}

/// A rung of the ladder, with what it takes for strides and how it is launched.
#[derive(Clone, Copy, Debug)]
enum Rung {
    Tile,
    Gemv,
    Mma,
    Large,
    Wgmma,
    Wide,
}

fn matmul(session: &Session, application: &Application, rung: Rung) -> Vec<Tensor> {
    let y = session.outputs(application).swap_remove(0);
    // Aligned: what the launcher makes sure of for all rungs but the first.
    let lead = usize::from(matches!(rung, Rung::Tile));
    let inputs: Vec<On> = application.inputs().iter().map(|t| session.on_after(t, lead)).collect();
    let (a, b) = (&inputs[0], &inputs[1]);
    let bias = inputs.get(2).map(|bias| session.dense(bias));
    let rank = y.dims().len();
    let (m, n, k) = (y.dims()[rank - 2], y.dims()[rank - 1], a.dims()[rank - 1]);
    let batch: usize = y.dims()[..rank - 2].iter().product();
    let (([a_row, a_col], a_batch), ([b_row, b_col], b_batch)) = (matrix(a), matrix(b));
    let a_along = a_col == 1;
    let b_along = b_row == 1 && (b_col != 1 || k == 1);
    let orders = format!("{}{}", if a_along { "n" } else { "t" }, if b_along { "t" } else { "n" });
    let name = match rung {
        Rung::Tile => format!("matmul_tile_{}_{}", a.name(), y.name()),
        Rung::Gemv => format!("matmul_gemv_{}_{}", a.name(), y.name()),
        Rung::Mma => format!("matmul_mma_{orders}_{}", y.name()),
        Rung::Large => format!("matmul_large_{orders}_{}", y.name()),
        Rung::Wgmma => format!("matmul_wgmma_{orders}_{}", y.name()),
        Rung::Wide => format!("matmul_wide_{orders}_{}", y.name()),
    };
    let call = session.call(name).pointers(&[&y, a, b]).optional(bias.as_ref());
    let call = call.view_of(a_batch).view_of(b_batch).sizes(&[batch, m, n, k]);
    let tiles = |size: usize| [n.div_ceil(size), m.div_ceil(size), batch];
    let ldb = if b_along { b_col } else { b_row };
    let lda = if a_along { a_row } else { a_col };
    match rung {
        Rung::Tile => {
            call.word(a_row).word(a_col).word(b_row).word(b_col).launch(tiles(64), [256, 1], 16_640);
        }
        Rung::Gemv => call.word(a_row).word(b_col).launch([n.div_ceil(4), batch, 1], [128, 1], 0),
        Rung::Mma => call.word(lda).word(ldb).launch(tiles(64), [128, 1], 30_720),
        Rung::Large => call.word(lda).word(ldb).launch(tiles(128), [256, 1], 61_440),
        Rung::Wgmma => call.word(lda).word(ldb).launch(tiles(128), [256, 1], 131_072),
        Rung::Wide => {
            let grid = [n.div_ceil(256), m.div_ceil(128), batch];
            call.word(lda).word(ldb).launch(grid, [256, 1], 196_608);
        }
    }
    vec![session.back(&y)]
}

fn product(a: &Tensor, b: &Tensor, bias: Option<&Tensor>, out: DType) -> Application {
    let inputs: Vec<&Tensor> = [a, b].into_iter().chain(bias).collect();
    captured(MatMul::NAME, || apply_one(MatMul { out }, &inputs))
}

#[test]
fn any_strides() {
    property(
        24,
        |d| {
            let (dtype, out, batch) = (d.parameter(), d.parameter(), {
                let rank = d.rng.below(3);
                d.dims(rank, 2)
            });
            let (m, n, k) = (d.of(&[1, 5, 70]), d.of(&[1, 9, 65]), d.of(&[1, 16, 37]));
            let a = d.normal(&[&batch[..], &[m, k]].concat(), dtype);
            let b = d.normal(&[&batch[..], &[k, n]].concat(), dtype);
            let bias = d.normal(&[n], dtype);
            product(&a, &b, d.chance().then_some(&bias), out)
        },
        |session, application| matmul(session, application, Rung::Tile),
    );
}

#[test]
fn few_rows() {
    property(
        12,
        |d| {
            let (dtype, out, batch) = (d.parameter(), d.parameter(), d.between(1, 2));
            let (m, n, k) = (d.between(1, 8), d.between(1, 9), d.of(&[8, 264, 600]));
            let (a, w) = (d.dense(&[batch, m, k], dtype), d.dense(&[batch, n, k], dtype));
            let bias = d.normal(&[n], dtype);
            product(&a, &w.t().unwrap(), d.chance().then_some(&bias), out)
        },
        |session, application| matmul(session, application, Rung::Gemv),
    );
}

/// Operands in both orders, of sizes that fill no tile; lines that lie across are multiples of 8, and so is K elsewhere.
fn tensor_cores(seed: u64, sizes: &[usize]) -> Application {
    let d = &mut Draw::new(seed);
    let (a_along, b_along) = (seed & 1 == 0, seed & 2 == 0);
    let whole = |d: &mut Draw, along: bool| if along { d.of(sizes) } else { d.of(sizes).next_multiple_of(8) };
    let (m, n) = (whole(d, a_along), whole(d, b_along));
    let k = if a_along || b_along { d.of(&[8, 40, 96]) } else { d.of(&[3, 33, 96]) };
    let batch = d.between(1, 2);
    let mut operand = |along: bool, lines: usize| {
        if along {
            d.dense(&[batch, lines, k], DType::BF16)
        } else {
            d.dense(&[batch, k, lines], DType::BF16).t().unwrap()
        }
    };
    let (a, b) = (operand(a_along, m), operand(b_along, n).t().unwrap());
    let (bias, out) = (d.normal(&[n], DType::BF16), d.parameter());
    product(&a, &b, d.chance().then_some(&bias), out)
}

#[test]
fn matrix_units() {
    let small = (0..12).map(|seed| (tensor_cores(seed, &[1, 9, 70, 130]), Rung::Mma));
    let large = (0..8).map(|seed| (tensor_cores(seed, &[60, 131]), Rung::Large));
    let cases: Vec<_> = small.chain(large).collect();
    hold(&cases, |session, application, rung| matmul(session, application, *rung));
}

/// Hopper's: all orders, fewer and more steps of 64 than there are stages, and sizes that fill no tile.
#[test]
fn warpgroups() {
    let one = (0..8).map(|seed| (tensor_cores(seed, &[60, 131]), Rung::Wgmma));
    let wide = (0..8).map(|seed| (tensor_cores(seed + 8, &[60, 261]), Rung::Wide));
    let long = (0..4).map(|seed| (deep(seed), if seed % 2 == 0 { Rung::Wgmma } else { Rung::Wide }));
    let cases: Vec<_> = one.chain(wide).chain(long).collect();
    hold(&cases, |session, application, rung| {
        if session.has("matmul_wgmma_nt_f32") {
            return matmul(session, application, *rung);
        }
        // A GPU of another generation.
        matmul(session, application, Rung::Large)
    });
}

/// K of seven steps and a rest.
fn deep(seed: u64) -> Application {
    let d = &mut Draw::new(seed);
    let (a, b) = (d.dense(&[1, 70, 456], DType::BF16), d.dense(&[1, 40, 456], DType::BF16));
    product(&a, &b.t().unwrap(), None, DType::F32)
}
