use super::view::View;
use super::{Cuda, CudaBuffer};
use crate::ops::{Reduce, ReduceKind};
use crate::{DType, Input, Kernel, Op, Output, Result};

use super::launch::address;

/// Terms that a part of a sum has at least, where sums are cut in parts.
const TERMS: usize = 4096;
/// Terms up to which a thread sums them faster than a block.
const FEW_TERMS: usize = 32;
/// Blocks for each multiprocessor up to which cutting helps.
const BLOCKS_PER_MULTIPROCESSOR: usize = 4;

/// Where a reduction goes.
pub(super) struct Sums {
    address: u64,
    dtype: DType,
}

impl Sums {
    /// To a contiguous output.
    pub(super) fn to(y: &Output<'_, Cuda>) -> Self {
        Self { address: address(y.buffer, y.layout, y.dtype), dtype: y.dtype }
    }
}

/// Dimensions of the source: those that stay, and those that are reduced; and their counts.
struct Split {
    kept: View,
    reduced: View,
    counts: [usize; 2],
    /// Elements from the first to the last: kernels count them in 32 bits.
    span: usize,
    /// The innermost kept elements are neighbours, or there are few terms: a warp takes 32 sums side by side.
    columns: bool,
}

impl Split {
    fn new(kept: &[(usize, usize)], reduced: &[(usize, usize)]) -> Self {
        let count = |dims: &[(usize, usize)]| dims.iter().map(|d| d.0).product::<usize>();
        let view = |dims: &[(usize, usize)]| View::of(dims.iter().copied());
        let innermost = kept.iter().rev().find(|d| d.0 != 1);
        Self {
            kept: view(kept),
            reduced: view(reduced),
            counts: [count(kept), count(reduced)],
            span: kept
                .iter()
                .chain(reduced)
                .map(|&(size, stride)| size.saturating_sub(1) * stride)
                .sum::<usize>()
                + 1,
            columns: innermost.is_some_and(|d| d.1 == 1) || (count(reduced) <= FEW_TERMS && count(kept) > 1),
        }
    }
}

impl Cuda {
    /// One launch: `parts` shares of the terms.
    fn fold(
        &self,
        op: &'static str,
        kind: ReduceKind,
        (x, dtype): (u64, DType),
        split: &Split,
        parts: usize,
        divisor: f32,
        sums: &Sums,
    ) -> Result<()> {
        let [kept, reduced] = split.counts;
        let way = if split.columns { "columns" } else { "rows" };
        let mut k = self.kernel(Reduce::NAME, format!("reduce_{way}_{dtype}_{}", sums.dtype), op);
        k.at(sums.address).at(x).layout(&split.kept.words()).layout(&split.reduced.words());
        k.fits(split.span).words(&[kept, reduced, parts, kind as usize]).float(divisor);
        if split.columns {
            k.run([kept.div_ceil(32), parts, 1], [32, 8], 1024)
        } else {
            k.run([kept, parts, 1], [256, 1], 256)
        }
    }

    /// `y[i] = Σ_p parts[p, i]` for f32 `parts [count, n]`, in order.
    pub(super) fn sum_parts(
        &self,
        op: &'static str,
        parts: &CudaBuffer,
        [count, n]: [usize; 2],
        sums: &Sums,
    ) -> Result<()> {
        // One column is a row of neighbours too; `columns` is what the parts of all lengths go by.
        let split = Split { columns: true, ..Split::new(&[(n, 1)], &[(count, n)]) };
        self.fold(op, ReduceKind::Sum, (parts.address(), DType::F32), &split, 1, 1.0, sums)
    }
}

impl Kernel<Reduce> for Cuda {
    fn run(&self, op: &Reduce, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let name = Reduce::NAME;
        let (x, y) = (&inputs[0], &outputs[0]);
        let (mut kept, mut reduced) = (Vec::new(), Vec::new());
        for (i, (&size, &stride)) in x.layout.dims.iter().zip(x.layout.strides.iter()).enumerate() {
            (if op.axes & (1 << i) != 0 { &mut reduced } else { &mut kept }).push((size, stride));
        }
        let split = Split::new(&kept, &reduced);
        let [count, terms] = split.counts;
        let data = (address(x.buffer, x.layout, x.dtype), x.dtype);
        let sums = Sums::to(y);
        let divisor = if op.kind == ReduceKind::Mean { terms as f32 } else { 1.0 };
        let blocks = if split.columns { count.div_ceil(32) } else { count };
        let enough = BLOCKS_PER_MULTIPROCESSOR * self.facts.multiprocessors.max(1) as usize;
        let parts = enough.div_ceil(blocks.max(1)).min(terms / TERMS).max(1);
        if parts == 1 {
            return self.fold(name, op.kind, data, &split, 1, divisor, &sums);
        }
        let scratch = self.temporary(name, parts * count * 4)?;
        let partial = Sums { address: scratch.address(), dtype: DType::F32 };
        self.fold(name, op.kind, data, &split, parts, 1.0, &partial)?;
        let kind = if op.kind == ReduceKind::SumSquares { ReduceKind::Sum } else { op.kind };
        let second = Split { columns: true, ..Split::new(&[(count, 1)], &[(parts, count)]) };
        self.fold(name, kind, (scratch.address(), DType::F32), &second, 1, divisor, &sums)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_of_all_dimensions() {
        // A column of every second row of a matrix [4, 5].
        assert_eq!(Split::new(&[(2, 10)], &[(1, 1)]).span, 11);
        assert_eq!(Split::new(&[(4, 5)], &[(5, 1)]).span, 20);
        // Few elements that lie far apart: counts alone would let them through.
        let far = Split::new(&[(2, 1 << 32)], &[(3, 1)]);
        assert_eq!((far.counts, far.span), ([2, 3], (1 << 32) + 3));
    }
}
