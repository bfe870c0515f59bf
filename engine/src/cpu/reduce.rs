use super::multiversion::multiversion;
use super::threads::{Scatter, parallel_for};
use super::walk::{GRAIN, float_type};
use crate::ops::{Reduce, ReduceKind};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// Rows that are summed before the sum moves to a second accumulator: the error of a long f32 sum grows
/// with the longer of the two levels, not with their product.
const BLOCK: usize = 256;
/// Output elements that share one pass over the reduced dimensions.
const WIDTH: usize = 512;
/// Partial results of a contiguous reduction; fixes the order of summation whatever the vector width.
const LANES: usize = 32;

trait Fold: Copy + Sync {
    const START: f32;
    /// Takes one element in.
    fn take(acc: f32, x: f32) -> f32;
    /// Joins two partial results.
    fn join(a: f32, b: f32) -> f32;
}

#[derive(Clone, Copy)]
struct Sum;
#[derive(Clone, Copy)]
struct SumSquares;
#[derive(Clone, Copy)]
struct Max;

impl Fold for Sum {
    const START: f32 = 0.0;
    #[inline(always)]
    fn take(acc: f32, x: f32) -> f32 {
        acc + x
    }
    #[inline(always)]
    fn join(a: f32, b: f32) -> f32 {
        a + b
    }
}

impl Fold for SumSquares {
    const START: f32 = 0.0;
    #[inline(always)]
    fn take(acc: f32, x: f32) -> f32 {
        acc + x * x
    }
    #[inline(always)]
    fn join(a: f32, b: f32) -> f32 {
        a + b
    }
}

impl Fold for Max {
    const START: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn take(acc: f32, x: f32) -> f32 {
        if x > acc || x.is_nan() { x } else { acc }
    }
    #[inline(always)]
    fn join(a: f32, b: f32) -> f32 {
        Self::take(a, b)
    }
}

/// Offset of the `i`-th index of the dimensions `(size, stride)`, last one fastest.
fn offset(dims: &[(usize, usize)], mut i: usize) -> usize {
    let mut at = 0;
    for &(size, stride) in dims.iter().rev() {
        at += (i % size) * stride;
        i /= size;
    }
    at
}

multiversion! {
    /// A run of elements that lie side by side.
    fn contiguous<T: Float, F: Fold>(x: &[T], fold: F) -> f32 {
        let _ = fold;
        let mut total = F::START;
        for block in x.chunks(LANES * BLOCK) {
            let mut acc = [F::START; LANES];
            let chunks = block.chunks_exact(LANES);
            for (a, x) in acc.iter_mut().zip(chunks.remainder()) {
                *a = F::take(*a, x.to_f32());
            }
            for chunk in chunks {
                for (a, x) in acc.iter_mut().zip(chunk) {
                    *a = F::take(*a, x.to_f32());
                }
            }
            total = F::join(total, acc.into_iter().fold(F::START, F::join));
        }
        total
    }
}

multiversion! {
    /// Takes one row into as many accumulators.
    fn take_row<T: Float, F: Fold>(acc: &mut [f32], x: &[T], fold: F) {
        let _ = fold;
        for (a, x) in acc.iter_mut().zip(x) {
            *a = F::take(*a, x.to_f32());
        }
    }
}

fn reduce<T: Float, O: Float, F: Fold>(
    axes: u32,
    x: &Input<'_, Cpu>,
    out: &mut Output<'_, Cpu>,
    fold: F,
    finish: impl Fn(f32) -> f32 + Sync,
) -> Result<()> {
    let data = x.slice::<T>();
    let out = out.slice_mut::<O>()?;
    let mut kept = Vec::new();
    let mut reduced = Vec::new();
    for (i, (&size, &stride)) in x.layout.dims.iter().zip(x.layout.strides.iter()).enumerate() {
        (if axes & (1 << i) != 0 { &mut reduced } else { &mut kept }).push((size, stride));
    }
    let n: usize = reduced.iter().map(|d| d.0).product();
    if out.is_empty() {
        return Ok(());
    }
    let outputs = out.len();
    let scatter = Scatter::new(out);
    // The whole of a contiguous run at once, if the reduced dimensions end in one.
    let run = match reduced.last() {
        Some(&(size, 1)) => size,
        _ => 0,
    };
    if run >= LANES && n > 0 {
        let outer = &reduced[..reduced.len() - 1];
        // One output with a long run still uses every thread: runs are cut in pieces of fixed size.
        let per_task = (GRAIN / n.min(GRAIN)).max(1);
        let tasks = outputs.div_ceil(per_task);
        let pieces = if tasks == 1 { (n / run) * run.div_ceil(GRAIN) } else { 0 };
        if outputs == 1 && pieces > 1 {
            let per_run = run.div_ceil(GRAIN);
            let mut partial = vec![F::START; pieces];
            let parts = Scatter::new(&mut partial);
            parallel_for(pieces, |p| {
                let (r, from) = (p / per_run, (p % per_run) * GRAIN);
                let at = offset(outer, r) + from;
                let value = contiguous(&data[at..at + GRAIN.min(run - from)], fold);
                // SAFETY: each task has its own element.
                unsafe { parts.set(p, value) };
            });
            let total = partial.into_iter().reduce(F::join).unwrap_or(F::START);
            // SAFETY: no task runs.
            unsafe { scatter.set(0, O::from_f32(finish(total))) };
            return Ok(());
        }
        parallel_for(tasks, |task| {
            for o in task * per_task..((task + 1) * per_task).min(outputs) {
                let base = offset(&kept, o);
                let mut acc = F::START;
                for r in 0..n / run {
                    let at = base + offset(outer, r);
                    acc = F::join(acc, contiguous(&data[at..at + run], fold));
                }
                // SAFETY: each task has its own outputs.
                unsafe { scatter.set(o, O::from_f32(finish(acc))) };
            }
        });
        return Ok(());
    }
    // Otherwise walk the reduced dimensions outside and a run of outputs inside.
    let (inner, step) = kept.last().copied().unwrap_or((1, 0));
    let outer = &kept[..kept.len().saturating_sub(1)];
    let per_row = inner.div_ceil(WIDTH);
    parallel_for(outputs / inner * per_row, |task| {
        let (row, from) = (task / per_row, (task % per_row) * WIDTH);
        let width = WIDTH.min(inner - from);
        let base = offset(outer, row) + from * step;
        let mut total = [F::START; WIDTH];
        let mut acc = [F::START; WIDTH];
        for r in 0..n {
            let at = base + offset(&reduced, r);
            if step == 1 {
                take_row(&mut acc[..width], &data[at..at + width], fold);
            } else {
                for (i, a) in acc[..width].iter_mut().enumerate() {
                    *a = F::take(*a, data[at + i * step].to_f32());
                }
            }
            if r % BLOCK == BLOCK - 1 || r + 1 == n {
                for (t, a) in total[..width].iter_mut().zip(&mut acc) {
                    *t = F::join(*t, std::mem::replace(a, F::START));
                }
            }
        }
        // SAFETY: each task has its own outputs.
        let out = unsafe { scatter.slice(row * inner + from, width) };
        out.iter_mut().zip(&total).for_each(|(y, &t)| *y = O::from_f32(finish(t)));
    });
    Ok(())
}

/// Elements that one output element is made of.
fn reduced_count(axes: u32, x: &Input<'_, Cpu>) -> usize {
    x.layout.dims.iter().enumerate().filter(|(i, _)| axes & (1 << i) != 0).map(|(_, &size)| size).product()
}

impl Kernel<Reduce> for Cpu {
    fn run(&self, op: &Reduce, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, out) = (&inputs[0], &mut outputs[0]);
        float_type!(x.dtype, T => match op.kind {
            ReduceKind::Sum => reduce::<T, T, _>(op.axes, x, out, Sum, |y| y),
            ReduceKind::Mean => {
                let terms = reduced_count(op.axes, x) as f32;
                reduce::<T, T, _>(op.axes, x, out, Sum, |y| y / terms)
            }
            ReduceKind::SumSquares => reduce::<T, f32, _>(op.axes, x, out, SumSquares, |y| y),
            ReduceKind::Max => reduce::<T, T, _>(op.axes, x, out, Max, |y| y),
        })
    }
}
