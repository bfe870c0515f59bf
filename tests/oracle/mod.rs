//! What every operation means, in plain f64 loops: no tricks, no sharing with the engine. One file per
//! operation, named as in the engine. Used by the operation tests and the parity tests.

mod adamw;
mod adamw8bit;
mod affine;
mod attention;
mod binary;
mod concat;
mod cross_entropy;
mod embedding;
mod gated_silu;
mod gelu;
mod layer_norm;
mod matmul;
mod patch_conv;
mod reduce;
mod rms_norm;
mod rope;
mod round;
mod scatter_rows;
mod sgd;
mod top_k;
mod unary;
mod view;

pub(crate) use adamw::{AdamW, adamw};
pub(crate) use adamw8bit::{BLOCK, absmax, adamw8bit, decode, distance};
pub(crate) use affine::affine;
pub(crate) use attention::attention;
pub(crate) use binary::binary;
pub(crate) use concat::concat;
pub(crate) use cross_entropy::cross_entropy;
pub(crate) use embedding::embedding;
pub(crate) use gated_silu::gated_silu;
pub(crate) use gelu::gelu;
pub(crate) use layer_norm::layer_norm;
pub(crate) use matmul::matmul;
pub(crate) use patch_conv::patch_conv;
pub(crate) use reduce::{max, sum};
pub(crate) use rms_norm::rms_norm;
pub(crate) use rope::rope;
pub(crate) use round::{round, unit_roundoff};
pub(crate) use scatter_rows::scatter_rows;
pub(crate) use sgd::sgd;
pub(crate) use top_k::top_k;
pub(crate) use unary::unary;

/// A row-major array of f64.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Array {
    pub(crate) dims: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

impl Array {
    pub(crate) fn new(dims: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(dims.iter().product::<usize>(), data.len(), "an oracle's shape and data differ");
        Self { dims: dims.to_vec(), data }
    }

    /// The array whose element at each index is `f(index)`.
    pub(crate) fn from_fn(dims: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Self {
        let count = dims.iter().product();
        let mut index = vec![0; dims.len()];
        let mut data = Vec::with_capacity(count);
        for _ in 0..count {
            data.push(f(&index));
            for axis in (0..dims.len()).rev() {
                index[axis] += 1;
                if index[axis] < dims[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        Self { dims: dims.to_vec(), data }
    }

    pub(crate) fn at(&self, index: &[usize]) -> f64 {
        assert_eq!(index.len(), self.dims.len());
        self.data[index.iter().zip(&self.dims).fold(0, |at, (&i, &d)| at * d + i)]
    }

    pub(crate) fn map(&self, f: impl FnMut(f64) -> f64) -> Self {
        Self { dims: self.dims.clone(), data: self.data.iter().copied().map(f).collect() }
    }

    pub(crate) fn zip(&self, other: &Self, mut f: impl FnMut(f64, f64) -> f64) -> Self {
        assert_eq!(self.dims, other.dims);
        let data = self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect();
        Self { dims: self.dims.clone(), data }
    }

    /// Largest absolute value; 0 if empty.
    pub(crate) fn largest(&self) -> f64 {
        self.data.iter().fold(0.0, |m, x| m.max(x.abs()))
    }

    /// Length of the last dimension.
    pub(crate) fn row_len(&self) -> usize {
        *self.dims.last().expect("an array with rows")
    }

    /// Applies `f` to each run of the last dimension.
    pub(crate) fn map_rows(&self, f: impl FnMut(&[f64]) -> Vec<f64>) -> Self {
        let n = self.row_len();
        let data = if n == 0 { Vec::new() } else { self.data.chunks_exact(n).flat_map(f).collect() };
        Self::new(&self.dims, data)
    }
}
