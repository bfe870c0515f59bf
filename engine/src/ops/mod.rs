//! The operations, one file each. A file holds the parameters, the shape and dtype rule, the cost, the
//! gradient in terms of other operations, and the `Tensor` method that applies it. Kernels have the same
//! file name in each backend's folder.

mod affine;
mod binary;
mod cast;
mod matmul;
mod reduce;
mod rms_norm;
mod rms_norm_grad;
mod unary;
mod view;
mod write;

pub use affine::Affine;
pub use binary::{Binary, BinaryKind};
pub use cast::Cast;
pub use matmul::MatMul;
pub use reduce::{Reduce, ReduceKind};
pub use rms_norm::RmsNorm;
pub use rms_norm_grad::RmsNormGrad;
pub use unary::{Unary, UnaryKind};
pub use view::View;
pub use write::Write;

use crate::error::{Result, rule};
use crate::op::Spec;

/// Checks that an operation got `n` tensors.
pub(crate) fn arity(op: &'static str, inputs: &[Spec], n: usize) -> Result<()> {
    if inputs.len() == n { Ok(()) } else { Err(rule!(op, "takes {n} tensors, got {}", inputs.len())) }
}

/// Checks that a tensor is f32, bf16 or f16.
pub(crate) fn float(op: &'static str, what: &str, spec: &Spec) -> Result<()> {
    if spec.dtype.is_float() { Ok(()) } else { Err(rule!(op, "{what} is {}, not a float type", spec.dtype)) }
}

/// Checks that two tensors have one element type.
pub(crate) fn same_dtype(op: &'static str, what: [&str; 2], a: &Spec, b: &Spec) -> Result<()> {
    if a.dtype == b.dtype {
        return Ok(());
    }
    Err(rule!(op, "{} is {} but {} is {}; convert one with `to_dtype`", what[0], a.dtype, what[1], b.dtype))
}

/// Checks the sizes of a tensor.
pub(crate) fn shape(op: &'static str, what: &str, spec: &Spec, want: &[usize]) -> Result<()> {
    if *spec.dims == *want {
        Ok(())
    } else {
        Err(rule!(op, "{what} has shape {:?}, expected {want:?}", spec.dims))
    }
}
