//! Modules that several models share.

mod dropout;
mod linear;
mod lora;

use engine::Tensor;
use engine::profile::module;

pub(crate) use dropout::salt;
pub use dropout::{Active, DropoutState};
pub use linear::{Attached, Full, Linear, Weight};
pub use lora::{Dora, Lora};

use crate::error::Result;
use crate::loader::{Init, Loader};

/// Standard deviation of fresh weights, as in the libraries that made the published models.
pub const INIT_STD: f32 = 0.02;

/// Layer normalisation with weight and bias `[n]`.
pub struct LayerNorm {
    path: String,
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    /// Tensors `{name}.weight` and `{name}.bias`.
    pub fn load(loader: &Loader, name: &str, n: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            path: name.to_owned(),
            weight: loader.get(&format!("{name}.weight"), &[n], Init::Constant(1.0))?,
            bias: loader.get(&format!("{name}.bias"), &[n], Init::Constant(0.0))?,
            eps: eps as f32,
        })
    }

    /// Over the last dimension.
    pub fn forward(&self, x: &Tensor) -> engine::Result<Tensor> {
        let _module = module(&self.path);
        x.layer_norm(&self.weight, &self.bias, self.eps)
    }
}

/// RMS normalisation with weight `[n]`.
pub struct RmsNorm {
    path: String,
    weight: Tensor,
    eps: f32,
}

impl RmsNorm {
    /// Tensor `{name}.weight`.
    pub fn load(loader: &Loader, name: &str, n: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            path: name.to_owned(),
            weight: loader.get(&format!("{name}.weight"), &[n], Init::Constant(1.0))?,
            eps: eps as f32,
        })
    }

    /// Over the last dimension.
    pub fn forward(&self, x: &Tensor) -> engine::Result<Tensor> {
        let _module = module(&self.path);
        x.rms_norm(&self.weight, self.eps)
    }

    /// Of the residual stream `x` with what a block has for it, if any: the stream after that, and its normalisation.
    pub fn after(&self, x: &Tensor, added: Option<&Tensor>) -> engine::Result<(Tensor, Tensor)> {
        let Some(added) = added else { return Ok((x.clone(), self.forward(x)?)) };
        let _module = module(&self.path);
        x.add_rms_norm(added, &self.weight, self.eps)
    }
}
