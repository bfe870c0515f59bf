//! The small products of a low-rank adapter: `cuda/lora.cu`.

use super::elementwise::Mask;
use super::launch::address;
use super::{Cuda, CudaBuffer};
use crate::{DType, Input, Output, Result};

/// Rows of `x` for each share of an outer product's sum.
const ROWS_PER_SPLIT: usize = 256;

/// Most rows for the kernel that gives each of the rank a block.
const THIN: usize = 8;

/// A factor as products take it: contiguous, maybe scaled or transposed.
pub(super) struct Factor {
    pub(super) address: u64,
    pub(super) dtype: DType,
    _copy: Option<CudaBuffer>,
}

/// A dense matrix.
#[derive(Clone, Copy)]
pub(super) struct Matrix {
    pub(super) address: u64,
    pub(super) dims: [usize; 2],
}

impl Cuda {
    /// `round(scale · x)`, of `dtype`, transposed if asked; `x` itself if that is all the same.
    pub(super) fn factor(
        &self,
        op: &'static str,
        x: &Input<'_, Self>,
        dtype: DType,
        scale: f32,
        transposed: bool,
    ) -> Result<Factor> {
        if x.dtype == dtype && scale == 1.0 && !transposed && x.layout.is_contiguous() {
            return Ok(Factor { address: address(x.buffer, x.layout, x.dtype), dtype, _copy: None });
        }
        let dense = self.dense(op, x)?;
        let (rows, cols, count) = (x.layout.dims[0], x.layout.dims[1], x.layout.count());
        let copy = self.temporary(op, count * dtype.size())?;
        let mut k = self.kernel("lora", format!("lora_factor_{}_{dtype}", x.dtype), op);
        k.buffer(&copy).at(dense.address).words(&[rows, cols, usize::from(transposed)]).float(scale);
        k.run_elements(count)?;
        Ok(Factor { address: copy.address(), dtype, _copy: Some(copy) })
    }

    /// `x` as kernels read it that scale and round by themselves: in its own type, f32 or that of the products.
    pub(super) fn raw_factor(&self, op: &'static str, x: &Input<'_, Self>) -> Result<Factor> {
        self.factor(op, x, x.dtype, 1.0, false)
    }

    /// `y [rows, rank] = dropout(x) · fᵀ` for `x [rows, k]` of `dtype` and `f [rank, k]`.
    pub(super) fn lora_down(
        &self,
        op: &'static str,
        dtype: DType,
        y: u64,
        x: &Matrix,
        (f, rank): (&Factor, usize),
        mask: &Mask,
    ) -> Result<()> {
        let [rows, inner] = x.dims;
        let aligned = [x.address, f.address].iter().all(|at| at.is_multiple_of(16));
        if rows <= THIN && mask.keeps_all() && inner.is_multiple_of(8) && aligned {
            let mut k = self.kernel("lora", format!("lora_thin_{}_{dtype}", f.dtype), op);
            k.at(y).at(x.address).at(f.address).words(&[rows, inner, rank]);
            return if rows == 0 { Ok(()) } else { k.run([rank, 1, 1], [256, 1], 256) };
        }
        let mut k = self.kernel("lora", format!("lora_down_{}_{dtype}", f.dtype), op);
        k.at(y).at(x.address).at(f.address).words(&[rows, inner, rank]).mask(mask);
        k.run([rows.div_ceil(16), rank.div_ceil(16), 1], [256, 1], 8192)
    }

    /// `y = scale · leftᵀ · dropout(right)` for `left [k, rank]` and `right [k, n]` of `dtype`; `y` is `[rank, n]`, or `[n, rank]` if
    /// `transposed`.
    pub(super) fn lora_outer(
        &self,
        op: &'static str,
        dtype: DType,
        (left, right): (&Matrix, &Matrix),
        mask: &Mask,
        scale: f32,
        (y, transposed): (&Output<'_, Self>, bool),
    ) -> Result<()> {
        let ([inner, rank], n) = (left.dims, right.dims[1]);
        let splits = inner.div_ceil(ROWS_PER_SPLIT).max(1);
        let parts = self.temporary(op, splits * rank * n * 4)?;
        let mut k = self.kernel("lora", format!("lora_outer_{dtype}"), op);
        k.buffer(&parts).at(left.address).at(right.address).words(&[inner, rank, n, splits]).mask(mask);
        k.run([n.div_ceil(64), rank.div_ceil(16), splits], [128, 1], 6144)?;
        let mut k = self.kernel("lora", format!("lora_sum_{}", y.dtype), op);
        k.output(y).buffer(&parts).words(&[rank, n, splits, usize::from(transposed)]).float(scale);
        k.run_elements(rank * n)
    }
}
