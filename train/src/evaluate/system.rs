//! The models that are compared.

use std::path::PathBuf;

use engine::{DType, Device, QuantConfig};
use model::bundle::{Bundle, Embedded};
use model::lora::Adapter;

use crate::error::Result;

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder in Hugging Face layout or a GGUF file.
    Path(PathBuf),
    /// A model that is part of the program.
    Embedded(Embedded),
}

/// A model to open.
#[derive(Clone, Debug)]
pub struct SystemSpec {
    /// Where it comes from.
    pub source: Source,
    /// Type to hold weights and compute in; `None`: as the file has them.
    pub dtype: Option<DType>,
    /// Linear layers in 4 bits, but for the modules named; for folders.
    pub quantized: Option<(QuantConfig, Vec<String>)>,
    /// An adapter's folder, put on the model.
    pub adapter: Option<PathBuf>,
}

impl SystemSpec {
    /// What stands for it in files and messages.
    pub fn origin(&self) -> String {
        let mut text = match &self.source {
            Source::Path(path) => path.display().to_string(),
            Source::Embedded(files) => files.name.to_owned(),
        };
        if let Some((config, _)) = &self.quantized {
            text.push_str(" in ");
            text.push_str(config.codebook.name());
        }
        if let Some(adapter) = &self.adapter {
            text.push_str(" with ");
            text.push_str(&adapter.display().to_string());
        }
        text
    }
}

/// Opens a model of an evaluation: the one place that knows what a path may be.
///
/// # Errors
/// If the model cannot be opened.
pub fn open_system(spec: &SystemSpec, device: &Device) -> Result<Bundle> {
    let bundle = match (&spec.source, &spec.quantized) {
        (Source::Path(path), Some((config, skip))) if path.is_dir() => {
            Bundle::open_quantized(path, spec.dtype, *config, skip.clone(), device)?
        }
        (Source::Path(path), _) => Bundle::open(path, spec.dtype, device)?,
        (Source::Embedded(files), _) => Bundle::embedded(*files, spec.dtype, device)?,
    };
    if let Some(folder) = &spec.adapter {
        let adapter = Adapter::open(folder, &bundle.network)?;
        adapter.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        bundle.network.attach(&adapter)?;
    }
    Ok(bundle)
}
