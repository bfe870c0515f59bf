//! The operations, one file each. A file holds the parameters, the shape and dtype rule, the cost, the
//! gradient in terms of other operations, and the `Tensor` method that applies it. Kernels have the same
//! file name in each backend's folder.

mod adamw;
mod adamw8bit;
mod add_rms_norm;
mod affine;
mod argmax;
mod attention;
mod attention_grad;
mod binary;
pub(crate) mod burst;
mod cast;
mod concat;
mod cross_entropy;
mod cross_entropy_grad;
mod dequantize_blockwise;
mod dropout;
mod embedding;
mod embedding_grad;
mod gated_silu;
mod gated_silu_grad;
mod gelu;
mod gelu_grad;
mod layer_norm;
mod layer_norm_grad;
mod linear_nf4;
mod linear_nf4_grad;
mod linear_nf4_group;
mod matmul;
mod patch_conv;
mod quantize_blockwise;
mod reduce;
mod rms_norm;
mod rms_norm_grad;
mod rope;
mod rope_write;
mod scatter_rows;
mod sgd;
mod top_k;
mod unary;
mod view;
mod write;

pub use adamw::AdamW;
pub use adamw8bit::{AdamW8bit, Moments8bit};
pub use add_rms_norm::AddRmsNorm;
pub use affine::Affine;
pub use argmax::Argmax;
pub use attention::Attention;
pub use attention_grad::AttentionGrad;
pub use binary::{Binary, BinaryKind};
pub use burst::Burst;
pub use cast::Cast;
pub use concat::Concat;
pub use cross_entropy::CrossEntropy;
pub use cross_entropy_grad::CrossEntropyGrad;
pub use dequantize_blockwise::DequantizeBlockwise;
pub use dropout::Dropout;
pub use embedding::Embedding;
pub use embedding_grad::EmbeddingGrad;
pub use gated_silu::GatedSilu;
pub use gated_silu_grad::GatedSiluGrad;
pub use gelu::{Gelu, GeluKind};
pub use gelu_grad::GeluGrad;
pub use layer_norm::LayerNorm;
pub use layer_norm_grad::LayerNormGrad;
pub use linear_nf4::{LinearNf4, Lora, LoraTerm};
pub use linear_nf4_grad::LinearNf4Grad;
pub use linear_nf4_group::LinearNf4Group;
pub use matmul::MatMul;
pub use quantize_blockwise::QuantizeBlockwise;
pub use reduce::{Reduce, ReduceKind};
pub use rms_norm::RmsNorm;
pub use rms_norm_grad::RmsNormGrad;
pub use rope::{Rope, RopeKind};
pub use rope_write::RopeWrite;
pub use scatter_rows::ScatterRows;
pub use sgd::Sgd;
pub use top_k::TopK;
pub use unary::{Unary, UnaryKind};
pub use view::View;
pub use write::Write;

use crate::error::{Result, rule};
use crate::op::{Op, Spec};

/// Names of all operations that have kernels.
pub const NAMES: [&str; 38] = [
    AdamW::NAME,
    AdamW8bit::NAME,
    AddRmsNorm::NAME,
    Affine::NAME,
    Argmax::NAME,
    Attention::NAME,
    AttentionGrad::NAME,
    Binary::NAME,
    Burst::NAME,
    Cast::NAME,
    Concat::NAME,
    CrossEntropy::NAME,
    CrossEntropyGrad::NAME,
    DequantizeBlockwise::NAME,
    Dropout::NAME,
    Embedding::NAME,
    EmbeddingGrad::NAME,
    GatedSilu::NAME,
    GatedSiluGrad::NAME,
    Gelu::NAME,
    GeluGrad::NAME,
    LayerNorm::NAME,
    LayerNormGrad::NAME,
    LinearNf4::NAME,
    LinearNf4Grad::NAME,
    LinearNf4Group::NAME,
    MatMul::NAME,
    QuantizeBlockwise::NAME,
    Reduce::NAME,
    RmsNorm::NAME,
    RmsNormGrad::NAME,
    Rope::NAME,
    RopeWrite::NAME,
    ScatterRows::NAME,
    Sgd::NAME,
    TopK::NAME,
    Unary::NAME,
    Write::NAME,
];

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
