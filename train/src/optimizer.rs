//! Parameters with their `AdamW` state, the global norm and its clipping.

use engine::memory::tagged;
use engine::ops::AdamW;
use engine::{DType, Gradients, Tensor};

use crate::config::OptimizerSection;
use crate::error::Result;

/// A trained tensor with its moments.
pub struct Parameter {
    /// Its published name.
    pub name: String,
    /// The leaf, f32.
    pub value: Tensor,
    /// First moment, f32, like the value.
    pub m: Tensor,
    /// Second moment.
    pub v: Tensor,
    /// Whether weight decay applies.
    decay: bool,
}

/// `AdamW` over a list of parameters.
pub struct Optimizer {
    /// In the order of the model.
    pub parameters: Vec<Parameter>,
    section: OptimizerSection,
}

impl Optimizer {
    /// Moments of 0 for each of `tensors`.
    pub fn new(tensors: Vec<(String, Tensor)>, section: &OptimizerSection) -> Result<Self> {
        let parameter = |(name, value): (String, Tensor)| {
            let zeros = || Tensor::zeros(&value.dims(), DType::F32, value.device());
            let (m, v) = tagged("optimizer", || Ok::<_, engine::Error>((zeros()?, zeros()?)))?;
            // Norms and biases are the vectors among a transformer's parameters.
            let decay = section.decay_norms_and_biases || value.rank() > 1;
            Ok(Parameter { name, value, m, v, decay })
        };
        let parameters = tensors.into_iter().map(parameter).collect::<Result<_>>()?;
        Ok(Self { parameters, section: section.clone() })
    }

    /// Norm of all gradients as one vector. Sums of f32 squares per tensor are added in f64, in the order of the
    /// parameters.
    pub fn global_norm(&self, gradients: &Gradients) -> Result<f64> {
        let mut sum = 0.0;
        for gradient in self.parameters.iter().filter_map(|p| gradients.get(&p.value)) {
            sum += gradient.sum_squares()?.item()?;
        }
        Ok(sum.sqrt())
    }

    /// Step number `step` (from 1) at rate `lr`; `scale` multiplies the gradients first. A parameter that no
    /// gradient reached stays as it is.
    pub fn step(&self, gradients: &mut Gradients, step: usize, lr: f64, scale: f32) -> Result<()> {
        for p in &self.parameters {
            let Some(gradient) = gradients.take(&p.value) else { continue };
            let gradient = if scale == 1.0 { gradient } else { gradient.affine(scale, 0.0)? };
            let op = AdamW {
                lr,
                beta1: self.section.beta1,
                beta2: self.section.beta2,
                eps: self.section.eps,
                weight_decay: if p.decay { self.section.weight_decay } else { 0.0 },
                step: u32::try_from(step).unwrap_or(u32::MAX),
                grad_scale: 1.0,
            };
            Tensor::adamw_step(&p.value, &p.m, &p.v, &gradient, &op)?;
        }
        Ok(())
    }
}

/// What torch's `clip_grad_norm_` multiplies gradients of norm `norm` by: `min(1, limit/(norm + 1e-6))`; a
/// `limit` of 0 means never.
pub fn clip_factor(norm: f64, limit: f64) -> f32 {
    if limit == 0.0 { 1.0 } else { (limit / (norm + 1e-6)).min(1.0) as f32 }
}
