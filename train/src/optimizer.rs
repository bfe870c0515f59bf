//! Parameters with their optimiser state, the global norm and its clipping.

use engine::memory::tagged;
use engine::ops::{AdamW, AdamW8bit, Moments8bit, Sgd};
use engine::profile::phase;
use engine::{DType, Gradients, Spec, Tensor};

use crate::config::{OptimizerKind, OptimizerSection, StatePlace};
use crate::error::{Error, Result};

/// A trained tensor with its state.
pub struct Parameter {
    /// Its published name.
    pub name: String,
    /// The leaf, f32.
    pub value: Tensor,
    state: State,
    /// Whether weight decay applies.
    decay: bool,
}

/// What an optimiser remembers of a parameter from step to step.
enum State {
    /// `AdamW`'s moments, f32, of the parameter's shape.
    Moments { m: Tensor, v: Tensor },
    /// The same in 8 bits.
    Moments8bit(Box<Moments8bit>),
    /// Momentum of `sgd`, f32, of the parameter's shape.
    Momentum(Tensor),
    /// `sgd` without momentum.
    Nothing,
}

impl State {
    /// Shapes and types of the tensors that a parameter needs, as [`Self::from_tensors`] takes them.
    fn specs(section: &OptimizerSection, value: &Tensor) -> Result<Vec<Spec>> {
        let like = |dtype| Spec { dims: value.dims(), dtype };
        Ok(match section.kind() {
            OptimizerKind::Adamw8bit if value.count() >= section.min_8bit_size => {
                let blocks = Spec::new(&[value.count().div_ceil(AdamW8bit::BLOCK)], DType::F32)?;
                vec![like(DType::U8), like(DType::U8), blocks, blocks]
            }
            OptimizerKind::Adamw | OptimizerKind::Adamw8bit => vec![like(DType::F32), like(DType::F32)],
            OptimizerKind::Sgd if section.momentum != 0.0 => vec![like(DType::F32)],
            OptimizerKind::Sgd => Vec::new(),
        })
    }

    fn from_tensors(tensors: &mut dyn Iterator<Item = Tensor>) -> Self {
        match (tensors.next(), tensors.next(), tensors.next(), tensors.next()) {
            (Some(m), Some(v), Some(absmax_m), Some(absmax_v)) => {
                Self::Moments8bit(Box::new(Moments8bit { m, v, absmax_m, absmax_v }))
            }
            (Some(m), Some(v), ..) => Self::Moments { m, v },
            (Some(momentum), ..) => Self::Momentum(momentum),
            _ => Self::Nothing,
        }
    }

    /// Its tensors with their names in checkpoints, which are followed by a dot and the parameter's.
    fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Self::Moments { m, v } => vec![("m", m), ("v", v)],
            Self::Moments8bit(s) => {
                vec![("m", &s.m), ("v", &s.v), ("absmax_m", &s.absmax_m), ("absmax_v", &s.absmax_v)]
            }
            Self::Momentum(momentum) => vec![("momentum", momentum)],
            Self::Nothing => Vec::new(),
        }
    }
}

/// An optimiser over a list of parameters.
pub struct Optimizer {
    /// In the order of the model.
    pub parameters: Vec<Parameter>,
    section: OptimizerSection,
}

impl Optimizer {
    /// State of zeros for each of `tensors`.
    ///
    /// # Errors
    /// If there is no memory, or no room for the file that the state is to lie in.
    pub fn new(tensors: Vec<(String, Tensor)>, section: &OptimizerSection) -> Result<Self> {
        let specs: Vec<Vec<Spec>> =
            tensors.iter().map(|(_, value)| State::specs(section, value)).collect::<Result<_>>()?;
        let mut state = tagged("optimizer", || zeros(&specs.concat(), &tensors, section))?.into_iter();
        let parameter = |((name, value), specs): ((String, Tensor), &Vec<Spec>)| {
            let state = State::from_tensors(&mut state.by_ref().take(specs.len()));
            let decay = section.decay_norms_and_biases || !is_norm_or_bias(&name);
            Parameter { name, value, state, decay }
        };
        let parameters = tensors.into_iter().zip(&specs).map(parameter).collect();
        Ok(Self { parameters, section: section.clone() })
    }

    /// Which optimiser it is.
    pub fn kind(&self) -> OptimizerKind {
        self.section.kind()
    }

    /// Every tensor of the state with its name in checkpoints.
    pub fn state(&self) -> Vec<(String, &Tensor)> {
        let each = self.parameters.iter().flat_map(|p| p.state.tensors().into_iter().map(move |s| (p, s)));
        each.map(|(p, (what, tensor))| (format!("{what}.{}", p.name), tensor)).collect()
    }

    /// Bytes of the state.
    pub fn state_bytes(&self) -> usize {
        self.state().iter().map(|(_, t)| t.bytes()).sum()
    }

    /// Norm of all gradients as one vector. Sums of f32 squares per tensor are added in f64, in the order of the
    /// parameters.
    pub fn global_norm(&self, gradients: &Gradients) -> Result<f64> {
        let _phase = phase("optimizer");
        let mut sum = 0.0;
        for gradient in self.parameters.iter().filter_map(|p| gradients.get(&p.value)) {
            sum += gradient.sum_squares()?.item()?;
        }
        Ok(sum.sqrt())
    }

    /// Step number `step` (from 1) at rate `lr`; `scale` multiplies the gradients first, inside the update: it
    /// takes no pass over memory of its own. A parameter that no gradient reached stays as it is.
    pub fn step(&self, gradients: &mut Gradients, step: usize, lr: f64, scale: f32) -> Result<()> {
        let _phase = phase("optimizer");
        // Parameters that decay, then those that do not: `AdamW` takes all of a kind at once.
        for decay in [true, false] {
            let reached: Vec<(&Parameter, Tensor)> = self
                .parameters
                .iter()
                .filter(|p| p.decay == decay)
                .filter_map(|p| Some((p, gradients.take(&p.value)?)))
                .collect();
            let weight_decay = if decay { self.section.weight_decay } else { 0.0 };
            let adamw = AdamW {
                lr,
                beta1: self.section.beta1,
                beta2: self.section.beta2,
                eps: self.section.eps,
                weight_decay,
                step: u32::try_from(step).unwrap_or(u32::MAX),
                grad_scale: scale,
            };
            let sgd = Sgd { lr, momentum: self.section.momentum, weight_decay, grad_scale: scale };
            let (mut whole, mut eight_bits) = (Vec::new(), Vec::new());
            for (p, gradient) in &reached {
                match &p.state {
                    State::Moments { m, v } => whole.push([&p.value, m, v, gradient]),
                    State::Moments8bit(state) => eight_bits.push((&p.value, &**state, gradient)),
                    State::Momentum(buffer) => Tensor::sgd_step(&p.value, Some(buffer), gradient, &sgd)?,
                    State::Nothing => Tensor::sgd_step(&p.value, None, gradient, &sgd)?,
                }
            }
            Tensor::adamw_steps(&whole, &adamw)?;
            Tensor::adamw8bit_steps(&eight_bits, &adamw)?;
        }
        Ok(())
    }
}

/// Tensors of zeros, in memory or in the file that `section` names.
fn zeros(specs: &[Spec], parameters: &[(String, Tensor)], section: &OptimizerSection) -> Result<Vec<Tensor>> {
    let Some((_, first)) = parameters.first() else { return Ok(Vec::new()) };
    let device = first.device();
    match section.state {
        StatePlace::Memory => {
            Ok(specs.iter().map(|s| Tensor::zeros(&s.dims, s.dtype, device)).collect::<Result<_, _>>()?)
        }
        StatePlace::File => {
            let path = section.state_file.as_deref().ok_or_else(|| {
                Error::config("[optimizer]", "`state = \"file\"` needs a path in `state_file`")
            })?;
            Ok(Tensor::zeros_in_file(path, specs, device)?)
        }
    }
}

/// Whether transformers leaves a parameter of this name out of weight decay: biases, and the weights of norms, as
/// all norms of the supported models have "norm" in their module's name. The matrices of `LoRA` are neither.
fn is_norm_or_bias(name: &str) -> bool {
    name.split('.').any(|part| part == "bias" || part.contains("norm"))
}

/// What torch's `clip_grad_norm_` multiplies gradients of norm `norm` by: `min(1, limit/(norm + 1e-6))`; a
/// `limit` of 0 means never.
pub fn clip_factor(norm: f64, limit: f64) -> f32 {
    if limit == 0.0 { 1.0 } else { (limit / (norm + 1e-6)).min(1.0) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_and_biases_are_told_by_name() {
        for name in [
            "model.text_model.norm.weight",
            "model.text_model.layers.0.input_layernorm.weight",
            "model.vision_model.encoder.layers.3.layer_norm1.bias",
            "model.vision_model.post_layernorm.weight",
            "vision_tower.vision_model.pre_layrnorm.weight",
            "model.vision_model.encoder.layers.3.mlp.fc1.bias",
        ] {
            assert!(is_norm_or_bias(name), "{name}");
        }
        for name in [
            "lm_head.weight",
            "model.text_model.layers.0.self_attn.q_proj.lora_A.weight",
            "model.text_model.layers.0.self_attn.q_proj.lora_B.weight",
            "vision_model.embeddings.class_embedding",
            "model.vision_model.embeddings.position_embedding.weight",
        ] {
            assert!(!is_norm_or_bias(name), "{name}");
        }
    }
}
