use super::source::Access;
use super::view::View;
use super::{Wgpu, WgpuBuffer};
use crate::ops::{Reduce, ReduceKind};
use crate::{DType, Input, Kernel, Op, Output, Result};

/// Terms from which on an output gets a workgroup.
const MANY_TERMS: usize = 128;
/// Outputs from which on invocations are enough.
const MANY_OUTPUTS: usize = 8192;
/// Terms of a part, where an output is cut in parts.
const PART: usize = 1 << 15;
/// Outputs up to which they are cut.
const FEW_OUTPUTS: usize = 64;

/// Number of the fold in `shaders/common/fold.wgsl`.
#[derive(Clone, Copy, PartialEq)]
enum Fold {
    Sum,
    SumSquares,
    Max,
}

/// Dimensions `(size, stride)` of a tensor, those that stay and those that are reduced.
struct Split {
    kept: Vec<(usize, usize)>,
    reduced: Vec<(usize, usize)>,
    offset: usize,
}

/// Where a reduction writes: an output, or an intermediate f32 buffer.
enum Target<'t, 'a> {
    Output(&'t Output<'a, Wgpu>),
    Scratch(&'a WgpuBuffer),
}

impl Wgpu {
    fn fold<'a>(
        &'a self,
        op: &'static str,
        fold: Fold,
        mean: bool,
        x: (&'a WgpuBuffer, DType),
        split: &Split,
        target: &Target<'_, 'a>,
        parts: Option<usize>,
    ) -> Result<()> {
        let product = |dims: &[(usize, usize)]| dims.iter().map(|d| d.0).product::<usize>();
        let (outputs, terms) = (product(&split.kept), product(&split.reduced));
        let span = |dims: &[(usize, usize)]| dims.iter().map(|d| d.0.saturating_sub(1) * d.1).sum::<usize>();
        let by_rows = parts.is_some();
        let mut k = self.kernel(if by_rows { "reduce_rows" } else { "reduce" }, op);
        let reduced = View::of(split.reduced.iter().copied(), 0);
        k.constant("KIND", fold as u32).constant("FLAT", reduced.flat());
        let span = if outputs * terms == 0 { 0 } else { 1 + span(&split.kept) + span(&split.reduced) };
        let offset = k.bind("x", x.0, x.1, Access::Read, split.offset, span)?;
        k.view(&View::of(split.kept.iter().copied(), offset));
        k.view(&reduced);
        let lanes = match target {
            Target::Output(y) => {
                k.output_by_rows("y", y, !by_rows)?;
                y.lanes()
            }
            Target::Scratch(buffer) => {
                k.scratch("y", buffer, DType::F32, Access::Whole)?;
                1
            }
        };
        k.word(outputs)?.word(terms)?.word(usize::from(mean))?;
        k.work(outputs * terms);
        match parts {
            None => k.run_elements(outputs, lanes),
            Some(parts) => {
                k.word(parts)?.word(terms.div_ceil(parts))?;
                k.run_linear(outputs * parts, 1)
            }
        }
    }

    /// `y[i] = Σ partial[b, i]` over `blocks` rows of a f32 buffer, in order.
    pub(super) fn sum_blocks(
        &self,
        op: &'static str,
        partial: &WgpuBuffer,
        [blocks, n]: [usize; 2],
        y: &Output<'_, Self>,
    ) -> Result<()> {
        let split = Split { kept: vec![(n, 1)], reduced: vec![(blocks, n)], offset: 0 };
        self.fold(op, Fold::Sum, false, (partial, DType::F32), &split, &Target::Output(y), None)
    }
}

impl Kernel<Reduce> for Wgpu {
    fn run(&self, op: &Reduce, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, y) = (&inputs[0], &outputs[0]);
        let (fold, mean) = match op.kind {
            ReduceKind::Sum => (Fold::Sum, false),
            ReduceKind::Mean => (Fold::Sum, true),
            ReduceKind::SumSquares => (Fold::SumSquares, false),
            ReduceKind::Max => (Fold::Max, false),
        };
        let mut split = Split { kept: Vec::new(), reduced: Vec::new(), offset: x.layout.offset };
        for (i, (&size, &stride)) in x.layout.dims.iter().zip(x.layout.strides.iter()).enumerate() {
            let reduced = op.axes & (1 << i) != 0;
            (if reduced { &mut split.reduced } else { &mut split.kept }).push((size, stride));
        }
        let count = y.layout.count();
        let terms: usize = split.reduced.iter().map(|d| d.0).product();
        let side_by_side = split.kept.last().is_some_and(|d| d.1 == 1 && d.0 > 1);
        let name = Reduce::NAME;
        let data = (x.buffer, x.dtype);
        if terms < MANY_TERMS || count >= MANY_OUTPUTS || (side_by_side && count >= 256) {
            return self.fold(name, fold, mean, data, &split, &Target::Output(y), None);
        }
        let parts = if count > FEW_OUTPUTS { 1 } else { terms.div_ceil(PART).min(256) };
        if parts == 1 {
            return self.fold(name, fold, mean, data, &split, &Target::Output(y), Some(1));
        }
        let partial = self.temporary(name, count * parts * 4)?;
        self.fold(name, fold, false, data, &split, &Target::Scratch(&partial), Some(parts))?;
        let split = Split { kept: vec![(count, parts)], reduced: vec![(parts, 1)], offset: 0 };
        let fold = if fold == Fold::SumSquares { Fold::Sum } else { fold };
        if !mean {
            return self.fold(name, fold, false, (&partial, DType::F32), &split, &Target::Output(y), None);
        }
        // The mean divides by all terms, not by the parts.
        let total = self.temporary(name, count * 4)?;
        self.fold(name, fold, false, (&partial, DType::F32), &split, &Target::Scratch(&total), None)?;
        let mut k = self.kernel("affine", name);
        let offset = k.bind("x", &total, DType::F32, Access::Read, 0, count)?;
        k.view(&View::of([(count, 1)].into_iter(), offset));
        k.output("y", y)?.word(count)?.float(1.0 / terms as f32).float(0.0);
        k.run_elements(count, y.lanes())
    }
}
