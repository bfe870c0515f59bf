use std::borrow::Cow;
use std::cell::RefCell;

use half::bf16;

use super::dequantize_blockwise::packed;
use super::dropout::{add_dropped, drop_line};
use super::gemm::{GemmInput, Init, MatMut, MatRef, Right, Term, gemm, gemm_sum};
use super::rows::flat;
use super::threads::{Scatter, parallel_for};
use crate::ops::{Dropout, LinearNf4, LinearNf4Grad};
use crate::{Cpu, DType, Float, Input, Kernel, Output, Result};

/// Rows of a task that works on a strip of activations while it is in cache.
const STRIP: usize = 32;

/// Any matrix as it lies.
fn matrix<'a, T: GemmInput>(x: &Input<'a, Cpu>) -> MatRef<'a, T> {
    let (dims, strides) = (&x.layout.dims, &x.layout.strides);
    MatRef { data: x.slice(), rows: dims[0], cols: dims[1], rs: strides[0], cs: strides[1] }
}

/// A factor times `scale` in the type of the products: small, so a copy costs nothing.
fn factor<'a, T: GemmInput>(x: &Input<'a, Cpu>, scale: f32) -> Cow<'a, [T]> {
    if x.dtype == T::DTYPE && scale == 1.0 {
        return flat(x);
    }
    let convert = |x: f32| T::from_f32(x * scale);
    Cow::Owned(match x.dtype {
        DType::F32 => flat::<f32>(x).iter().map(|&x| convert(x)).collect(),
        _ => flat::<T>(x).iter().map(|x| convert(x.to_f32())).collect(),
    })
}

/// A row of `x`, copied where its elements do not lie side by side.
fn row_of<T: GemmInput>(x: &MatRef<'_, T>, row: usize, out: &mut [T]) {
    let start = row * x.rs;
    if x.cs == 1 {
        out.copy_from_slice(&x.data[start..start + x.cols]);
    } else {
        out.iter_mut().enumerate().for_each(|(i, out)| *out = x.data[start + i * x.cs]);
    }
}

/// Calls `f(first row, rows, scratch)` for strips of `rows` rows; the scratch has `width` elements for each row.
fn strips<T: Float>(rows: usize, width: usize, f: impl Fn(usize, usize, &mut [T]) + Sync) {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    parallel_for(rows.div_ceil(STRIP), |task| {
        let first = task * STRIP;
        let n = STRIP.min(rows - first);
        SCRATCH.with_borrow_mut(|scratch| {
            let words = (n * width * size_of::<T>()).div_ceil(4);
            if scratch.len() < words {
                scratch.resize(words, 0.0);
            }
            let scratch: &mut [T] = bytemuck::cast_slice_mut(&mut scratch[..words]);
            f(first, n, &mut scratch[..n * width]);
        });
    });
}

/// Rows `first .. first + rows` of `dropout(x)`.
fn dropped_rows<T: GemmInput>(
    x: &MatRef<'_, T>,
    dropout: &Dropout,
    first: usize,
    rows: usize,
    out: &mut [T],
) {
    for (row, out) in (first..first + rows).zip(out.chunks_exact_mut(x.cols)) {
        if x.cs == 1 {
            drop_line(dropout, row * x.cols, &x.data[row * x.rs..row * x.rs + x.cols], out);
        } else {
            row_of(x, row, out);
            let copy = out.to_vec();
            drop_line(dropout, row * x.cols, &copy, out);
        }
    }
}

/// `h = dropout(x)·Aᵀ`
fn inner_product<T: GemmInput>(x: MatRef<'_, T>, a: &[T], r: usize, dropout: Option<&Dropout>, h: &mut [T]) {
    let at = MatRef::new(a, r, x.cols).t();
    let Some(dropout) = dropout else {
        return gemm(x, at, MatMut::new(h, x.rows, r), Init::Zero);
    };
    let h = Scatter::new(h);
    strips::<T>(x.rows, x.cols, |first, rows, scratch| {
        dropped_rows(&x, dropout, first, rows, scratch);
        // SAFETY: strips have rows of their own.
        let h = unsafe { h.slice(first * r, rows * r) };
        gemm(MatRef::new(scratch, rows, x.cols), at, MatMut::new(h, rows, r), Init::Zero);
    });
}

fn forward<T: GemmInput>(
    op: &LinearNf4,
    inputs: &[Input<'_, Cpu>],
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let places = op.places();
    let x = matrix::<T>(&inputs[0]);
    let weight = packed(&op.format, &inputs[1..], op.outer, x.cols);
    let bias = places.bias.map(|b| flat::<T>(&inputs[b]));
    let init = bias.as_deref().map_or(Init::Zero, Init::Bias);
    let base = Term { a: x, b: Right::PackedT(weight) };
    let rows = x.rows;
    let (Some(term), Some(at)) = (&op.lora, places.a) else {
        gemm_sum(&[base], MatMut::new(outputs[0].slice_mut::<T>()?, rows, op.outer), init);
        return Ok(());
    };
    let [y, h] = outputs else { unreachable!("two outputs with an adapter") };
    let r = inputs[at].layout.dims[0];
    let a = factor::<T>(&inputs[at], 1.0);
    let b = factor::<T>(&inputs[at + 1], term.scale);
    let h = h.slice_mut::<T>()?;
    inner_product(x, &a, r, term.dropout.as_ref(), h);
    let low = Term { a: MatRef::new(h, rows, r), b: Right::Dense(MatRef::new(&b, op.outer, r).t()) };
    gemm_sum(&[base, low], MatMut::new(y.slice_mut::<T>()?, rows, op.outer), init);
    Ok(())
}

impl Kernel<LinearNf4> for Cpu {
    fn run(
        &self,
        op: &LinearNf4,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        match inputs[0].dtype {
            DType::BF16 => forward::<bf16>(op, inputs, outputs),
            _ => forward::<f32>(op, inputs, outputs),
        }
    }
}

/// `dx = dy·W (+ dropout(u·A))`
fn input_gradient<T: GemmInput>(
    base: Term<'_, T>,
    low: Option<(MatRef<'_, T>, MatRef<'_, T>)>,
    dropout: Option<&Dropout>,
    dx: &mut [T],
    inner: usize,
) {
    let rows = base.a.rows;
    let out = MatMut::new(&mut *dx, rows, inner);
    let (u, a, dropout) = match (low, dropout) {
        (None, _) => return gemm_sum(&[base], out, Init::Zero),
        (Some((u, a)), None) => {
            return gemm_sum(&[base, Term { a: u, b: Right::Dense(a) }], out, Init::Zero);
        }
        (Some((u, a)), Some(dropout)) => (u, a, dropout),
    };
    gemm_sum(&[base], out, Init::Zero);
    let dx = Scatter::new(dx);
    strips::<T>(rows, inner, |first, n, scratch| {
        let u = MatRef::new(&u.data[first * u.cols..(first + n) * u.cols], n, u.cols);
        gemm(u, a, MatMut::new(&mut *scratch, n, inner), Init::Zero);
        // SAFETY: strips have rows of their own.
        add_dropped(dropout, first * inner, scratch, unsafe { dx.slice(first * inner, n * inner) });
    });
}

/// `out = scale·A·B` in the type of the output, which is a factor's gradient.
fn factor_gradient<T: GemmInput>(
    a: MatRef<'_, T>,
    b: MatRef<'_, T>,
    scale: f32,
    out: &mut Output<'_, Cpu>,
) -> Result<()> {
    let (rows, cols) = (a.rows, b.cols);
    let mut sums = vec![0f32; rows * cols];
    gemm(a, b, MatMut::new(&mut sums, rows, cols), Init::Zero);
    if out.dtype == DType::F32 {
        out.slice_mut::<f32>()?.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum * scale);
    } else {
        out.slice_mut::<T>()?.iter_mut().zip(sums).for_each(|(out, sum)| *out = T::from_f32(sum * scale));
    }
    Ok(())
}

fn backward<T: GemmInput>(
    cpu: &Cpu,
    op: &LinearNf4Grad,
    inputs: &[Input<'_, Cpu>],
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let dy = matrix::<T>(&inputs[0]);
    let (rows, outer) = (dy.rows, dy.cols);
    let weight = packed(&op.format, &inputs[1..], outer, op.inner);
    let base = Term { a: dy, b: Right::Packed(weight) };
    let Some(term) = &op.lora else {
        input_gradient(base, None, None, outputs[0].slice_mut::<T>()?, op.inner);
        return Ok(());
    };
    let at = if op.format.nested.is_some() { 5 } else { 3 };
    let r = inputs[at].layout.dims[0];
    let a = factor::<T>(&inputs[at], 1.0);
    let b = factor::<T>(&inputs[at + 1], term.scale);
    let mut u = vec![T::from_f32(0.0); rows * r];
    gemm(dy, MatRef::new(&b, outer, r), MatMut::new(&mut u, rows, r), Init::Zero);
    let u = MatRef::new(&u[..], rows, r);
    let mut outputs = outputs.iter_mut();
    if op.x {
        let dx = outputs.next().expect("dx by the rule").slice_mut::<T>()?;
        let low = Some((u, MatRef::new(&a, r, op.inner)));
        input_gradient(base, low, term.dropout.as_ref(), dx, op.inner);
    }
    if op.factors {
        let (da, db) = (outputs.next().expect("dA by the rule"), outputs.next().expect("dB by the rule"));
        let (x, h) = (matrix::<T>(&inputs[at + 2]), matrix::<T>(&inputs[at + 3]));
        match &term.dropout {
            None => factor_gradient(u.t(), x, 1.0, da)?,
            Some(dropout) => {
                let mut dropped = cpu.temporary::<T>(rows * op.inner)?;
                let whole = Scatter::new(dropped.as_mut());
                parallel_for(rows.div_ceil(STRIP), |task| {
                    let first = task * STRIP;
                    let n = STRIP.min(rows - first);
                    // SAFETY: strips have rows of their own.
                    let out = unsafe { whole.slice(first * op.inner, n * op.inner) };
                    dropped_rows(&x, dropout, first, n, out);
                });
                factor_gradient(u.t(), MatRef::new(dropped.as_mut(), rows, op.inner), 1.0, da)?;
            }
        }
        factor_gradient(dy.t(), h, term.scale, db)?;
    }
    Ok(())
}

impl Kernel<LinearNf4Grad> for Cpu {
    fn run(
        &self,
        op: &LinearNf4Grad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        match inputs[0].dtype {
            DType::BF16 => backward::<bf16>(self, op, inputs, outputs),
            _ => backward::<f32>(self, op, inputs, outputs),
        }
    }
}
