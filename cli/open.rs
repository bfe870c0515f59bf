//! Opening a model: a folder, a GGUF file, or the one that is part of the program.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, anyhow};
use clap::ValueEnum;
use engine::{DType, Device};
use model::bundle::Bundle;

use crate::{demo, output};

/// Which model, and in which type.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// A folder in Hugging Face layout or a .gguf file [default: the demonstration model of this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Type to hold weights and compute in [default: as the file has them; f32 for block-quantised GGUF]
    #[arg(long, value_name = "TYPE")]
    pub(crate) dtype: Option<FloatType>,
    /// A LoRA adapter to put on the model: a folder as PEFT writes it
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter: Option<PathBuf>,
}

/// A type to compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FloatType {
    /// IEEE single precision
    F32,
    /// bfloat16; sums are kept in f32
    Bf16,
}

impl From<FloatType> for DType {
    fn from(dtype: FloatType) -> Self {
        match dtype {
            FloatType::F32 => Self::F32,
            FloatType::Bf16 => Self::BF16,
        }
    }
}

/// Said where there is no demonstration model and none was given.
pub(crate) const NO_MODEL: &str =
    "this program was built without the demonstration model (assets/demo); give --model PATH";

impl ModelArgs {
    /// Opens it.
    pub(crate) fn open(&self, device: &Device) -> Result<Bundle> {
        let started = Instant::now();
        let dtype = self.dtype.map(DType::from);
        let mut bundle = match &self.model {
            Some(path) => Bundle::open(path, dtype, device)?,
            None => Bundle::embedded(demo::model().ok_or_else(|| anyhow!(NO_MODEL))?, dtype, device)?,
        };
        if let Some(folder) = &self.adapter {
            bundle.attach(folder)?.iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        tracing::info!(
            "{}: {} parameters, opened in {:.3} s",
            bundle.origin,
            output::grouped(bundle.config.parameter_count().total()),
            started.elapsed().as_secs_f64()
        );
        Ok(bundle)
    }
}
