//! Few rows against quantised weights: decoding. Codes are read once, at memory speed.
//!
//! Each thread walks through one long stretch of codes, a few rows of the weight at a time, and fetches what it will
//! need some microseconds later. Several weights that multiply the same rows are one walk.

use std::borrow::Cow;
use std::cell::RefCell;

use super::kernel::{Kernel, SCRATCH, Scratch, Words};
use super::{Gemm, Init, MatRef, Right, Term};
use crate::cpu::packed::Packed;
use crate::cpu::threads;
use crate::dtype::Float;

/// Most rows of A.
const MOST: usize = 8;
/// Bytes of codes below which a fork is not worth while.
const FORK_BYTES: usize = 64 << 10;
/// Bytes of codes for one task: enough tasks to even out threads of uneven speed.
const TASK_BYTES: usize = 16 << 10;
/// Bytes between the codes that are read and those that are fetched.
const AHEAD: usize = 8 << 10;
/// Scales that are decoded at once.
const SCALES: usize = 1024;
/// Rows of the weight that are walked at once.
const STREAMS: usize = 4;

/// A product with its second term, if it has one.
struct Thin<'a, 'g, T, O> {
    g: &'g Gemm<'a, T, O>,
    a: MatRef<'a, T>,
    weight: Packed<'a>,
    /// Low-rank term: A `[m, r]`, B `[r, n]`.
    low: Option<(MatRef<'a, T>, MatRef<'a, T>)>,
    /// Rows of the weight for one task.
    per_task: usize,
    /// Number of its first task.
    task: usize,
}

impl<'a, 'g, T: Float, O: Float> Thin<'a, 'g, T, O> {
    /// The product, if it is of this kind: one quantised weight, transposed, and at most one term in memory.
    fn new(g: &'g Gemm<'a, T, O>, task: usize) -> Option<Self> {
        let (a, weight, low) = match g.terms {
            [Term { a, b: Right::PackedT(w) }] => (*a, *w, None),
            [Term { a, b: Right::PackedT(w) }, Term { a: h, b: Right::Dense(b) }] => (*a, *w, Some((*h, *b))),
            _ => return None,
        };
        let pieces = (weight.rows * weight.cols / 2 / TASK_BYTES).max(1);
        let per_task = weight.rows.div_ceil(pieces).next_multiple_of(STREAMS);
        (a.cols > 0).then_some(Self { g, a, weight, low, per_task, task })
    }

    fn tasks(&self) -> usize {
        self.weight.rows.div_ceil(self.per_task)
    }
}

/// Calls `f` with the one row of `a`, arranged for [`Kernel::packed_dots`].
fn arranged<T: Float, K: Kernel<T>>(a: &MatRef<T>, f: impl FnOnce(&[T])) {
    thread_local! {
        // Not the scratch of the tasks, which this thread will run too.
        static ROW: RefCell<Words> = RefCell::default();
    }
    let row: Cow<[T]> = match a.cs {
        1 => Cow::Borrowed(&a.data[..a.cols]),
        // A stride of 0 repeats.
        step => (0..a.cols).map(|i| a.data[i * step]).collect(),
    };
    // Taken out, so that no task meets it borrowed.
    let mut words = ROW.take();
    let x = &mut words.elements::<T>(a.cols)[..a.cols];
    K::arrange(&row, x);
    f(x);
    ROW.set(words);
}

/// Runs products of one A, if all are of this kind.
pub(super) fn run<T: Float, O: Float, K: Kernel<T>>(group: &[Gemm<T, O>]) -> bool {
    if group.iter().any(|g| g.m > MOST || !matches!(g.terms, [Term { b: Right::PackedT(_), .. }, ..])) {
        return false;
    }
    let mut tasks = 0;
    let mut bytes = 0;
    let mut parts = Vec::with_capacity(group.len());
    for g in group {
        let Some(thin) = Thin::new(g, tasks) else { return false };
        tasks += thin.tasks();
        bytes += thin.weight.rows * thin.weight.cols / 2;
        parts.push(thin);
    }
    let Some(Thin { a, .. }) = parts.first() else { return true };
    let go = |x: &[T]| {
        let task = |t: usize| {
            // The last that begins here or before.
            let thin = &parts[parts.partition_point(|p| p.task <= t) - 1];
            let first = (t - thin.task) * thin.per_task;
            let rows = thin.per_task.min(thin.weight.rows - first);
            // What this thread will go on with, in rows of this weight.
            let end = (threads::stretch(tasks, t).end - thin.task) * thin.per_task;
            SCRATCH.with_borrow_mut(|scratch| {
                if x.is_empty() {
                    thin.part::<K>(first, rows, scratch);
                } else {
                    thin.fused::<K>(x, first, rows, end.min(thin.weight.rows), scratch);
                }
            });
        };
        if bytes > FORK_BYTES {
            threads::parallel_for_near(tasks, task);
        } else {
            (0..tasks).for_each(task);
        }
    };
    if K::PACKED_DOTS && a.rows == 1 && parts.iter().all(|p| p.weight.whole_units()) {
        arranged::<T, K>(a, go);
    } else {
        go(&[]);
    }
    true
}

impl<T: Float, O: Float> Thin<'_, '_, T, O> {
    /// Outputs `first .. first + rows` of every row of A.
    fn part<K: Kernel<T>>(&self, first: usize, rows: usize, scratch: &mut Scratch) {
        match self.g.m {
            1 => self.expanded::<K, 1>(first, rows, scratch),
            2 => self.expanded::<K, 2>(first, rows, scratch),
            3 | 4 => self.expanded::<K, 4>(first, rows, scratch),
            _ => self.expanded::<K, 8>(first, rows, scratch),
        }
    }

    /// The one row of A, arranged as `x`, against codes in registers. This thread goes on until row `end`.
    fn fused<K: Kernel<T>>(&self, x: &[T], first: usize, rows: usize, end: usize, scratch: &mut Scratch) {
        let k = self.weight.cols;
        let units = k / 64;
        // Whole groups of rows: every line of codes is fetched once.
        let ahead_rows = (2 * AHEAD).div_ceil(STREAMS * k) * STREAMS;
        // Scales of several rows at once: those of a short row would not fill a vector.
        let batch = (SCALES / units).next_multiple_of(STREAMS).clamp(STREAMS, rows.next_multiple_of(STREAMS));
        let scales = scratch.sums.elements::<f32>(batch * units);
        let totals = scratch.bias.elements::<f32>(batch);
        for done in (0..rows).step_by(batch) {
            let n = batch.min(rows - done);
            let from = (first + done) * k;
            self.weight.unit_scales::<T, K>(from, &mut scales[..n * units]);
            // A few bytes for many codes: too thin a stream for hardware to foresee.
            self.weight.prefetch_scales(from + n * k, batch * k);
            for i in (0..n).step_by(STREAMS) {
                // The last rows are repeated to make a whole group; their sums are dropped.
                let row: [usize; STREAMS] = std::array::from_fn(|r| (i + r).min(n - 1));
                let at = first + done + i;
                let codes =
                    row.map(|row| self.weight.codes[(first + done + row) * k / 2..][..k / 2].as_ptr());
                let scales = row.map(|row| scales[row * units..][..units].as_ptr());
                // Not into what another thread reads.
                let ahead = if at + ahead_rows < end { ahead_rows * k / 2 } else { 0 };
                // SAFETY: each row was sliced to `units` pieces of codes and scales, `x` holds as many.
                let sums =
                    unsafe { K::packed_dots(units, codes, scales, self.weight.table, x.as_ptr(), ahead) };
                totals[i..i + STREAMS].copy_from_slice(&sums);
            }
            self.finish_all::<K>(first + done, &totals[..n]);
        }
    }

    /// As [`Self::finish`] for the one row of A; where nothing is added, many at once.
    fn finish_all<K: Kernel<T>>(&self, n: usize, sums: &[f32]) {
        if !matches!(self.g.init, Init::Zero) || self.low.is_some() {
            return self.finish(0, n, sums);
        }
        // SAFETY: as in `finish`; one row of as many sums as there are outputs.
        unsafe {
            let out = self.g.c.slice(n, sums.len());
            K::store(sums.as_ptr(), 1, sums.len(), out.as_mut_ptr(), sums.len());
        }
    }

    /// Up to `M` rows of A against rows of the weight that are expanded first, a few at a time.
    fn expanded<K: Kernel<T>, const M: usize>(&self, first: usize, rows: usize, scratch: &mut Scratch) {
        const R: usize = 2;
        let k = self.weight.cols;
        let xs = k.div_ceil(K::DEPTH).next_multiple_of(16);
        let x = scratch.a.get(M * xs);
        for (v, x) in x.chunks_exact_mut(xs).enumerate().take(self.g.m) {
            let at = |i: usize| {
                if i < k { self.a.data[v * self.a.rs + i * self.a.cs] } else { T::from_f32(0.0) }
            };
            for (w, word) in x.iter_mut().enumerate() {
                *word = K::word(at(w * K::DEPTH), at(w * K::DEPTH + 1));
            }
        }
        let values = scratch.values.elements::<T>(R * k);
        for at in (0..rows).step_by(R) {
            let row = |r: usize| (at + r).min(rows - 1);
            for (r, values) in values.chunks_exact_mut(k).take(R).enumerate() {
                self.weight.expand::<T, K>((first + row(r)) * k, values);
            }
            let w: [*const T; R] = std::array::from_fn(|r| values[r * k..][..k].as_ptr());
            // SAFETY: each row has `k` elements; `x` holds M vectors of `xs` words.
            let sums = unsafe { K::dots::<R, M>(k, w, x.as_ptr(), xs, 0) };
            for v in 0..self.g.m {
                let sums: [f32; R] = std::array::from_fn(|r| sums[r][v]);
                self.finish(v, first + at, &sums[..R.min(rows - at)]);
            }
        }
    }

    /// Elements `(v, n)` and following of C from their sums.
    fn finish(&self, v: usize, n: usize, sums: &[f32]) {
        // SAFETY: these elements of C belong to the task that owns the rows of the weight; `run` checked the reach.
        let out = unsafe { self.g.c.slice(v * self.g.c_rs + n, sums.len()) };
        for (i, (out, sum)) in (n..).zip(out.iter_mut().zip(sums)) {
            let mut total = sum
                + match self.g.init {
                    Init::Zero => 0.0,
                    Init::Bias(bias) => bias[i].to_f32(),
                    Init::Add => out.to_f32(),
                };
            if let Some((h, b)) = self.low {
                for j in 0..h.cols {
                    let (h, b) = (h.data[v * h.rs + j * h.cs], b.data[j * b.rs + i * b.cs]);
                    total += h.to_f32() * b.to_f32();
                }
            }
            *out = O::from_f32(total);
        }
    }
}
