//! The models that are compared.

use std::path::PathBuf;

use engine::{DType, Device};
use model::bundle::{Bundle, Embedded};

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
}

impl SystemSpec {
    /// What stands for it in files and messages.
    pub fn origin(&self) -> String {
        match &self.source {
            Source::Path(path) => path.display().to_string(),
            Source::Embedded(files) => files.name.to_owned(),
        }
    }
}

/// Opens a model of an evaluation: the one place that knows what a path may be.
///
/// # Errors
/// If the model cannot be opened.
pub fn open_system(spec: &SystemSpec, device: &Device) -> Result<Bundle> {
    Ok(match &spec.source {
        Source::Path(path) => Bundle::open(path, spec.dtype, device)?,
        Source::Embedded(files) => Bundle::embedded(*files, spec.dtype, device)?,
    })
}
