//! Optimiser steps and block-wise codes.

use engine::Codebook;
use engine::ops::{AdamW, AdamW8bit, DequantizeBlockwise, QuantizeBlockwise, Sgd};

use super::values::Values;
use super::{Case, Checked, Failed, Outcome, all, runs, spread};
use crate::tolerance::{Class, Expect, Mismatch};
use crate::{self as oracle, Array};

/// Blocks of a sample.
const BLOCKS: usize = 16;

pub(super) fn check(case: &Case<'_>) -> Option<Outcome> {
    if let Some(op) = case.op::<AdamW>() {
        let count = case.before.len() / 4;
        return Some(all((0..count).map(|i| adamw(case, op, i, count))));
    }
    if let Some(op) = case.op::<Sgd>() {
        return Some(sgd(case, op));
    }
    if let Some(op) = case.op::<AdamW8bit>() {
        let count = case.before.len() / 6;
        return Some(all((0..count).map(|i| adamw8bit(case, &op.0, i, count))));
    }
    if let Some(op) = case.op::<QuantizeBlockwise>() {
        return Some(quantize(case, op));
    }
    case.op::<DequantizeBlockwise>().map(|op| dequantize(case, op))
}

fn hyper(op: &AdamW) -> oracle::AdamW {
    oracle::AdamW {
        lr: op.lr,
        betas: [op.beta1, op.beta2],
        eps: op.eps,
        weight_decay: op.weight_decay,
        step: op.step as i32,
    }
}

/// Parameter number `which` of `parameters`.
fn adamw(case: &Case<'_>, op: &AdamW, which: usize, parameters: usize) -> Outcome {
    let first = 3 * which;
    let at = runs(case.before[first].count());
    let [p, m, v, g] =
        [first, first + 1, first + 2, 3 * parameters + which].map(|i| case.before[i].flat(&at));
    let g = g.map(|g| g * f64::from(op.grad_scale));
    let hyper = hyper(op);
    let step = |i: usize| oracle::adamw(&hyper, [p.data[i], m.data[i], v.data[i]], g.data[i]);
    let of = |which: usize| Array::new(&[at.len()], (0..at.len()).map(|i| step(i)[which]).collect());
    // The moment is a difference of its old value and the gradient; an update that follows from it is off as it is.
    let m_scale = m.zip(&g, |m, g| m.abs() + g.abs());
    let corrections = [op.beta1, op.beta2].map(|b| 1.0 - b.powi(op.step as i32));
    let p_scale = Array::new(
        &[at.len()],
        (0..at.len())
            .map(|i| {
                let [after, _, v] = step(i);
                let denominator = (v / corrections[1]).sqrt() + op.eps;
                2.0 * p.data[i].abs() + after.abs() + op.lr * m_scale.data[i] / corrections[0] / denominator
            })
            .collect(),
    );
    let expect = |i: usize| Expect::new(of(i), case.after[first + i].dtype, Class::Function);
    all([
        case.flat(first, &at, &expect(0).scale(p_scale)),
        case.flat(first + 1, &at, &expect(1).scale(m_scale)),
        case.flat(first + 2, &at, &expect(2)),
    ])
}

fn sgd(case: &Case<'_>, op: &Sgd) -> Outcome {
    let at = runs(case.before[0].count());
    let momentum = op.momentum != 0.0;
    let p = case.before[0].flat(&at);
    let b = if momentum { case.before[1].flat(&at) } else { p.map(|_| 0.0) };
    let g = case.before[1 + usize::from(momentum)].flat(&at).map(|g| g * f64::from(op.grad_scale));
    let step = |i: usize| oracle::sgd(op.lr, op.momentum, op.weight_decay, [p.data[i], b.data[i]], g.data[i]);
    let each = |f: &dyn Fn(usize) -> f64| Array::new(&[at.len()], (0..at.len()).map(f).collect());
    let terms =
        |i: usize| op.momentum * b.data[i].abs() + g.data[i].abs() + op.weight_decay * p.data[i].abs();
    let after = Expect::new(each(&|i| step(i)[0]), case.after[0].dtype, Class::Function)
        .scale(each(&|i| p.data[i].abs() + op.lr * terms(i)));
    let mut outcomes = vec![case.flat(0, &at, &after)];
    if momentum {
        let buffer = Expect::new(each(&|i| step(i)[1]), case.after[1].dtype, Class::Function);
        outcomes.push(case.flat(1, &at, &buffer.scale(each(&terms))));
    }
    all(outcomes)
}

/// Each code must be that of a value nearest to `want`, up to `slack` (both relative to the block's scale).
fn nearest(output: usize, book: Codebook, codes: impl Iterator<Item = (usize, usize, f64, f64)>) -> Outcome {
    let mut checked = Checked::default();
    for (at, code, want, slack) in codes {
        let got = f64::from(book.values()[code]);
        let (off, best) = ((got - want).abs(), oracle::distance(book.values(), want));
        if off > best + slack || off.is_nan() {
            let mismatch = Mismatch { element: at, got, want, off, allowed: best + slack };
            return Err(Failed::Wrong { output, index: vec![at], mismatch });
        }
        checked.elements += 1;
    }
    Ok(checked)
}

/// Row-major numbers of the elements of block `b`.
fn members(b: usize, block: usize, count: usize) -> std::ops::Range<usize> {
    b * block..((b + 1) * block).min(count)
}

/// Parameter number `which` of `parameters`.
fn adamw8bit(case: &Case<'_>, op: &AdamW, which: usize, parameters: usize) -> Outcome {
    let first = 5 * which;
    let count = case.before[first].count();
    let size = oracle::BLOCK;
    let blocks = spread(count.div_ceil(size), BLOCKS);
    let books = [Codebook::Dynamic, Codebook::DynamicUnsigned];
    let corrections = [op.beta1, op.beta2].map(|b| 1.0 - b.powi(op.step as i32));
    let mut outcomes = Vec::new();
    for &b in &blocks {
        let at: Vec<usize> = members(b, size, count).collect();
        let values = |i: usize| case.before[first + i].flat(&at).data;
        let moment = |i: usize| {
            let absmax = [case.before[first + 2 + i].element(b)];
            oracle::decode(books[i - 1].values(), &values(i), &absmax)
        };
        let (p, m, v) = (values(0), moment(1), moment(2));
        // A gradient whose square overflows f32 counts as one that is not finite.
        let sound = |g: f64| if ((g as f32) * (g as f32)).is_finite() { g } else { f64::NAN };
        let g = case.before[5 * parameters + which].flat(&at).data;
        let g: Vec<f64> = g.iter().map(|g| sound(g * f64::from(op.grad_scale))).collect();
        let [want_p, want_m, want_v] = oracle::adamw8bit(&hyper(op), [&p, &m, &v], &g);
        let size_of = |(m, g): (&f64, &f64)| if g.is_nan() { 0.0 } else { m.abs() + g.abs() };
        let m_scale: Vec<f64> = m.iter().zip(&g).map(size_of).collect();
        let around = |i: usize| {
            let denominator = (want_v[i] / corrections[1]).sqrt() + op.eps;
            2.0 * p[i].abs() + want_p[i].abs() + op.lr * m_scale[i] / corrections[0] / denominator
        };
        let p_scale: Vec<f64> = (0..at.len()).map(around).collect();
        let dims = [at.len()];
        let expect = Expect::new(Array::new(&dims, want_p), case.after[first].dtype, Class::Function)
            .scale(Array::new(&dims, p_scale));
        outcomes.push(case.flat(first, &at, &expect));
        for (i, (want, scale)) in [(&want_m, &m_scale), (&want_v, &want_v)].into_iter().enumerate() {
            let most = oracle::absmax(want);
            let expect =
                Expect::new(Array::new(&[1], most.clone()), case.after[first + 3 + i].dtype, Class::Function)
                    .scale(Array::new(&[1], oracle::absmax(scale)));
            outcomes.push(case.flat(first + 3 + i, &[b], &expect));
            let most = case.after[first + 3 + i].element(b);
            if most > 0.0 {
                let codes = case.after[first + 1 + i].flat(&at).data;
                let around = at.iter().enumerate().map(|(j, &at)| {
                    let x = want[j] / most;
                    (at, codes[j] as usize, x, 2f64.powi(-21) * scale[j] / most + 2f64.powi(-22) * x.abs())
                });
                outcomes.push(nearest(first + 1 + i, books[i], around));
            }
        }
    }
    all(outcomes)
}

/// Code number `at`; 4-bit ones lie two to a byte, the even element in the high half.
fn code(codes: &Values, book: Codebook, at: usize) -> usize {
    if book.bits() != 4 {
        return codes.element(at) as usize;
    }
    let byte = codes.element(at / 2) as usize;
    if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}

fn quantize(case: &Case<'_>, op: &QuantizeBlockwise) -> Outcome {
    let count = case.before[0].count();
    let mut outcomes = Vec::new();
    for b in spread(count.div_ceil(op.block), BLOCKS) {
        let at: Vec<usize> = members(b, op.block, count).collect();
        let x = case.before[0].flat(&at).data;
        let most = x.iter().fold(0.0f64, |m, x| m.max(x.abs()));
        let absmax = Expect::new(Array::new(&[1], vec![most]), case.after[1].dtype, Class::Exact);
        outcomes.push(case.flat(1, &[b], &absmax));
        // Midpoints of the table are f32: near one, either neighbour.
        let around = at.iter().zip(&x).map(|(&at, x)| {
            let scaled = if most > 0.0 { (x / most).clamp(-1.0, 1.0) } else { 0.0 };
            (at, code(&case.after[0], op.codebook, at), scaled, 1e-6)
        });
        outcomes.push(nearest(0, op.codebook, around));
    }
    all(outcomes)
}

fn dequantize(case: &Case<'_>, op: &DequantizeBlockwise) -> Outcome {
    let at = runs(case.after[0].count());
    let value = |&i: &usize| {
        let block = i / op.format.block;
        let absmax = case.before[1].element(block);
        let scale = match op.format.nested {
            None => absmax as f32,
            Some(nested) => {
                let second = case.before[2].element(block / nested.block) as f32;
                case.before[3].element(absmax as usize) as f32 * second + nested.offset
            }
        };
        f64::from(op.format.codebook.values()[code(&case.before[0], op.format.codebook, i)] * scale)
    };
    let want = Array::new(&[at.len()], at.iter().map(value).collect());
    case.flat(0, &at, &Expect::new(want, case.after[0].dtype, Class::Arithmetic))
}
