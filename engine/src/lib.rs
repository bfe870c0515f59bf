//! Tensors, reverse-mode autodiff, operations and their backends, weight files. Knows no model.

pub mod cpu;
mod dtype;
pub mod weights;

pub use dtype::{DType, Element, Float};
