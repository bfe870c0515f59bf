//! Tests of the engine's operations, tape and memory against plain f64 oracles.
//!
//! A file per operation. Shapes, element types and the way the inputs lie in memory are drawn by
//! [`proptest`]; inputs are rounded to their element type first, so that oracle and engine see the same
//! values; [`tolerance`] says how far a result may lie from the oracle's. `paths` runs the whole suite
//! again on each instruction-set path that the machine has, and on its GPU. `PROPTEST_CASES=1000` digs deeper;
//! `ROENTGEN_TEST_DEVICE=wgpu` runs on the GPU alone.

use roentgen_oracle as oracle;

mod gradient;
mod harness;
mod tolerance;

mod adamw;
mod adamw8bit;
mod add_rms_norm;
mod affine;
mod argmax;
mod attention;
mod autograd;
mod binary;
mod burst;
mod cast;
mod concat;
mod cross_entropy;
mod dropout;
mod embedding;
mod gated_silu;
mod gelu;
mod layer_norm;
mod linear;
mod linear_nf4;
mod linear_nf4_group;
mod lost;
mod matmul;
mod memory;
mod misuse;
mod patch_conv;
mod paths;
mod profile;
mod quantize_blockwise;
mod reduce;
mod rms_norm;
mod rope;
mod rope_write;
mod scatter_rows;
mod scratch_file;
mod sgd;
mod top_k;
mod unary;
mod view;
mod write;
