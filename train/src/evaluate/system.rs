//! The models that are compared.

use std::path::PathBuf;

use engine::{DType, Device, QuantConfig};
use model::bundle::{Bundle, Embedded};

use crate::config::ImageSection;
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
    /// How the run cut images, where that is not as the model's folder says.
    pub image: ImageSection,
    /// An adapter's folder, put on the model.
    pub adapter: Option<PathBuf>,
}

impl SystemSpec {
    /// What stands for it in files and messages.
    pub fn origin(&self) -> String {
        let source = match &self.source {
            Source::Path(path) => path.display().to_string(),
            Source::Embedded(files) => files.name.to_owned(),
        };
        let quantized = self.quantized.as_ref().map(|(config, _)| format!(" in {}", config.codebook.name()));
        let adapter = self.adapter.as_ref().map(|adapter| format!(" with {}", adapter.display()));
        source + &quantized.unwrap_or_default() + &adapter.unwrap_or_default()
    }
}

/// Opens a model of an evaluation: the one place that knows what a path may be.
///
/// # Errors
/// If the model cannot be opened.
pub fn open_system(spec: &SystemSpec, device: &Device) -> Result<Bundle> {
    let mut bundle = match (&spec.source, &spec.quantized) {
        (Source::Path(path), Some((config, skip))) if path.is_dir() => {
            Bundle::open_quantized(path, spec.dtype, *config, skip.clone(), device)?
        }
        (Source::Path(path), _) => Bundle::open(path, spec.dtype, device)?,
        (Source::Embedded(files), _) => Bundle::embedded(*files, spec.dtype, device)?,
    };
    if let Some(folder) = &spec.adapter {
        bundle.attach(folder)?.iter().for_each(|warning| tracing::warn!("{warning}"));
    }
    if let Some(processor) = &bundle.processor {
        let mut settings = processor.config().clone();
        if spec.image.apply(&mut settings) {
            bundle.prepare_images(settings, "[image]")?;
        }
    }
    Ok(bundle)
}
