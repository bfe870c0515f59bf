//! The CPU backend.

pub mod gemm;
pub mod isa;
pub mod threads;
