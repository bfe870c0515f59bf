//! An adapter as a folder: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine::weights::{Entry, FileDType, Weights, write_safetensors};
use engine::{DType, Device, Tensor};

use super::adapter::{Adapter, Module, layer, lora};
use super::{LoraConfig, TargetKind};
use crate::bundle::Network;
use crate::error::{Error, Result};
use crate::files::{create_folder, write};
use crate::nn::{DropoutState, Full};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
/// Before every name in the file.
const PREFIX: &str = "base_model.model.";
/// Longest configuration looked at; a real one has a few kilobytes.
const LONGEST: u64 = 1 << 20;

impl Adapter {
    /// Opens a PEFT folder for `network`, to be attached and not trained.
    ///
    /// # Errors
    /// If a file is missing or damaged, holds values that are not finite, or belongs to another model; the message
    /// names the file, the module and the shapes.
    pub fn open(folder: &Path, network: &Network) -> Result<Self> {
        Self::read(folder, network, false)
    }

    /// As [`Self::open`], with leaves of the tape in memory of their own, to train on.
    pub fn open_trainable(folder: &Path, network: &Network) -> Result<Self> {
        Self::read(folder, network, true)
    }

    fn read(folder: &Path, network: &Network, tracked: bool) -> Result<Self> {
        let (config, unknown) = read_config(folder)?;
        let path = folder.join(WEIGHTS);
        if !path.is_file() {
            return Err(Error::Input(format!(
                "{}: missing; an adapter is a folder with {CONFIG} and {WEIGHTS}",
                path.display()
            )));
        }
        let weights = Weights::open(&path)?;
        network.in_halves()?;
        let layers = network.linears();
        let in_folder = |e: Error| Error::Input(format!("{}: {e}", folder.display()));
        let targets =
            config.targets(layers.iter().map(|l| (l.path.as_str(), l.weight.dims()))).map_err(in_folder)?;
        let dropout = DropoutState::new();
        let mut modules = Vec::with_capacity(targets.len());
        let mut known = std::collections::HashSet::new();
        let device = network.device();
        for target in targets {
            let layer = layer(&layers, &target.path)?;
            let mut take = |part: &str, dims: &[usize]| {
                let name = format!("{PREFIX}{}.{part}", target.path);
                let tensor = read(&weights, &name, dims, &target.path, device);
                known.insert(name);
                tensor
            };
            let [out, inner] = target.dims;
            let module = match target.kind {
                TargetKind::Lora { rank, dora, .. } => {
                    let factors =
                        [take("lora_A.weight", &[rank, inner])?, take("lora_B.weight", &[out, rank])?];
                    let magnitude = if dora { Some(take("lora_magnitude_vector", &[out])?) } else { None };
                    lora(&config, &target, layer, factors, magnitude, tracked, &dropout)?
                }
                TargetKind::Full => {
                    let leaf = |t: Tensor| if tracked { t.tracked() } else { t };
                    let weight = leaf(take("weight", &[out, inner])?);
                    let bias = match &layer.bias {
                        Some(_) => Some(leaf(take("bias", &[out])?)),
                        None => None,
                    };
                    Module::Full(Arc::new(Full { weight, bias }))
                }
            };
            modules.push((target.path.clone(), module));
        }
        if let Some(entry) = weights.entries().iter().find(|e| !known.contains(e.name())) {
            return Err(entry.error(stranger(entry, &layers)).into());
        }
        let warnings = match &unknown[..] {
            [] => Vec::new(),
            keys => vec![format!(
                "{}: unknown keys are ignored: {}",
                folder.join(CONFIG).display(),
                keys.join(", ")
            )],
        };
        Ok(Self { config, modules, warnings, dropout })
    }

    /// Writes the folder, each file beside and renamed, the weights last. Names and order are PEFT's.
    pub fn save(&self, folder: &Path) -> Result<()> {
        create_folder(folder)?;
        write(&folder.join(CONFIG), self.config.to_json().as_bytes())?;
        let mut tensors = Vec::new();
        for (name, tensor) in self.parameters() {
            tensors.push((name, tensor.dims().to_vec(), tensor.detach().to_dtype(DType::F32)?.to_bytes()?));
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let list =
            tensors.iter().map(|(name, dims, bytes)| (name.as_str(), FileDType::F32, &dims[..], &bytes[..]));
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        Ok(write_safetensors(folder.join(WEIGHTS), list, &metadata)?)
    }
}

fn read_config(folder: &Path) -> Result<(LoraConfig, Vec<String>)> {
    let path = folder.join(CONFIG);
    let failed = |e: std::io::Error| {
        let hint = if e.kind() == std::io::ErrorKind::NotFound {
            format!("missing; an adapter is a folder with {CONFIG} and {WEIGHTS}")
        } else {
            e.to_string()
        };
        Error::Input(format!("{}: {hint}", path.display()))
    };
    if std::fs::metadata(&path).map_err(failed)?.len() > LONGEST {
        return Err(Error::Input(format!("{}: is larger than {LONGEST} bytes", path.display())));
    }
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    LoraConfig::from_json(&text, &path.display().to_string())
}

/// A tensor of the file in f32, in memory of its own.
fn read(weights: &Weights, name: &str, dims: &[usize], module: &str, device: &Device) -> Result<Tensor> {
    let entry = weights.require(name)?;
    if entry.shape() != dims {
        return Err(entry
            .error(format!(
                "has shape {:?}, the model's {module} needs {dims:?}: the adapter belongs to another model or rank",
                entry.shape()
            ))
            .into());
    }
    let values = entry.to_f32()?;
    if let Some(at) = values.iter().position(|x| !x.is_finite()) {
        return Err(entry.error(format!("holds a value that is not finite at element {at}")).into());
    }
    Ok(Tensor::from_slice(&values, dims, device)?)
}

/// What is wrong with a tensor that no target asked for.
fn stranger(entry: &Entry, layers: &[&crate::nn::Linear]) -> String {
    let path = entry.name().strip_prefix(PREFIX).unwrap_or(entry.name());
    let module = ["lora_A", "lora_B", "lora_magnitude_vector", "weight", "bias"]
        .iter()
        .find_map(|part| path.find(&format!(".{part}")).map(|at| &path[..at]));
    match module {
        Some(module) if layers.iter().any(|l| l.path == module) => {
            format!("is for {module}, which `target_modules` in {CONFIG} does not name")
        }
        Some(module) => format!("is for {module}, which is no linear layer of this model: the adapter belongs to another"),
        None => "is no part of a LoRA adapter that is supported (low-rank terms of linear layers, and whole linear layers)".into(),
    }
}
