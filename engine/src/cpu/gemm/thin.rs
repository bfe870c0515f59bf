//! Few rows against many: `x`, at most eight vectors, times an operand whose `k` runs contiguously.
//!
//! This is decoding (one row times a weight `[out, in]`) and its mirror image, a tall A times at most eight
//! columns (the first factor of a `LoRA` pair). Every row of the large operand is read once, where it lies,
//! several rows at a time: memory systems deliver more to several streams than to one.

use super::kernel::{Kernel, SCRATCH};
use super::pack::Lanes;
use super::{Gemm, Init, MatRef, from};
use crate::cpu::threads::{self, Scatter};
use crate::dtype::Float;

/// Most vectors of `x`.
const MOST: usize = 8;
/// Bytes of the large operand below which a fork is not worth while, and the least for one task.
const TASK_BYTES: usize = 128 << 10;
/// Most tasks for one product: enough to even out threads of uneven speed.
const TASKS: usize = 64;
/// Bytes between the read and the prefetch of a row.
const AHEAD: usize = 1024;

/// The product with its large operand as rows `w` and its small one as vectors `x`.
struct Thin<'a, T, O> {
    x: Lanes<'a, T>,
    count: usize,
    w: &'a [T],
    w_rs: usize,
    k: usize,
    out: Scatter<O>,
    out_at: usize,
    /// Output strides along vectors and along rows.
    strides: [usize; 2],
    init: Init<'a, T>,
    /// Whether the bias goes along rows of `w` (else along vectors).
    bias_by_row: bool,
}

/// Runs the product if it is of this kind.
pub(super) fn run<T: Float, O: Float, K: Kernel<T>>(g: &Gemm<T, O>) -> bool {
    let Some((a, b)) = g.dense().filter(|(a, _)| a.cols > 0) else { return false };
    let k = a.cols;
    let along_k = |rs: usize| rs == 1 || k == 1;
    // [large operand as rows, small one as rows of vectors]
    let (w, x, strides, bias_by_row): (MatRef<T>, MatRef<T>, _, _) =
        if g.m <= MOST && along_k(b.rs) && (g.n >= g.m || g.n > MOST || !along_k(a.cs)) {
            (b.t(), a, [g.c_rs, 1], true)
        } else if g.n <= MOST && along_k(a.cs) {
            (a, b.t(), [1, g.c_rs], false)
        } else {
            return false;
        };
    let swapped = !bias_by_row;
    let rows = w.rows;
    let bytes = rows.saturating_mul(k).saturating_mul(size_of::<T>());
    let pieces = (bytes / TASK_BYTES).clamp(1, TASKS);
    let per_task = rows.div_ceil(pieces).next_multiple_of(K::STREAMS);
    let pieces = rows.div_ceil(per_task);
    let task = |t: usize| {
        let (a, b, c) = g.product(t / pieces);
        let (w_at, x_at) = if swapped { (a, b) } else { (b, a) };
        let thin = Thin {
            x: Lanes { data: from(x.data, x_at), lane: x.rs, step: x.cs },
            count: x.rows,
            w: from(w.data, w_at),
            w_rs: w.rs,
            k,
            out: g.c,
            out_at: c,
            strides,
            init: g.init,
            bias_by_row,
        };
        let first = t % pieces * per_task;
        thin.part::<K>(first, per_task.min(rows - first));
    };
    let tasks = pieces * g.products;
    if bytes.saturating_mul(g.products) > TASK_BYTES {
        threads::parallel_for_near(tasks, task);
    } else {
        (0..tasks).for_each(task);
    }
    true
}

impl<T: Float, O: Float> Thin<'_, T, O> {
    /// Rows `first .. first + rows` of `w`, against as many vectors as there are.
    fn part<K: Kernel<T>>(&self, first: usize, rows: usize) {
        match self.count {
            1 => self.stream::<K, 4, 1>(first, rows),
            2 => self.stream::<K, 4, 2>(first, rows),
            3 | 4 => self.stream::<K, 4, 4>(first, rows),
            _ => self.stream::<K, 2, 8>(first, rows),
        }
    }

    /// `R` rows at a time, each from a stretch of its own: R sequential streams.
    fn stream<K: Kernel<T>, const R: usize, const M: usize>(&self, first: usize, rows: usize) {
        SCRATCH.with_borrow_mut(|scratch| {
            let xs = self.k.div_ceil(K::DEPTH).next_multiple_of(16);
            let x = scratch.a.get(M * xs);
            self.load_x::<K>(x, xs);
            let stretch = rows.div_ceil(R);
            for i in 0..stretch {
                // A stream that is out of rows repeats the last one; its sums are dropped.
                let row = |r: usize| (r * stretch + i).min(rows - 1);
                let w = std::array::from_fn(|r| {
                    let at = (first + row(r)) * self.w_rs;
                    self.w[at..at + self.k].as_ptr()
                });
                // SAFETY: each row was sliced to `k` elements; `x` holds M vectors of `xs` words.
                let sums = unsafe { K::dots::<R, M>(self.k, w, x.as_ptr(), xs, AHEAD) };
                for (r, sums) in sums.iter().enumerate() {
                    if r * stretch + i < rows {
                        for (v, &sum) in sums.iter().enumerate().take(self.count) {
                            self.finish(v, first + r * stretch + i, sum);
                        }
                    }
                }
            }
        });
    }

    /// Vectors as words, zero beyond `k`; slots beyond `count` keep what they held: their sums are dropped.
    fn load_x<K: Kernel<T>>(&self, x: &mut [u32], xs: usize) {
        for (v, x) in x.chunks_exact_mut(xs).enumerate().take(self.count) {
            let src = &self.x.data[v * self.x.lane..];
            if K::IN_PLACE && self.x.step == 1 && self.k.is_multiple_of(K::DEPTH) {
                let (head, tail) = x.split_at_mut(self.k / K::DEPTH);
                bytemuck::cast_slice_mut::<_, u8>(head).copy_from_slice(bytemuck::cast_slice(&src[..self.k]));
                tail.fill(0);
                continue;
            }
            let at = |i: usize| if i < self.k { src[i * self.x.step] } else { T::from_f32(0.0) };
            for (w, word) in x.iter_mut().enumerate() {
                *word = K::word(at(w * K::DEPTH), at(w * K::DEPTH + 1));
            }
        }
    }

    fn finish(&self, vector: usize, row: usize, sum: f32) {
        let at = self.out_at + vector * self.strides[0] + row * self.strides[1];
        // SAFETY: element (vector, row) of C belongs to the task that owns the row.
        let out = unsafe { &mut self.out.slice(at, 1)[0] };
        let start = match self.init {
            Init::Zero => 0.0,
            Init::Bias(bias) => bias[if self.bias_by_row { row } else { vector }].to_f32(),
            Init::Add => out.to_f32(),
        };
        *out = O::from_f32(start + sum);
    }
}
