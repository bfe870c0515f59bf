//! The model that is measured: a published shape with random weights, or files.

use std::path::Path;
use std::sync::Arc;

use ::model::bundle::{Bundle, Network, network};
use ::model::config::Config;
use ::model::loader::Loader;
use ::model::quantize::SKIPPED;
use engine::weights::Weights;
use engine::{DType, Device, QuantConfig};

use super::memory::available;
use crate::op::models::config;
use crate::{Error, Result};

/// How weights are held.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Type of weights and arithmetic; of a mixed one, the type that is multiplied in.
    pub dtype: DType,
    /// Linear layers in NF4 with double quantisation, all but the head.
    pub nf4: bool,
    /// The residual stream in f32 over products in `dtype`: QLoRA's recipe "n".
    pub mixed: bool,
}

impl How {
    /// Type of the residual stream.
    pub fn stream(&self) -> DType {
        if self.mixed { DType::F32 } else { self.dtype }
    }

    /// Bytes of a model's weights, mapped files included.
    pub fn bytes(&self, config: &Config) -> u64 {
        let element = self.stream().size() as u64;
        if self.nf4 {
            config.quantized_sizes(&QuantConfig::default(), &SKIPPED.map(str::to_owned)).total_bytes(element)
        } else {
            config.parameter_count().total() * element
        }
    }

    /// As `bf16` or `NF4, double quantised`.
    pub fn weights(&self) -> String {
        if self.nf4 { "NF4, double quantised".into() } else { self.dtype.name().to_owned() }
    }
}

/// A model, ready to be measured.
pub struct Subject {
    /// As it was asked for.
    pub name: String,
    /// Whether its weights are random.
    pub random: bool,
    /// Sizes.
    pub config: Config,
    /// How its weights are held.
    pub how: How,
    /// The network.
    pub network: Network,
    /// Bytes of its weights.
    pub loaded: u64,
}

impl Subject {
    /// A known name or a `config.json` (random weights), a folder in Hugging Face layout, or a GGUF file.
    ///
    /// # Errors
    /// If there is no such model, its files are broken, or its weights do not fit into memory.
    pub fn open(what: &str, how: How, device: &Device) -> Result<Self> {
        let path = Path::new(what);
        if path.is_dir() {
            let config = Config::from_file(path.join("config.json")).map_err(::model::Error::from)?;
            Self::fits(what, &config, how)?;
            let weights = Arc::new(Weights::open(path).map_err(::model::Error::from)?);
            let loader = Loader::from_weights(weights, Some(how.stream()), device);
            return Self::assemble(what, loader, config, how, false, device);
        }
        if path.extension().is_some_and(|e| e == "gguf") {
            if how.nf4 || how.mixed {
                return Err(Error::Input(format!(
                    "{what}: NF4 and mixed types are made from a folder; write one with `roentgen convert {what} FOLDER`"
                )));
            }
            let Bundle { config, network, .. } = Bundle::open(path, Some(how.dtype), device)?;
            let loaded = how.bytes(&config);
            return Ok(Self { name: what.into(), random: false, config, how, network, loaded });
        }
        let config = config(what).map_err(|error| match error {
            Error::Input(text) => Error::Input(format!("{text}, a folder or a .gguf file")),
            other => other,
        })?;
        Self::fits(what, &config, how)?;
        Self::assemble(what, Loader::random(1, how.stream(), device), config, how, true, device)
    }

    fn assemble(
        name: &str,
        loader: Loader,
        config: Config,
        how: How,
        random: bool,
        device: &Device,
    ) -> Result<Self> {
        let loader = if how.nf4 {
            loader.quantized(QuantConfig::default(), SKIPPED.map(str::to_owned).into())
        } else {
            loader
        };
        let loader = if how.mixed { loader.computing_in(how.dtype) } else { loader };
        let network = network(&loader, &config)?;
        drop(loader);
        let loaded = how.bytes(&config);
        // As every command does after loading.
        device.trim();
        Ok(Self { name: name.into(), random, config, how, network, loaded })
    }

    /// Refuses weights that would drive the machine into the ground.
    fn fits(what: &str, config: &Config, how: How) -> Result<()> {
        let bytes = how.bytes(config);
        match available() {
            Some(free) if bytes > free => Err(Error::Input(format!(
                "{what}: its weights take {:.1} GB, and {:.1} GB of memory are free; try --nf4 or a smaller model",
                bytes as f64 / 1e9,
                free as f64 / 1e9
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_model_is_said() {
        let how = How { dtype: DType::BF16, nf4: false, mixed: false };
        let error = Subject::open("no-such-model", how, &Device::cpu()).err().unwrap().to_string();
        assert!(error.contains("no-such-model") && error.contains("smolvlm-256m"), "{error}");
    }
}
