//! Ways through strided views.

use super::threads::parallel_for;
use crate::Element;
use crate::layout::{Dims, MAX_RANK};

/// Elements that one task handles: enough to outweigh a fork, few enough to share.
pub(super) const GRAIN: usize = 16 * 1024;

/// A run of output elements that lie side by side, with where each input starts and steps.
pub(super) struct Run<const N: usize> {
    /// First output element.
    pub start: usize,
    /// Length.
    pub len: usize,
    /// First element of each input, from the start of its slice.
    pub at: [usize; N],
    /// Step of each input; 0 repeats one value.
    pub step: [usize; N],
}

/// Elements that are copied side by side at a time when an input's elements are not.
const PIECE: usize = 128;

impl<const N: usize> Run<N> {
    /// Starts and lengths of parts to work on one after the other: the whole if every input lies side by
    /// side, else as much as [`Line`] can copy.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (usize, usize)> + use<N> {
        let (len, most) = (self.len, if self.step == [1; N] { self.len.max(1) } else { PIECE });
        (0..len).step_by(most).map(move |start| (start, most.min(len - start)))
    }
}

/// One input of a run as slices, so that kernels have one loop, which vectorises, for any strides.
pub(super) struct Line<'a, T> {
    data: &'a [T],
    at: usize,
    step: usize,
    copy: [T; PIECE],
}

impl<'a, T: Element> Line<'a, T> {
    /// Input number `i` of a run.
    pub(super) fn new<const N: usize>(data: &'a [T], run: &Run<N>, i: usize) -> Self {
        Self { data, at: run.at[i], step: run.step[i], copy: [T::zeroed(); PIECE] }
    }

    /// Elements `start .. start + len` of the run, one of its [`Run::pieces`].
    pub(super) fn part(&mut self, start: usize, len: usize) -> &[T] {
        match self.step {
            1 => &self.data[self.at + start..][..len],
            step => {
                let from = self.at + start * step;
                let copy = &mut self.copy[..len];
                match step {
                    // Repeated: the copy of the first piece serves the others, which are no longer.
                    0 if start > 0 => {}
                    0 => copy.fill(self.data[from]),
                    _ => {
                        copy.iter_mut()
                            .zip(self.data[from..].iter().step_by(step))
                            .for_each(|(y, x)| *y = *x);
                    }
                }
                copy
            }
        }
    }
}

/// Calls `f` for runs that together cover a contiguous output of shape `dims`, each element once, in
/// parallel. `strides` are those of the inputs.
pub(super) fn for_runs<const N: usize>(dims: &Dims, strides: [&Dims; N], f: impl Fn(Run<N>) + Sync) {
    let count = dims.count();
    if count == 0 {
        return;
    }
    // Merge neighbouring dimensions that all views walk as one.
    let mut sizes = [1usize; MAX_RANK];
    let mut steps = [[0usize; N]; MAX_RANK];
    let mut rank = 0;
    for i in (0..dims.len()).rev().filter(|&i| dims[i] != 1) {
        let step: [usize; N] = std::array::from_fn(|n| strides[n][i]);
        let merges = rank > 0 && (0..N).all(|n| step[n] == steps[rank - 1][n] * sizes[rank - 1]);
        if merges {
            sizes[rank - 1] *= dims[i];
        } else {
            sizes[rank] = dims[i];
            steps[rank] = step;
            rank += 1;
        }
    }
    // sizes[0] is the innermost.
    let inner = sizes[0];
    let pieces = inner.div_ceil(GRAIN);
    let piece = inner.div_ceil(pieces);
    let rows = count / inner;
    let rows_per_task = (GRAIN / inner.min(GRAIN)).max(1);
    let blocks = rows.div_ceil(rows_per_task);
    parallel_for(blocks * pieces, |task| {
        let (block, p) = (task / pieces, task % pieces);
        let (from, len) = (p * piece, piece.min(inner.saturating_sub(p * piece)));
        if len == 0 {
            return;
        }
        for row in block * rows_per_task..((block + 1) * rows_per_task).min(rows) {
            let mut at: [usize; N] = std::array::from_fn(|n| from * steps[0][n]);
            let mut rest = row;
            for d in 1..rank {
                let index = rest % sizes[d];
                rest /= sizes[d];
                for n in 0..N {
                    at[n] += index * steps[d][n];
                }
            }
            f(Run { start: row * inner + from, len, at, step: steps[0] });
        }
    });
}

/// Calls `f(first_row, rows)` in parallel for blocks of rows of about [`GRAIN`] elements. The blocks depend
/// on the shape alone.
pub(super) fn for_row_blocks(rows: usize, row_len: usize, f: impl Fn(usize, usize) + Sync) {
    if rows == 0 {
        return;
    }
    let per = (GRAIN / row_len.clamp(1, GRAIN)).max(1);
    parallel_for(rows.div_ceil(per), |block| {
        let first = block * per;
        f(first, per.min(rows - first));
    });
}

/// Chooses the Rust type of a float dtype.
macro_rules! float_type {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            $crate::DType::F16 => {
                type $t = half::f16;
                $body
            }
            other => unreachable!("the operation's rule lets no {other} through"),
        }
    };
}
pub(super) use float_type;

/// Chooses the Rust type of a parameter or gradient, which optimisers keep in f32 or bf16.
macro_rules! parameter_type {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            other => unreachable!("the operation's rule lets no {other} through"),
        }
    };
}
pub(super) use parameter_type;

/// Chooses the Rust type of any dtype.
macro_rules! any_type {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            $crate::DType::F32 => {
                type $t = f32;
                $body
            }
            $crate::DType::BF16 => {
                type $t = half::bf16;
                $body
            }
            $crate::DType::F16 => {
                type $t = half::f16;
                $body
            }
            $crate::DType::U8 => {
                type $t = u8;
                $body
            }
            $crate::DType::U32 => {
                type $t = u32;
                $body
            }
            $crate::DType::I32 => {
                type $t = i32;
                $body
            }
        }
    };
}
pub(super) use any_type;
