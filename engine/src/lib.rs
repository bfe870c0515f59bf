//! Tensors, reverse-mode autodiff, operations and their backends, weight files. Knows no model.
//!
//! ```
//! use engine::{DType, Device, Tensor};
//! let device = Device::cpu();
//! let x = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0], &[2, 2], &device)?;
//! let w = Tensor::from_slice(&[0.5f32, -1.0, 2.0, 0.0], &[2, 2], &device)?.tracked();
//! let loss = x.matmul(&w)?.sum(&[0, 1])?;
//! let gradients = loss.backward()?;
//! assert_eq!(gradients.get(&w).unwrap().to_vec::<f32>()?, [4.0, 4.0, 6.0, 6.0]);
//! # Ok::<(), engine::Error>(())
//! ```

mod autograd;
mod backend;
mod capture;
mod codebook;
pub mod cpu;
pub mod cuda;
mod dtype;
mod error;
mod fault;
mod layout;
pub mod memory;
mod op;
pub mod ops;
pub mod profile;
mod progress;
mod quantized;
mod rng;
mod tensor;
pub mod weights;
pub mod wgpu;

pub use autograd::{GradContext, Gradients, checkpoint, no_grad};
pub use backend::{Backend, Compiled, Device, Input, Kernel, Offers, Output};
pub use capture::{Application, capture};
pub use codebook::Codebook;
pub use cpu::Cpu;
pub use cuda::Cuda;
pub use dtype::{DType, Element, Float};
pub use error::{Error, Result};
pub use layout::{Dims, Layout, MAX_RANK};
pub use op::{Cost, Op, Saves, Spec, apply, apply_in_place, apply_one};
pub use progress::Progress;
pub use quantized::{BlockFormat, Nested, QuantConfig, Quantized, QuantizedParts};
pub use rng::Rng;
pub use tensor::Tensor;
pub use wgpu::Wgpu;
