//! An adapter folded into the weights of its model.

use std::path::Path;
use std::sync::Arc;

use engine::weights::Weights;
use engine::{DType, Device, QuantConfig, Tensor, no_grad};

use super::{Adapter, Module};
use crate::bundle::network;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::export::{Job, QuantError, apart, copy_along, edited_config, entry_tensor, write_weights};
use crate::files::{create_folder, write_json};
use crate::loader::Loader;
use crate::nn::{Linear, Weight};
use crate::quantize::{quantization_config, skips};

/// The weight of `layer` with what `module` adds, f32 `[out, in]`: W + s·B·A, with a magnitude m
/// (m/‖W + s·B·A‖)·(W + s·B·A); or the module's own weight.
pub fn merged(layer: &Linear, module: &Module) -> engine::Result<Tensor> {
    no_grad(|| match module {
        Module::Full(full) => full.weight.detach().to_dtype(DType::F32),
        Module::Lora(lora) => {
            let term = lora.b.detach().matmul(&lora.a.detach())?.affine(lora.scale, 0.0)?;
            // In the type that the weight has, or had before quantisation, as PEFT.
            let w = layer.weight.to_dense(layer.weight.dtype())?.to_dtype(DType::F32)?;
            let sum = w.add(&term)?;
            match lora.magnitude_factor(&layer.weight)? {
                None => Ok(sum),
                Some(factor) => sum.mul(&factor.unsqueeze(1)?),
            }
        }
    })
}

/// How a merged model is written.
#[derive(Clone, Debug, PartialEq)]
pub enum MergedForm {
    /// Everything in this type.
    Float(DType),
    /// Linear layers in 4 bits but for those that [`skips`] finds, the rest as it was. Layers that the adapter does not
    /// touch keep the codes that they have; the others are rounded a second time.
    Quantized(QuantConfig, Vec<String>),
}

/// Writes the model of the folder `model` with the adapter of `adapter` folded in to `to`. Quantised weights are expanded
/// one at a time. `on_tensor` gets the number of tensors and the name of each in turn.
///
/// Returns the rounding of each weight that was quantised.
///
/// # Errors
/// If the adapter is not this model's, or trains an output projection that is tied to the embedding.
pub fn merge_folder(
    model: &Path,
    adapter: &Path,
    to: &Path,
    form: &MergedForm,
    on_tensor: &mut dyn FnMut(usize, &str),
) -> Result<Vec<QuantError>> {
    apart(model, to)?;
    let config = Config::from_file(model.join("config.json"))?;
    let weights = Arc::new(Weights::open(model)?);
    let device = Device::cpu();
    let network = network(&Loader::from_weights(weights.clone(), None, &device), &config)?;
    let adapter = Adapter::open(adapter, &network)?;
    if config.tie_word_embeddings
        && let Some((path, _)) = adapter.modules.iter().find(|(path, _)| path == "lm_head")
    {
        return Err(Error::Input(format!(
            "the adapter changes {path}, which is tied to the embedding: it cannot be folded in; use it with --adapter"
        )));
    }
    let linears = network.linears();
    let mut jobs = Vec::new();
    for tensor in config.tensors() {
        let (name, shape) = (tensor.name, tensor.shape);
        let (path, part) = name.rsplit_once('.').unwrap_or((&name, ""));
        let layer = linears.iter().copied().find(|l| l.path == path);
        let module = adapter.modules.iter().find(|(p, _)| p == path).map(|(_, m)| m);
        match (layer, part) {
            (Some(layer), "weight") => {
                jobs.extend(weight(&weights, layer, module, form, name.clone(), shape)?);
            }
            (Some(_), "bias") => {
                let full = match module {
                    Some(Module::Full(full)) => full.bias.as_ref(),
                    _ => None,
                };
                let entry = weights.require(&name)?;
                jobs.push(other(entry, full, form, &device));
            }
            _ => jobs.push(other(weights.require(&name)?, None, form, &device)),
        }
    }
    let (dtype, quantization) = match form {
        MergedForm::Float(dtype) => (Some(*dtype), None),
        MergedForm::Quantized(config, skip) => (None, Some(quantization_config(config, skip))),
    };
    create_folder(to)?;
    copy_along(model, to)?;
    write_json(&to.join("config.json"), &edited_config(model, dtype, quantization)?)?;
    write_weights(&to.join("model.safetensors"), &jobs, &mut |name| on_tensor(jobs.len(), name))
}

/// A tensor that is no linear weight.
fn other<'a>(
    entry: &'a engine::weights::Entry,
    full: Option<&'a Tensor>,
    form: &MergedForm,
    device: &Device,
) -> Job<'a> {
    let (name, shape, device) = (entry.name().to_owned(), entry.shape().to_vec(), device.clone());
    let make = Box::new(move || full.map_or_else(|| entry_tensor(entry, &device), |t| Ok(t.detach())));
    match (form, full) {
        (MergedForm::Float(dtype), _) => Job::Float { name, shape, dtype: *dtype, make },
        (MergedForm::Quantized(..), Some(_)) => Job::Float { name, shape, dtype: DType::F32, make },
        (MergedForm::Quantized(..), None) => Job::Stored(entry),
    }
}

/// The weight of a linear layer; of one that stays in 4 bits all its tensors.
fn weight<'a>(
    weights: &'a Weights,
    layer: &'a Linear,
    module: Option<&'a Module>,
    form: &MergedForm,
    name: String,
    shape: Vec<usize>,
) -> Result<Vec<Job<'a>>> {
    let make = Box::new(move || match module {
        Some(module) => Ok(merged(layer, module)?),
        None => Ok(layer.weight.to_dense(layer.weight.dtype())?),
    });
    Ok(match form {
        MergedForm::Float(dtype) => vec![Job::Float { name, shape, dtype: *dtype, make }],
        MergedForm::Quantized(config, skip) => match (&layer.weight, module) {
            (Weight::Quantized(_), None) => {
                let beside = format!("{name}.");
                let own = |e: &&engine::weights::Entry| e.name() == name || e.name().starts_with(&beside);
                weights.entries().iter().filter(own).map(Job::Stored).collect()
            }
            (Weight::Dense(w), _) if skips(&layer.path, skip) => match module {
                Some(_) => vec![Job::Float { name, shape, dtype: w.dtype(), make }],
                None => vec![Job::Stored(weights.require(&name)?)],
            },
            _ => vec![Job::Quantized { name, config: *config, make }],
        },
    })
}
