//! Normalisations and their gradients.

use engine::ops::{AddRmsNorm, LayerNorm, LayerNormGrad, RmsNorm, RmsNormGrad};

use super::{Case, Outcome, all, root_sum_squares, spread};
use crate::tolerance::{Class, Expect};
use crate::{self as oracle, Array};

/// Rows of a sample.
const ROWS: usize = 12;
/// Columns of a sample of gradients.
const COLUMNS: usize = 24;
const STEP: f64 = 1e-5;

/// A normalisation of rows without its weight, and the deviation that it divides by.
struct Norm {
    eps: f64,
    centred: bool,
}

impl Norm {
    fn plain(&self, x: &Array) -> Array {
        let one = Array::from_fn(&[x.row_len()], |_| 1.0);
        if self.centred {
            oracle::layer_norm(x, &one, &one.map(|_| 0.0), self.eps)
        } else {
            oracle::rms_norm(x, &one, self.eps)
        }
    }

    fn mean(&self, row: &[f64]) -> f64 {
        if self.centred { row.iter().sum::<f64>() / row.len() as f64 } else { 0.0 }
    }

    fn deviation(&self, row: &[f64]) -> f64 {
        let mean = self.mean(row);
        (row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / row.len() as f64 + self.eps).sqrt()
    }
}

pub(super) fn check(case: &Case<'_>) -> Option<Outcome> {
    if let Some(op) = case.op::<RmsNorm>() {
        let picks = spread(case.after[0].row_count(), ROWS);
        let (x, w) = (case.before[0].rows(&picks), case.before[1].all());
        let want = oracle::rms_norm(&x, &w, f64::from(op.eps));
        let class = Class::Norm(x.row_len());
        return Some(case.rows(0, &picks, &Expect::new(want, case.after[0].dtype, class)));
    }
    if let Some(op) = case.op::<AddRmsNorm>() {
        let picks = spread(case.after[0].row_count(), ROWS);
        let (x, y, w) = (case.before[0].rows(&picks), case.before[1].rows(&picks), case.before[2].all());
        let dtype = case.after[0].dtype;
        let [sum, normed] = oracle::add_rms_norm(&x, &y, &w, f64::from(op.eps), |v| oracle::round(v, dtype));
        let normed = Expect::new(normed, dtype, Class::Norm(x.row_len()));
        let sum = Expect::new(sum, dtype, Class::Arithmetic);
        return Some(all([case.rows(0, &picks, &sum), case.rows(1, &picks, &normed)]));
    }
    if let Some(op) = case.op::<LayerNorm>() {
        let norm = Norm { eps: f64::from(op.eps), centred: true };
        let picks = spread(case.after[0].row_count(), ROWS);
        let (x, w, b) = (case.before[0].rows(&picks), case.before[1].all(), case.before[2].all());
        let want = oracle::layer_norm(&x, &w, &b, norm.eps);
        // What was there before the mean was taken off and the bias put on: their rounding errors stay.
        let plain = norm.plain(&x);
        let n = x.row_len();
        let scale = Array::from_fn(&x.dims, |at| {
            let row = &x.data[at[0] * n..][..n];
            let left = plain.at(at).abs() + norm.mean(row).abs() / norm.deviation(row);
            left * w.data[at[1]].abs() + b.data[at[1]].abs()
        });
        let expect = Expect::new(want, case.after[0].dtype, Class::Norm(n)).scale(scale);
        return Some(case.rows(0, &picks, &expect));
    }
    if let Some(op) = case.op::<RmsNormGrad>() {
        return Some(gradient(case, &Norm { eps: f64::from(op.eps), centred: false }));
    }
    if let Some(op) = case.op::<LayerNormGrad>() {
        return Some(gradient(case, &Norm { eps: f64::from(op.eps), centred: true }));
    }
    None
}

/// Inputs x, w, g; outputs dx, dw and, where the mean is taken off, db.
fn gradient(case: &Case<'_>, norm: &Norm) -> Outcome {
    let w = case.before[1].all();
    let n = w.data.len();
    let picks = spread(case.after[0].row_count(), ROWS / 2);
    let columns = spread(n, COLUMNS);
    let (x, g) = (case.before[0].rows(&picks), case.before[2].rows(&picks));
    // dx by central differences of the oracle through whole rows.
    let mut at = Vec::new();
    let (mut want, mut scale) = (Vec::new(), Vec::new());
    for (r, row) in picks.iter().enumerate() {
        let (x, g) = (&x.data[r * n..][..n], &g.data[r * n..][..n]);
        let largest = g.iter().zip(&w.data).fold(0.0f64, |m, (g, w)| m.max((g * w).abs()));
        for &c in &columns {
            let step = STEP * x[c].abs().max(1.0);
            let moved = |by: f64| {
                let mut x = x.to_vec();
                x[c] += by;
                norm.plain(&Array::new(&[1, n], x))
            };
            let slope = moved(step).zip(&moved(-step), |a, b| a - b);
            let sum = |i: usize| slope.data[i] * g[i] * w.data[i];
            want.push((0..n).map(sum).sum::<f64>() / (2.0 * step));
            scale.push(largest / norm.deviation(x));
            at.push(row * n + c);
        }
    }
    let dims = [at.len()];
    let dx = Expect::new(Array::new(&dims, want), case.after[0].dtype, Class::Gradient(n))
        .scale(Array::new(&dims, scale));
    // dw and db sum over all rows.
    let rows = case.before[0].row_count();
    let (mut dw, mut db) = (vec![Vec::new(); columns.len()], vec![Vec::new(); columns.len()]);
    for row in 0..rows {
        let plain = norm.plain(&case.before[0].rows(&[row]));
        for (i, &c) in columns.iter().enumerate() {
            let g = case.before[2].element(row * n + c);
            dw[i].push(g * plain.data[c]);
            db[i].push(g);
        }
    }
    let sums = |terms: &[Vec<f64>]| {
        let dims = [terms.len()];
        let want = Array::new(&dims, terms.iter().map(|t| t.iter().sum()).collect());
        let scale = terms.iter().map(|t| root_sum_squares(t.iter().copied()) + t.iter().sum::<f64>().abs());
        Expect::new(want, case.after[1].dtype, Class::Gradient(rows))
            .scale(Array::new(&dims, scale.collect()))
    };
    let mut outcomes = vec![case.flat(0, &at, &dx), case.flat(1, &columns, &sums(&dw))];
    if norm.centred {
        outcomes.push(case.flat(2, &columns, &sums(&db)));
    }
    all(outcomes)
}
