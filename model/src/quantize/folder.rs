//! A folder in 16 or 32 bits to one in 4.

use std::collections::HashSet;
use std::path::Path;

use engine::weights::{FileDType, Weights};
use engine::{Device, QuantConfig};

use super::{is_quantized, quantization_config, skips};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::export::{Job, QuantError, apart, copy_along, edited_config, entry_tensor, write_weights};
use crate::files::{create_folder, write_json};

/// Writes the model of `from` to `to` with its linear layers in 4 bits, but for those that [`skips`] finds in `skip`;
/// all other tensors and the small files go along as they are. One tensor is in memory at a time. `on_tensor` gets the
/// number of tensors and the name of each in turn.
///
/// Returns the error of each quantised weight.
pub fn quantize_folder(
    from: &Path,
    to: &Path,
    config: &QuantConfig,
    skip: &[String],
    on_tensor: &mut dyn FnMut(usize, &str),
) -> Result<Vec<QuantError>> {
    apart(from, to)?;
    let sizes = Config::from_file(from.join("config.json"))?;
    let weights = Weights::open(from)?;
    let linear: HashSet<String> = sizes
        .linears()
        .into_iter()
        .filter(|(path, _)| !skips(path, skip))
        .map(|(path, _)| format!("{path}.weight"))
        .collect();
    if let Some(entry) = weights.entries().iter().find(|e| is_quantized(&weights, e.name())) {
        return Err(entry.error("is quantised already; start from the folder in 16 or 32 bits").into());
    }
    let device = Device::cpu();
    let floats = [FileDType::F32, FileDType::BF16, FileDType::F16];
    let jobs: Vec<_> = weights
        .entries()
        .iter()
        .map(|entry| {
            if linear.contains(entry.name()) && floats.contains(&entry.dtype()) {
                let device = device.clone();
                let make = Box::new(move || entry_tensor(entry, &device));
                Job::Quantized { name: entry.name().to_owned(), config: *config, make }
            } else {
                Job::Stored(entry)
            }
        })
        .collect();
    if !jobs.iter().any(|job| matches!(job, Job::Quantized { .. })) {
        return Err(Error::Input(format!("{}: holds no linear layer to quantise", weights.path().display())));
    }
    create_folder(to)?;
    copy_along(from, to)?;
    write_json(
        &to.join("config.json"),
        &edited_config(from, None, Some(quantization_config(config, skip)))?,
    )?;
    write_weights(&to.join("model.safetensors"), &jobs, &mut |name| on_tensor(jobs.len(), name))
}
