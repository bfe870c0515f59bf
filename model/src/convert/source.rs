//! The model that is converted.

use std::path::Path;

use engine::weights::Weights;
use engine::{DType, Device, Tensor};

use crate::bundle::{gguf_config, gguf_name};
use crate::config::{Config, GenerationConfig, PreprocessorConfig};
use crate::error::{Error, Result};
use crate::export::{Make, entry_tensor};
use crate::quantize;
use crate::tokenizer::{GgufVocab, Tokenizer};

/// A model's files, its weights unread.
pub(super) struct Source {
    weights: Weights,
    config: Config,
    /// GGUF's names and row order.
    gguf: bool,
}

/// What is written beside the weights.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Option<String>,
    pub(super) generation: GenerationConfig,
    pub(super) preprocessor: Option<PreprocessorConfig>,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let weights = Weights::open(path)?;
        if let Some(meta) = weights.gguf() {
            let config = gguf_config(meta, &weights)?;
            return Ok(Self { config, weights, gguf: true });
        }
        if !path.is_dir() {
            return Err(Error::Input(format!(
                "{}: one weight file without sizes; name its folder or a .gguf file",
                path.display()
            )));
        }
        let config = Config::from_file(path.join("config.json"))?;
        Ok(Self { config, weights, gguf: false })
    }

    pub(super) fn parts(&self) -> Result<Parts> {
        if self.gguf { self.gguf_parts() } else { self.folder_parts() }
    }

    fn gguf_parts(&self) -> Result<Parts> {
        let origin = self.weights.path().display().to_string();
        let info = match self.weights.gguf() {
            Some(meta) => meta.tokenizer()?,
            None => None,
        };
        let info = info.ok_or_else(|| Error::Input(format!("{origin}: carries no tokenizer")))?;
        let mut config = self.config.clone();
        config.bos_token_id = info.bos;
        config.eos_token_ids = info.eos.into_iter().collect();
        config.pad_token_id = info.pad;
        let mut ends: Vec<u32> = info.eos.into_iter().chain(info.eot).collect();
        ends.dedup();
        let generation = GenerationConfig {
            bos_token_id: info.bos,
            eos_token_ids: ends,
            pad_token_id: info.pad,
            ..GenerationConfig::default()
        };
        let template = info.chat_template.clone();
        let tokenizer = Tokenizer::from_gguf(&GgufVocab::from(info), &origin)?;
        Ok(Parts { config, tokenizer, template, generation, preprocessor: None })
    }

    fn folder_parts(&self) -> Result<Parts> {
        let folder = self.weights.path();
        let generation = folder.join("generation_config.json");
        let preprocessor = folder.join("preprocessor_config.json");
        Ok(Parts {
            config: self.config.clone(),
            tokenizer: Tokenizer::from_file(folder.join("tokenizer.json"))?,
            template: template(folder)?,
            generation: if generation.is_file() {
                GenerationConfig::from_file(generation)?
            } else {
                GenerationConfig {
                    bos_token_id: self.config.bos_token_id,
                    eos_token_ids: self.config.eos_token_ids.clone(),
                    pad_token_id: self.config.pad_token_id,
                    ..GenerationConfig::default()
                }
            },
            preprocessor: match &self.config.image {
                Some(_) if preprocessor.is_file() => Some(PreprocessorConfig::from_file(preprocessor)?),
                Some(image) => Some(PreprocessorConfig::with_tile_edge(image.vision.image_size)),
                None => None,
            },
        })
    }

    /// Makes the tensor that Hugging Face files call `name`.
    pub(super) fn make<'a>(&'a self, name: &str, shape: &[usize], device: &Device) -> Result<Make<'a>> {
        let device = device.clone();
        if !self.gguf && quantize::is_quantized(&self.weights, name) {
            let name = name.to_owned();
            return Ok(Box::new(move || {
                Ok(quantize::read(&self.weights, &name, &device)?.dequantize(DType::F32)?)
            }));
        }
        let stored = if self.gguf { gguf_name(name) } else { None };
        let entry = self.weights.require(stored.as_deref().unwrap_or(name))?;
        if entry.shape() != shape {
            return Err(Error::Shape {
                path: entry.path().display().to_string(),
                name: entry.name().to_owned(),
                found: entry.shape().to_vec(),
                wanted: shape.to_vec(),
            });
        }
        let rotated = self.gguf && (name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight"));
        let head = self.config.text.head_dim;
        Ok(Box::new(move || {
            let tensor = entry_tensor(entry, &device)?;
            if rotated { halves(&tensor, head) } else { Ok(tensor) }
        }))
    }

    /// Sizes.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }
}

/// Rows of each head from GGUF's order, in which the two of a rotated pair are neighbours, to that of Hugging Face, in
/// which the second ones follow all the first.
fn halves(weight: &Tensor, head: usize) -> Result<Tensor> {
    let &[rows, inner] = &*weight.dims() else {
        return Err(Error::Input(format!("a weight of shape {:?} is no matrix", weight.dims())));
    };
    let split = weight.reshape(&[rows / head, head / 2, 2, inner])?;
    Ok(split.permute(&[0, 2, 1, 3])?.reshape(&[rows, inner])?)
}

/// Text of a folder's template.
fn template(folder: &Path) -> Result<Option<String>> {
    let wrong = |path: &Path, e: String| Error::Input(format!("{}: {e}", path.display()));
    for name in ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(wrong(&path, e.to_string())),
        };
        if name == "chat_template.jinja" {
            return Ok(Some(text));
        }
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| wrong(&path, e.to_string()))?;
        if let Some(template) = json["chat_template"].as_str() {
            return Ok(Some(template.to_owned()));
        }
    }
    Ok(None)
}
