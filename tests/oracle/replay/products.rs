//! Matrix products, of dense and of 4-bit weights.

use engine::ops::{LinearNf4, LinearNf4Grad, LinearNf4Group, LoraTerm, MatMul};
use engine::{BlockFormat, DType};

use super::values::Values;
use super::{Case, Outcome, all, root_sum_squares, spread, unravel, whole};
use crate::tolerance::{Class, Expect};
use crate::{self as oracle, Array, round};

/// Multiply-adds that one block of a sample may take: a few tenths of a second.
const BUDGET: usize = 4_000_000;
/// Whole rows, or columns, of a sample.
const LINES: usize = 4;

pub(super) fn check(case: &Case<'_>) -> Option<Outcome> {
    if case.op::<MatMul>().is_some() {
        return Some(matmul(case));
    }
    if let Some(op) = case.op::<LinearNf4>() {
        return Some(linear_nf4(case, op));
    }
    if let Some(op) = case.op::<LinearNf4Group>() {
        return Some(linear_nf4_group(case, op));
    }
    case.op::<LinearNf4Grad>().map(|op| linear_nf4_grad(case, op))
}

/// A few rows over many columns and a few columns over many rows, of an output `[m, n]` whose elements sum `k` terms:
/// every tile of a kernel is crossed.
fn crosses(m: usize, n: usize, k: usize) -> [(Vec<usize>, Vec<usize>); 2] {
    let many = |lines: usize| (BUDGET / (k.max(1) * lines)).max(8);
    let (rows, columns) = (spread(m, LINES), spread(n, LINES));
    let (across, down) = (spread(n, many(rows.len())), spread(m, many(columns.len())));
    [(rows, across), (down, columns)]
}

fn matmul(case: &Case<'_>) -> Outcome {
    let (a, b, out) = (&case.before[0], &case.before[1], &case.after[0]);
    let lead = a.dims.len() - 2;
    let (m, k, n) = (a.dims[lead], a.dims[lead + 1], b.dims[lead + 1]);
    let batches: usize = a.dims[..lead].iter().product();
    let abs = |x: &Array| x.map(f64::abs);
    all(spread(batches, 2).into_iter().flat_map(|batch| {
        let at = unravel(batch, &a.dims[..lead]);
        let before = move |last: [&[usize]; 2]| -> Vec<Vec<usize>> {
            at.iter().map(|&i| vec![i]).chain(last.map(<[usize]>::to_vec)).collect()
        };
        crosses(m, n, k).map(|(rows, columns)| {
            let flat = |x: Array, dims: [usize; 2]| x.reshape(&dims);
            let a = flat(a.block(&before([&rows, &whole(k)])), [rows.len(), k]);
            let b = flat(b.block(&before([&whole(k), &columns])), [k, columns.len()]);
            let bias = case.before.get(2).map(|bias| bias.flat(&columns));
            let want = oracle::matmul(&a, &b, bias.as_ref());
            let scale = oracle::matmul(&abs(&a), &abs(&b), bias.as_ref().map(abs).as_ref());
            let picks = before([&rows, &columns]);
            let sizes: Vec<usize> = picks.iter().map(Vec::len).collect();
            let expect = Expect::new(want.reshape(&sizes), out.dtype, Class::Sum(k));
            case.block(0, &picks, &expect.scale(scale.reshape(&sizes)))
        })
    }))
}

/// A 4-bit weight `[rows, columns]` as the products see it: `table[code]·scale` in f32, rounded once (spec qlora §1.3,
/// §2).
struct Weight<'a> {
    format: BlockFormat,
    tensors: &'a [Values],
    columns: usize,
    dtype: DType,
}

impl Weight<'_> {
    fn at(&self, row: usize, column: usize) -> f64 {
        let at = row * self.columns + column;
        let byte = self.tensors[0].element(at / 2) as usize;
        let code = if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        let block = at / self.format.block;
        let absmax = self.tensors[1].element(block);
        let scale = match self.format.nested {
            None => absmax as f32,
            Some(nested) => {
                let second = self.tensors[2].element(block / nested.block) as f32;
                self.tensors[3].element(absmax as usize) as f32 * second + nested.offset
            }
        };
        round(f64::from(self.format.codebook.values()[code] * scale), self.dtype)
    }

    /// The weight's own tensors among the inputs after the first.
    fn count(format: &BlockFormat) -> usize {
        if format.nested.is_some() { 4 } else { 2 }
    }
}

/// What dropout makes of an element of `x [rows, columns]`.
fn dropped(term: &LoraTerm, x: f64, row: usize, column: usize, columns: usize) -> f64 {
    match &term.dropout {
        Some(dropout) if dropout.keeps((row * columns + column) as u32) => x * f64::from(dropout.scale()),
        Some(_) => 0.0,
        None => x,
    }
}

/// Sums of terms at chosen places of a matrix, with the size of their rounding errors.
fn sums(
    rows: &[usize],
    columns: &[usize],
    dtype: DType,
    class: Class,
    terms: impl Fn(usize, usize) -> Vec<f64>,
) -> Expect {
    let dims = [rows.len(), columns.len()];
    let (mut want, mut scale) = (Vec::new(), Vec::new());
    for &r in rows {
        for &c in columns {
            let terms = terms(r, c);
            let sum: f64 = terms.iter().sum();
            want.push(sum);
            scale.push(match class {
                Class::Sum(_) => terms.iter().map(|t| t.abs()).sum(),
                _ => root_sum_squares(terms.into_iter()) + sum.abs(),
            });
        }
    }
    Expect::new(Array::new(&dims, want), dtype, class).scale(Array::new(&dims, scale))
}

fn linear_nf4(case: &Case<'_>, op: &LinearNf4) -> Outcome {
    let x = &case.before[0];
    let (m, k) = (x.dims[0], x.dims[1]);
    let count = Weight::count(&op.format);
    let weight = Weight { format: op.format, tensors: &case.before[1..=count], columns: k, dtype: x.dtype };
    let bias = op.bias.then(|| &case.before[1 + count]);
    let factors = 1 + count + usize::from(op.bias);
    let lora = op.lora.as_ref().map(|term| (term, &case.before[factors], &case.before[factors + 1]));
    let mut outcomes = Vec::new();
    let r = lora.map_or(0, |(_, a, _)| a.dims[0]);
    for (rows, columns) in crosses(m, op.outer, 2 * k) {
        let x = x.block(&[rows.clone(), whole(k)]);
        let w = Array::from_fn(&[k, columns.len()], |at| weight.at(columns[at[1]], at[0]));
        let abs = |x: &Array| x.map(f64::abs);
        let bias = bias.map(|b| b.flat(&columns));
        let (mut want, mut scale) = (
            oracle::matmul(&x, &w, bias.as_ref()),
            oracle::matmul(&abs(&x), &abs(&w), bias.as_ref().map(abs).as_ref()),
        );
        if let Some((term, _, b)) = lora {
            // The inner product as it was given: it is checked by itself below.
            let h = case.after[1].block(&[rows.clone(), whole(r)]);
            let b = Array::from_fn(&[r, columns.len()], |at| {
                round(f64::from(term.scale) * b.at(&[columns[at[1]], at[0]]), weight.dtype)
            });
            want = want.zip(&oracle::matmul(&h, &b, None), |y, l| y + l);
            scale = scale.zip(&oracle::matmul(&abs(&h), &abs(&b), None), |y, l| y + l);
        }
        let expect = Expect::new(want, case.after[0].dtype, Class::Sum(k + r)).scale(scale);
        outcomes.push(case.block(0, &[rows, columns], &expect));
    }
    if let Some((term, a, _)) = lora {
        let (rows, ranks) = (spread(m, (BUDGET / (k * r)).max(8)), whole(r));
        // Where dropout's factor is rounded is the kernel's choice.
        let class = if term.dropout.is_some() { Class::Gradient(k) } else { Class::Sum(k) };
        let expect = sums(&rows, &ranks, case.after[1].dtype, class, |row, rank| {
            let term_at = |i| dropped(term, x.at(&[row, i]), row, i, k) * round(a.at(&[rank, i]), x.dtype);
            (0..k).map(term_at).collect()
        });
        outcomes.push(case.block(1, &[rows, ranks], &expect));
    }
    all(outcomes)
}

fn linear_nf4_group(case: &Case<'_>, op: &LinearNf4Group) -> Outcome {
    let x = &case.before[0];
    let (m, k) = (x.dims[0], x.dims[1]);
    let mut next = 1;
    let mut outcomes = Vec::new();
    for (i, &(format, outer)) in op.weights.iter().enumerate() {
        let count = Weight::count(&format);
        let tensors = &case.before[next..next + count];
        next += count;
        let weight = Weight { format, tensors, columns: k, dtype: x.dtype };
        for (rows, columns) in crosses(m, outer, k) {
            let x = x.block(&[rows.clone(), whole(k)]);
            let w = Array::from_fn(&[k, columns.len()], |at| weight.at(columns[at[1]], at[0]));
            let abs = |x: &Array| x.map(f64::abs);
            let scale = oracle::matmul(&abs(&x), &abs(&w), None);
            let expect = Expect::new(oracle::matmul(&x, &w, None), case.after[i].dtype, Class::Sum(k));
            outcomes.push(case.block(i, &[rows, columns], &expect.scale(scale)));
        }
    }
    all(outcomes)
}

fn linear_nf4_grad(case: &Case<'_>, op: &LinearNf4Grad) -> Outcome {
    let dy = &case.before[0];
    let (m, outer, inner) = (dy.dims[0], dy.dims[1], op.inner);
    let count = Weight::count(&op.format);
    let weight =
        Weight { format: op.format, tensors: &case.before[1..=count], columns: inner, dtype: dy.dtype };
    let lora = op.lora.as_ref().map(|term| (term, &case.before[1 + count], &case.before[2 + count]));
    // u = dy·(scale·B), rounded to the type of dy.
    let u = |row: usize, rank: usize| {
        let Some((term, _, b)) = lora else { return 0.0 };
        let factor = |o| round(f64::from(term.scale) * b.at(&[o, rank]), dy.dtype);
        round((0..outer).map(|o| dy.at(&[row, o]) * factor(o)).sum(), dy.dtype)
    };
    let r = lora.map_or(0, |(_, a, _)| a.dims[0]);
    let mut outcomes = Vec::new();
    if op.x {
        for (rows, columns) in crosses(m, inner, 4 * outer) {
            let us = Array::from_fn(&[rows.len(), r], |at| u(rows[at[0]], at[1]));
            let w = Array::from_fn(&[outer, columns.len()], |at| weight.at(at[0], columns[at[1]]));
            let dy = dy.block(&[rows.clone(), whole(outer)]);
            let (ri, ci) = (whole(rows.len()), whole(columns.len()));
            let expect = sums(&ri, &ci, case.after[0].dtype, Class::Gradient(outer + r), |i, j| {
                let mut terms: Vec<f64> =
                    (0..outer).map(|o| dy.data[i * outer + o] * w.data[o * columns.len() + j]).collect();
                if let Some((term, a, _)) = lora {
                    let low = |q| us.data[i * r + q] * round(a.at(&[q, columns[j]]), case.after[0].dtype);
                    // Dropout's mask is that of x, which has dx's shape.
                    let low = (0..r).map(low).map(|t| dropped(term, t, rows[i], columns[j], inner));
                    terms.extend(low);
                }
                terms
            });
            outcomes.push(case.block(0, &[rows, columns], &expect));
        }
    }
    if let (true, Some((term, _, b))) = (op.factors, lora) {
        let (x, h) = (&case.before[3 + count], &case.before[4 + count]);
        let after = usize::from(op.x);
        let ranks = spread(r, LINES);
        let us = Array::from_fn(&[m, ranks.len()], |at| u(at[0], ranks[at[1]]));
        let columns = spread(inner, (BUDGET / (m * ranks.len())).clamp(8, 512));
        // A sum that falls near the middle of two values of dy's type may round either way in u, and where dropout's
        // factor is rounded is the kernel's choice.
        let da = sums(&whole(ranks.len()), &columns, dy.dtype, Class::Gradient(m), |rank, c| {
            let term_at =
                |row| us.data[row * ranks.len() + rank] * dropped(term, x.at(&[row, c]), row, c, inner);
            (0..m).map(term_at).collect()
        });
        outcomes.push(case.block(after, &[ranks.clone(), columns], &da));
        let rows = spread(outer, (BUDGET / (m * ranks.len())).clamp(8, 512));
        let db = sums(&rows, &ranks, b.dtype, Class::Gradient(m), |o, rank| {
            (0..m).map(|row| f64::from(term.scale) * dy.at(&[row, o]) * h.at(&[row, rank])).collect()
        });
        outcomes.push(case.block(after + 1, &[rows, ranks], &db));
    }
    all(outcomes)
}
