//! What every operation means, in plain f64 loops: no tricks, no sharing with the engine. One file per
//! operation, named as in the engine; [`tolerance`] says how far a result may lie from it. [`replay`] checks any
//! captured application on a sample of its output. Used by the operation tests and by `roentgen bench op`.

mod adamw;
mod adamw8bit;
mod add_rms_norm;
mod affine;
mod attention;
mod binary;
mod burst;
mod concat;
mod cross_entropy;
mod embedding;
mod gated_silu;
mod gelu;
pub mod gpu;
mod layer_norm;
mod matmul;
mod patch_conv;
mod reduce;
pub mod replay;
mod rms_norm;
mod rope;
mod rope_write;
mod round;
mod scatter_rows;
mod sgd;
pub mod tolerance;
mod top_k;
mod unary;
mod view;

pub use adamw::{AdamW, adamw};
pub use adamw8bit::{BLOCK, absmax, adamw8bit, decode, distance};
pub use add_rms_norm::add_rms_norm;
pub use affine::affine;
pub use attention::{attention, expect_attention};
pub use binary::binary;
pub use burst::{burst, burst_scale};
pub use concat::concat;
pub use cross_entropy::cross_entropy;
pub use embedding::embedding;
pub use gated_silu::gated_silu;
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use matmul::matmul;
pub use patch_conv::patch_conv;
pub use reduce::{max, sum};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use rope_write::rope_write;
pub use round::{round, unit_roundoff};
pub use scatter_rows::scatter_rows;
pub use sgd::sgd;
pub use top_k::top_k;
pub use unary::unary;

/// A row-major array of f64.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// Sizes.
    pub dims: Vec<usize>,
    /// Elements.
    pub data: Vec<f64>,
}

impl Array {
    /// An array of these elements.
    ///
    /// # Panics
    /// If they do not fill the shape.
    pub fn new(dims: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(dims.iter().product::<usize>(), data.len(), "an oracle's shape and data differ");
        Self { dims: dims.to_vec(), data }
    }

    /// The array whose element at each index is `f(index)`.
    pub fn from_fn(dims: &[usize], mut f: impl FnMut(&[usize]) -> f64) -> Self {
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

    /// One element.
    ///
    /// # Panics
    /// If the index lies outside.
    pub fn at(&self, index: &[usize]) -> f64 {
        assert_eq!(index.len(), self.dims.len());
        self.data[index.iter().zip(&self.dims).fold(0, |at, (&i, &d)| at * d + i)]
    }

    /// `f` of each element.
    #[must_use]
    pub fn map(&self, f: impl FnMut(f64) -> f64) -> Self {
        Self { dims: self.dims.clone(), data: self.data.iter().copied().map(f).collect() }
    }

    /// `f` of each pair of elements of two arrays of one shape.
    #[must_use]
    pub fn zip(&self, other: &Self, mut f: impl FnMut(f64, f64) -> f64) -> Self {
        assert_eq!(self.dims, other.dims);
        let data = self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect();
        Self { dims: self.dims.clone(), data }
    }

    /// Largest absolute value; 0 if empty.
    pub fn largest(&self) -> f64 {
        self.data.iter().fold(0.0, |m, x| m.max(x.abs()))
    }

    /// Length of the last dimension.
    pub fn row_len(&self) -> usize {
        *self.dims.last().expect("an array with rows")
    }

    /// Applies `f` to each run of the last dimension.
    #[must_use]
    pub fn map_rows(&self, f: impl FnMut(&[f64]) -> Vec<f64>) -> Self {
        let n = self.row_len();
        let data = if n == 0 { Vec::new() } else { self.data.chunks_exact(n).flat_map(f).collect() };
        Self::new(&self.dims, data)
    }
}
