//! What `config.json` says: the sizes of a SmolVLM (Idefics3) or plain Llama model.
//!
//! Missing keys take the defaults of transformers 4.51 (`configuration_idefics3.py`,
//! `configuration_smolvlm.py`, `configuration_llama.py`); unknown keys are ignored, as published files
//! carry dozens of them. Everything that would change the arithmetic and that this crate does not
//! compute is refused by name.

mod files;
mod json;
mod known;
mod plan;
mod raw;
mod tensors;
mod validate;
mod work;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use files::{GenerationConfig, PreprocessorConfig};
pub use plan::{QuantizedSizes, TrainingMemory, TrainingStep};
pub use tensors::{ParameterCount, Part, TensorShape};
pub use work::Work;

/// What can be wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not JSON, or a key with a value of the wrong type.
    #[error("{origin}: {source}")]
    Json {
        /// File name, or another name of the text's source.
        origin: String,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A value that no model can have.
    #[error("{origin}: `{key}` is {value}: {reason}")]
    Invalid {
        /// File name, or another name of the text's source.
        origin: String,
        /// The key, with its section.
        key: String,
        /// Its value.
        value: String,
        /// What is wrong and what is expected.
        reason: String,
    },
}

impl ConfigError {
    pub(crate) fn invalid(
        origin: &str,
        key: impl Into<String>,
        value: &(impl ToString + ?Sized),
        reason: impl Into<String>,
    ) -> Self {
        Self::Invalid {
            origin: origin.into(),
            key: key.into(),
            value: value.to_string(),
            reason: reason.into(),
        }
    }
}

/// The architectures that [`Config`] describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelType {
    /// `idefics3`: SmolVLM 256M, 500M and 2.2B.
    Idefics3,
    /// `smolvlm`: SmolVLM2; the same network.
    SmolVlm,
    /// `llama`: a text decoder alone.
    Llama,
}

impl ModelType {
    /// The value of `model_type` in `config.json`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idefics3 => "idefics3",
            Self::SmolVlm => "smolvlm",
            Self::Llama => "llama",
        }
    }
}

/// The SigLIP vision tower. Activation: tanh-approximated GELU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VisionConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads; each owns its keys and values.
    pub num_attention_heads: usize,
    /// Colour channels, always 3.
    pub num_channels: usize,
    /// Edge of a tile in pixels.
    pub image_size: usize,
    /// Edge of a patch in pixels; the patch convolution's kernel and stride.
    pub patch_size: usize,
    /// Epsilon of every layer norm.
    pub layer_norm_eps: f64,
}

impl VisionConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Patches along one edge of a tile; pixels beyond the last whole patch are never seen.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// The Llama decoder. Activation: SiLU; no biases; rotary positions in half-split pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TextConfig {
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the number of query heads.
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Epsilon of every RMS norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Longest sequence that the model was made for.
    pub max_position_embeddings: usize,
}

/// What only a vision-language model has.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VisionLanguageConfig {
    /// The vision tower.
    pub vision: VisionConfig,
    /// Pixel shuffle: `scale_factor`² patches become one token.
    pub scale_factor: usize,
    /// Id of `<image>`, whose embeddings are replaced by image features.
    pub image_token_id: u32,
}

impl VisionLanguageConfig {
    /// Tokens that one tile becomes: `(grid / scale_factor)²`, 81 for SmolVLM 2.2B and 64 for the others.
    pub fn tokens_per_tile(&self) -> usize {
        (self.vision.grid() / self.scale_factor).pow(2)
    }

    /// Width of the connector's input: `hidden_size · scale_factor²`.
    pub fn connector_input(&self) -> usize {
        self.vision.hidden_size * self.scale_factor.pow(2)
    }
}

/// A whole model's configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Config {
    /// The architecture.
    pub model_type: ModelType,
    /// The decoder.
    pub text: TextConfig,
    /// The vision tower and its connection; `None` for a text model.
    pub image: Option<VisionLanguageConfig>,
    /// The head is the embedding matrix, and has no tensor of its own.
    pub tie_word_embeddings: bool,
    /// First token of a sequence, as `config.json` has it.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text as `config.json` has them; `generation_config.json` has the last word.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// Stored element type by PyTorch's name (`bfloat16`); `None` where the file does not say.
    pub torch_dtype: Option<String>,
}

impl Config {
    /// Reads and validates `config.json`.
    ///
    /// # Errors
    /// If the file cannot be read, is not JSON, or describes no model that this crate computes.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Self::from_json(&read(path)?, &path.display().to_string())
    }

    /// Parses and validates the text of a `config.json`; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_json(json: &str, origin: &str) -> Result<Self, ConfigError> {
        let raw: raw::RawConfig = parse(json, origin)?;
        let config = raw.resolve(origin)?;
        config.validate(origin)?;
        Ok(config)
    }

    /// The configuration of a published model by its name, with or without the organisation
    /// (`HuggingFaceTB/`), in any case. See [`Self::known_names`].
    pub fn known(name: &str) -> Option<Self> {
        known::config(name)
    }

    /// Names that [`Self::known`] accepts.
    pub fn known_names() -> impl Iterator<Item = &'static str> {
        known::NAMES.iter().copied()
    }

    /// The vision part, or an error that says that the model has none.
    ///
    /// # Errors
    /// If this is a text model.
    pub fn vision_language(&self, origin: &str) -> Result<&VisionLanguageConfig, ConfigError> {
        self.image.as_ref().ok_or_else(|| {
            ConfigError::invalid(
                origin,
                "model_type",
                self.model_type.name(),
                "a text model has no vision tower; an image needs idefics3 or smolvlm",
            )
        })
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })
}

fn parse<T: serde::de::DeserializeOwned>(json: &str, origin: &str) -> Result<T, ConfigError> {
    serde_json::from_str(json).map_err(|source| ConfigError::Json { origin: origin.into(), source })
}
