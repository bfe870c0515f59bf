//! Operations on rows, and those that choose them.

use engine::ops::{
    Argmax, CrossEntropy, CrossEntropyGrad, Embedding, EmbeddingGrad, Reduce, ReduceKind, Rope, RopeKind,
    RopeWrite, ScatterRows, TopK,
};

use super::{Case, Outcome, all, root_sum_squares, spread, unravel, whole};
use crate::tolerance::{Class, Expect};
use crate::{self as oracle, Array};

/// Rows of a sample.
const ROWS: usize = 16;

/// Twice the largest of each row: an element and its partner.
fn turned_scale(x: &Array) -> Array {
    x.map_rows(|row| vec![2.0 * row.iter().fold(0.0f64, |m, x| m.max(x.abs())); row.len()])
}

/// Targets rotated, keys and values; inputs q, k, v and positions.
fn rope_write(case: &Case<'_>, op: &RopeWrite) -> Outcome {
    let d = &case.before[0].dims;
    let tokens = [spread(d[0], 2), spread(d[1], ROWS)];
    let picks = |i: usize| {
        let d = &case.before[i].dims;
        [tokens[0].clone(), tokens[1].clone(), spread(d[2], 4), whole(d[3])]
    };
    let [q, k, v] = [3, 4, 5].map(|i| case.before[i].block(&picks(i)));
    let positions = case.before[6].block(&tokens);
    let want = oracle::rope_write([&q, &k, &v], &positions, op.theta, op.kind == RopeKind::Half);
    let (from, to) = (case.before[3].dtype, case.after[0].dtype);
    // Rounded to both types.
    let coarser = if oracle::unit_roundoff(from) > oracle::unit_roundoff(to) { from } else { to };
    let [turned_q, turned_k, copied] = want;
    all([
        case.block(0, &picks(0), &Expect::new(turned_q, coarser, Class::Rotation).scale(turned_scale(&q))),
        case.block(1, &picks(1), &Expect::new(turned_k, coarser, Class::Rotation).scale(turned_scale(&k))),
        case.block(2, &picks(2), &Expect::new(copied, to, Class::Exact)),
    ])
}

pub(super) fn check(case: &Case<'_>) -> Option<Outcome> {
    let dtype = case.after.first()?.dtype;
    if case.op::<Argmax>().is_some() {
        let picks = spread(case.before[0].row_count(), ROWS);
        let (_, places) = oracle::top_k(&case.before[0].rows(&picks), 1);
        let places = places.reshape(&[picks.len()]);
        return Some(case.flat(0, &picks, &Expect::new(places, dtype, Class::Exact)));
    }
    if let Some(op) = case.op::<TopK>() {
        let picks = spread(case.before[0].row_count(), ROWS);
        let (values, places) = oracle::top_k(&case.before[0].rows(&picks), op.k);
        let exact = |values, i: usize| Expect::new(values, case.after[i].dtype, Class::Exact);
        return Some(all([case.rows(0, &picks, &exact(values, 0)), case.rows(1, &picks, &exact(places, 1))]));
    }
    if let Some(op) = case.op::<CrossEntropy>() {
        let picks = spread(case.before[0].dims[0], ROWS);
        let labels = case.before[1].flat(&picks);
        let ignored = f64::from(op.ignore);
        let labels: Vec<_> = labels.data.iter().map(|&l| (l != ignored).then_some(l as usize)).collect();
        let (loss, lse) = oracle::cross_entropy(&case.before[0].rows(&picks), &labels);
        // The loss is a difference of the log-sum-exp and a logit.
        let scale = loss.zip(&lse, |a, b| a.abs() + b.abs() + 1.0);
        let expect = |want: Array, i: usize| {
            Expect::new(want, case.after[i].dtype, Class::Function).scale(scale.clone())
        };
        return Some(all([case.flat(0, &picks, &expect(loss, 0)), case.flat(1, &picks, &expect(lse, 1))]));
    }
    if let Some(op) = case.op::<CrossEntropyGrad>() {
        let picks = spread(case.before[0].dims[0], ROWS / 2);
        let logits = case.before[0].rows(&picks);
        let of_row = |i: usize, r: usize| case.before[i].element(picks[r]);
        let mut scale = logits.clone();
        let mut want = logits.clone();
        let v = logits.row_len();
        for (i, &x) in logits.data.iter().enumerate() {
            let (label, lse, g) = (of_row(1, i / v), of_row(2, i / v), of_row(3, i / v));
            let counts = label != f64::from(op.ignore);
            let hit = f64::from(u8::from(label == (i % v) as f64));
            let p = (x - lse).exp();
            want.data[i] = if counts { g * (p - hit) } else { 0.0 };
            // The exponent is a difference of two f32.
            scale.data[i] = g.abs() * (p * (1.0 + x.abs() + lse.abs()) + hit);
        }
        let expect = Expect::new(want, dtype, Class::Function).scale(scale);
        return Some(case.rows(0, &picks, &expect));
    }
    if let Some(op) = case.op::<Rope>() {
        let d = &case.before[0].dims;
        let picks = [spread(d[0], 2), spread(d[1], ROWS), spread(d[2], 4), whole(d[3])];
        let x = case.before[0].block(&picks);
        // Back is forward at the negative position.
        let sign = if op.inverse { -1.0 } else { 1.0 };
        let positions = case.before[1].block(&picks[..2]).map(|p| sign * p);
        let want = oracle::rope(&x, &positions, op.theta, op.kind == RopeKind::Half);
        let expect = Expect::new(want, dtype, Class::Rotation).scale(turned_scale(&x));
        return Some(case.block(0, &picks, &expect));
    }
    if let Some(op) = case.op::<RopeWrite>() {
        return Some(rope_write(case, op));
    }
    if case.op::<Embedding>().is_some() {
        let picks = spread(case.before[1].count(), ROWS);
        let ids: Vec<usize> = picks.iter().map(|&i| case.before[1].element(i) as usize).collect();
        let want = case.before[0].rows(&ids);
        return Some(case.rows(0, &picks, &Expect::new(want, dtype, Class::Exact)));
    }
    if case.op::<EmbeddingGrad>().is_some() {
        return Some(embedding_grad(case));
    }
    if case.op::<ScatterRows>().is_some() {
        let index = case.before[2].all();
        let mut picks = spread(case.before[0].dims[0], ROWS);
        picks.extend(spread(index.data.len(), ROWS).iter().map(|&j| index.data[j] as usize));
        let n = case.before[0].row_len();
        let data = picks.iter().flat_map(|&row| match index.data.iter().position(|&i| i as usize == row) {
            Some(j) => case.before[1].rows(&[j]).data,
            None => case.before[0].rows(&[row]).data,
        });
        let want = Array::new(&[picks.len(), n], data.collect());
        return Some(case.rows(0, &picks, &Expect::new(want, dtype, Class::Exact)));
    }
    case.op::<Reduce>().map(|op| reduce(case, op))
}

/// Rows of the table that ids name, and others, which stay 0.
fn embedding_grad(case: &Case<'_>) -> Outcome {
    let ids = case.before[0].all();
    let rows = case.after[0].dims[0];
    let mut picks: Vec<usize> = spread(ids.data.len(), ROWS).iter().map(|&j| ids.data[j] as usize).collect();
    picks.extend(spread(rows, ROWS));
    picks.sort_unstable();
    picks.dedup();
    let n = case.after[0].row_len();
    let (mut want, mut scale, mut most) = (Vec::new(), Vec::new(), 1);
    for &row in &picks {
        let places: Vec<usize> = (0..ids.data.len()).filter(|&j| ids.data[j] as usize == row).collect();
        let terms = case.before[1].rows(&places);
        most = most.max(places.len());
        for c in 0..n {
            let column = || (0..places.len()).map(|j| terms.data[j * n + c]);
            want.push(column().sum());
            scale.push(column().map(f64::abs).sum());
        }
    }
    let dims = [picks.len(), n];
    let expect = Expect::new(Array::new(&dims, want), case.after[0].dtype, Class::Sum(most));
    case.rows(0, &picks, &expect.scale(Array::new(&dims, scale)))
}

/// Some outputs, each from all that it reduces.
fn reduce(case: &Case<'_>, op: &Reduce) -> Outcome {
    let (x, out) = (&case.before[0], &case.after[0]);
    let at = spread(out.count(), 4 * ROWS);
    let reduced = |axis: usize| op.axes & (1 << axis) != 0;
    let terms: usize = x.dims.iter().enumerate().filter(|(i, _)| reduced(*i)).map(|(_, d)| d).product();
    let (mut want, mut scale) = (Vec::new(), Vec::new());
    for &i in &at {
        let index = unravel(i, &out.dims);
        let picks: Vec<Vec<usize>> = (x.dims.iter().zip(&index).enumerate())
            .map(|(axis, (&d, &i))| if reduced(axis) { whole(d) } else { vec![i] })
            .collect();
        let values = x.block(&picks).data;
        let over = 1.0 / terms as f64;
        let (sum, abs) = (values.iter().sum::<f64>(), values.iter().map(|x| x.abs()).sum::<f64>());
        let squares = root_sum_squares(values.iter().copied()).powi(2);
        let most = values.iter().fold(f64::NEG_INFINITY, |a, &b| if a.is_nan() || a > b { a } else { b });
        let (value, around) = match op.kind {
            ReduceKind::Sum => (sum, abs),
            ReduceKind::Mean => (sum * over, abs * over),
            ReduceKind::SumSquares => (squares, squares),
            ReduceKind::Max => (most, most.abs()),
        };
        want.push(value);
        scale.push(around);
    }
    let class = if op.kind == ReduceKind::Max { Class::Exact } else { Class::Sum(terms) };
    let dims = [at.len()];
    let expect = Expect::new(Array::new(&dims, want), out.dtype, class).scale(Array::new(&dims, scale));
    case.flat(0, &at, &expect)
}
