//! Few rows against a quantised weight: decoding. Codes are read once, at memory speed.

use super::kernel::{Kernel, SCRATCH, Scratch};
use super::{Gemm, Init, MatRef, Right, Term};
use crate::cpu::packed::Packed;
use crate::cpu::threads;
use crate::dtype::Float;

/// Most rows of A.
const MOST: usize = 8;
/// Bytes of codes below which a fork is not worth while, and the least for one task.
const TASK_BYTES: usize = 64 << 10;
/// Most tasks for one product.
const TASKS: usize = 64;
/// Scales that are decoded at once for each stream.
const SCALES: usize = 128;
/// Rows of the weight that are walked at once.
const STREAMS: usize = 4;

/// The product with its second term, if it has one.
struct Thin<'a, 'g, T, O> {
    g: &'g Gemm<'a, T, O>,
    a: MatRef<'a, T>,
    weight: Packed<'a>,
    /// Low-rank term: A `[m, r]`, B `[r, n]`.
    low: Option<(MatRef<'a, T>, MatRef<'a, T>)>,
    /// The row of A as the fused dot products want it; empty if they are not used.
    x: Vec<T>,
}

/// The one row of `a`, arranged for [`Kernel::packed_dots`].
fn arranged<T: Float, K: Kernel<T>>(a: &MatRef<T>) -> Vec<T> {
    let row: Vec<T> = (0..a.cols).map(|i| a.data[i * a.cs]).collect();
    let mut x = vec![T::from_f32(0.0); a.cols];
    K::arrange(&row, &mut x);
    x
}

/// Runs the product if it is of this kind: one quantised weight, transposed, and at most one term in memory.
pub(super) fn run<T: Float, O: Float, K: Kernel<T>>(g: &Gemm<T, O>) -> bool {
    if g.m > MOST {
        return false;
    }
    let (a, weight, low) = match g.terms {
        [Term { a, b: Right::PackedT(w) }] => (*a, *w, None),
        [Term { a, b: Right::PackedT(w) }, Term { a: h, b: Right::Dense(b) }] => (*a, *w, Some((*h, *b))),
        _ => return false,
    };
    if a.cols == 0 {
        return false;
    }
    let fused = K::PACKED_DOTS && g.m == 1 && weight.whole_units();
    let thin = Thin { g, a, weight, low, x: if fused { arranged::<T, K>(&a) } else { Vec::new() } };
    let bytes = weight.rows * weight.cols / 2;
    let pieces = (bytes / TASK_BYTES).clamp(1, TASKS);
    let per_task = weight.rows.div_ceil(pieces).next_multiple_of(STREAMS);
    let pieces = weight.rows.div_ceil(per_task);
    let task = |t: usize| {
        let first = t * per_task;
        SCRATCH.with_borrow_mut(|scratch| {
            thin.part::<K>(first, per_task.min(weight.rows - first), scratch);
        });
    };
    if pieces > 1 {
        threads::parallel_for(pieces, task);
    } else {
        (0..pieces).for_each(task);
    }
    true
}

impl<T: Float, O: Float> Thin<'_, '_, T, O> {
    /// Outputs `first .. first + rows` of every row of A.
    fn part<K: Kernel<T>>(&self, first: usize, rows: usize, scratch: &mut Scratch) {
        if !self.x.is_empty() {
            return self.fused::<K>(first, rows, scratch);
        }
        match self.g.m {
            1 => self.expanded::<K, 1>(first, rows, scratch),
            2 => self.expanded::<K, 2>(first, rows, scratch),
            3 | 4 => self.expanded::<K, 4>(first, rows, scratch),
            _ => self.expanded::<K, 8>(first, rows, scratch),
        }
    }

    /// One row of A against codes in registers.
    fn fused<K: Kernel<T>>(&self, first: usize, rows: usize, scratch: &mut Scratch) {
        let k = self.weight.cols;
        let units = k / 64;
        let stretch = rows.div_ceil(STREAMS);
        // Scales of several rows at once: those of a short row would not fill a vector.
        let batch = (SCALES / units).clamp(1, stretch);
        let scales = scratch.sums.elements::<f32>(STREAMS * batch * units);
        for done in (0..stretch).step_by(batch) {
            let n = batch.min(stretch - done);
            // A stream that is out of rows repeats the last one; its sum is dropped.
            let start: [usize; STREAMS] = std::array::from_fn(|r| (r * stretch + done).min(rows - 1));
            let have = start.map(|start| n.min(rows - start));
            for (r, scales) in scales.chunks_exact_mut(batch * units).take(STREAMS).enumerate() {
                let (from, count) = ((first + start[r]) * k, have[r] * units);
                self.weight.unit_scales::<T, K>(from, &mut scales[..count]);
                // A few bytes for each row, which no hardware foresees.
                self.weight.prefetch_scales(from + have[r] * k, batch * k);
            }
            for i in 0..n {
                let row: [usize; STREAMS] = std::array::from_fn(|r| i.min(have[r] - 1));
                let codes: [*const u8; STREAMS] = std::array::from_fn(|r| {
                    self.weight.codes[(first + start[r] + row[r]) * k / 2..][..k / 2].as_ptr()
                });
                let scales: [*const f32; STREAMS] =
                    std::array::from_fn(|r| scales[(r * batch + row[r]) * units..][..units].as_ptr());
                // SAFETY: each row was sliced to `units` pieces of codes and scales, `x` holds as many.
                let sums =
                    unsafe { K::packed_dots(units, codes, scales, self.weight.table, self.x.as_ptr()) };
                for (r, &sum) in sums.iter().enumerate() {
                    if r * stretch + done + i < rows {
                        self.finish(0, first + r * stretch + done + i, sum);
                    }
                }
            }
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
            let sums = unsafe { K::dots::<R, M>(k, w, x.as_ptr(), xs) };
            for (r, sums) in sums.iter().enumerate().take(rows - at) {
                for (v, &sum) in sums.iter().enumerate().take(self.g.m) {
                    self.finish(v, first + row(r), sum);
                }
            }
        }
    }

    fn finish(&self, v: usize, n: usize, sum: f32) {
        let at = v * self.g.c_rs + n;
        // SAFETY: element (v, n) of C belongs to the task that owns output `n`; `run` checked the reach.
        let out = unsafe { &mut self.g.c.slice(at, 1)[0] };
        let mut total = sum
            + match self.g.init {
                Init::Zero => 0.0,
                Init::Bias(bias) => bias[n].to_f32(),
                Init::Add => out.to_f32(),
            };
        if let Some((h, b)) = self.low {
            for i in 0..h.cols {
                let (h, b) = (h.data[v * h.rs + i * h.cs], b.data[i * b.rs + n * b.cs]);
                total += h.to_f32() * b.to_f32();
            }
        }
        *out = O::from_f32(total);
    }
}
