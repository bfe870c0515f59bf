//! Operations whose output elements depend on the input elements at one place, or are moved from one.

use engine::ops::{
    Affine, Binary, BinaryKind, Burst, Cast, Concat, Dropout, GatedSilu, GatedSiluGrad, Gelu, GeluGrad,
    Unary, UnaryKind, Write,
};

use super::{Case, Outcome, all, runs, unravel};
use crate::tolerance::{Class, Expect};
use crate::{self as oracle, Array};

/// Step of central differences, relative for |x| > 1.
const STEP: f64 = 1e-5;

/// Derivative of an elementwise function of the oracle.
fn slope(x: &Array, f: impl Fn(&Array) -> Array) -> Array {
    let step = x.map(|x| STEP * x.abs().max(1.0));
    let (above, below) = (f(&x.zip(&step, |x, h| x + h)), f(&x.zip(&step, |x, h| x - h)));
    above.zip(&below, |a, b| a - b).zip(&step, |d, h| d / (2.0 * h))
}

pub(super) fn check(case: &Case<'_>) -> Option<Outcome> {
    let at = runs(case.after.first()?.count());
    let dtype = case.after[0].dtype;
    let input = |i: usize| case.before[i].flat(&at);
    let one = |expect: &Expect| Some(case.flat(0, &at, expect));
    let abs = |x: &Array| x.map(f64::abs);

    if let Some(op) = case.op::<Affine>() {
        let (x, m, a) = (input(0), f64::from(op.mul), f64::from(op.add));
        let expect = Expect::new(oracle::affine(&x, m, a), dtype, Class::Arithmetic);
        return one(&expect.scale(x.map(|x| (m * x).abs() + a.abs())));
    }
    if let Some(&op) = case.op::<Burst>() {
        if let Burst::Read { sums } = op {
            let picks: Vec<usize> = at.iter().copied().take(64).collect();
            let each = case.before[0].count() / sums;
            let terms: Vec<usize> = (0..each).flat_map(|i| picks.iter().map(move |j| j + i * sums)).collect();
            let (x, op) = (case.before[0].flat(&terms), Burst::Read { sums: picks.len() });
            let want = Expect::new(oracle::burst(op, &x, None), dtype, Class::Sum(each));
            return Some(case.flat(0, &picks, &want.scale(oracle::burst_scale(op, &x, None))));
        }
        let (x, c) = (input(0), (op == Burst::Triad).then(|| input(1)));
        let terms = if let Burst::Products { rounds } = op { rounds } else { 16 };
        let want = Expect::new(oracle::burst(op, &x, c.as_ref()), dtype, Class::Sum(terms));
        return one(&want.scale(oracle::burst_scale(op, &x, c.as_ref())));
    }
    if let Some(op) = case.op::<Binary>() {
        let meaning = |a: f64, b: f64| match op.kind {
            BinaryKind::Add => a + b,
            BinaryKind::Sub => a - b,
            BinaryKind::Mul => a * b,
            BinaryKind::Div => a / b,
        };
        return one(&Expect::new(input(0).zip(&input(1), meaning), dtype, Class::Arithmetic));
    }
    if let Some(op) = case.op::<Unary>() {
        let class = match op.kind {
            UnaryKind::Relu | UnaryKind::Step => Class::Exact,
            UnaryKind::Sqrt => Class::Arithmetic,
            _ => Class::Function,
        };
        return one(&Expect::new(oracle::unary(&input(0), op.kind), dtype, class));
    }
    if case.op::<Cast>().is_some() {
        return one(&Expect::new(input(0), dtype, Class::Exact));
    }
    if case.op::<Write>().is_some() {
        return one(&Expect::new(input(1), dtype, Class::Exact));
    }
    if let Some(op) = case.op::<Dropout>() {
        let kept = |i: usize| if op.keeps(i as u32) { f64::from(op.scale()) } else { 0.0 };
        let factors = Array::new(&[at.len()], at.iter().map(|&i| kept(i)).collect());
        return one(&Expect::new(input(0).zip(&factors, |x, f| x * f), dtype, Class::Arithmetic));
    }
    if let Some(op) = case.op::<Gelu>() {
        let x = input(0);
        return one(&Expect::new(oracle::gelu(&x, op.kind), dtype, Class::Function).scale(abs(&x)));
    }
    if let Some(op) = case.op::<GeluGrad>() {
        let (x, g) = (input(0), input(1));
        let want = slope(&x, |x| oracle::gelu(x, op.kind)).zip(&g, |s, g| s * g);
        return one(&Expect::new(want, dtype, Class::Gradient(1)).scale(abs(&g)));
    }
    if case.op::<GatedSilu>().is_some() {
        return one(&Expect::new(oracle::gated_silu(&input(0), &input(1)), dtype, Class::Function));
    }
    if case.op::<GatedSiluGrad>().is_some() {
        let (gate, up, g) = (input(0), input(1), input(2));
        let one = gate.map(|_| 1.0);
        let product = |a: &Array, b: &Array| a.zip(b, |a, b| a * b);
        let (gu, silu) = (product(&g, &up), oracle::gated_silu(&gate, &one));
        let dgate = product(&gu, &slope(&gate, |x| oracle::gated_silu(x, &one)));
        let dgate = Expect::new(dgate, dtype, Class::Gradient(1)).scale(abs(&gu));
        let dup = Expect::new(product(&g, &silu), case.after[1].dtype, Class::Gradient(1));
        return Some(all([case.flat(0, &at, &dgate), case.flat(1, &at, &dup)]));
    }
    if let Some(op) = case.op::<Concat>() {
        let from = |i: usize| {
            let mut index = unravel(i, &case.after[0].dims);
            for part in &case.before {
                if index[op.axis] < part.dims[op.axis] {
                    return part.at(&index);
                }
                index[op.axis] -= part.dims[op.axis];
            }
            f64::NAN
        };
        let want = Array::new(&[at.len()], at.iter().map(|&i| from(i)).collect());
        return one(&Expect::new(want, dtype, Class::Exact));
    }
    None
}
