//! `generation_config.json` and `preprocessor_config.json`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::raw::{OneOrMany, RawPreprocessor};
use super::{ConfigError, known, parse, read};

/// What `generation_config.json` says; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationConfig {
    /// First token of a sequence. (SmolVLM's template writes its own.)
    pub bos_token_id: Option<u32>,
    /// Tokens that end an answer.
    #[serde(rename = "eos_token_id", default, deserialize_with = "one_or_many")]
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// Most tokens to generate.
    pub max_new_tokens: Option<usize>,
    /// Sample rather than take the likeliest token.
    pub do_sample: Option<bool>,
    /// Divides the logits before sampling.
    pub temperature: Option<f32>,
    /// Keep the `top_k` likeliest tokens.
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens up to this total probability.
    pub top_p: Option<f32>,
    /// Divides the logits of tokens that the text already has.
    pub repetition_penalty: Option<f32>,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    Ok(Option::<OneOrMany>::deserialize(deserializer)?.map_or_else(Vec::new, OneOrMany::into_vec))
}

impl GenerationConfig {
    /// Reads `generation_config.json`.
    ///
    /// # Errors
    /// If the file cannot be read or has a value of the wrong type.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Self::from_json(&read(path)?, &path.display().to_string())
    }

    /// Parses the text of a `generation_config.json`; `origin` names it in errors.
    ///
    /// # Errors
    /// If a value has the wrong type.
    pub fn from_json(json: &str, origin: &str) -> Result<Self, ConfigError> {
        parse(json, origin)
    }

    /// The generation settings of a published model, see [`super::Config::known`].
    pub fn known(name: &str) -> Option<Self> {
        known::generation(name)
    }
}

/// What `preprocessor_config.json` says about images.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PreprocessorConfig {
    /// `do_image_splitting`: cut the image into tiles, besides the global image.
    pub do_image_splitting: bool,
    /// `size.longest_edge`: what the first resize makes of the longest edge.
    pub longest_edge: usize,
    /// `max_image_size.longest_edge`: edge of a tile.
    pub tile_edge: usize,
    /// `rescale_factor`: multiplies a byte, in f64.
    pub rescale_factor: f64,
    /// `image_mean` per channel, subtracted after the scaling.
    pub image_mean: [f32; 3],
    /// `image_std` per channel, divides last.
    pub image_std: [f32; 3],
}

/// The reference never makes an image larger (`MAX_IMAGE_SIZE` of `image_processing_idefics3.py`).
const LONGEST_EDGE: usize = 4096;
/// Tiles along one edge. Published models use 4; the vocabulary has names for 6.
const TILES_PER_EDGE: usize = 16;

impl PreprocessorConfig {
    /// The published settings for tiles of `tile_edge` pixels, split at four tiles an edge.
    pub const fn with_tile_edge(tile_edge: usize) -> Self {
        Self {
            do_image_splitting: true,
            longest_edge: 4 * tile_edge,
            tile_edge,
            rescale_factor: 1.0 / 255.0,
            image_mean: [0.5; 3],
            image_std: [0.5; 3],
        }
    }

    /// Reads and validates `preprocessor_config.json`.
    ///
    /// # Errors
    /// If the file cannot be read, or asks for something that this crate does not compute.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Self::from_json(&read(path)?, &path.display().to_string())
    }

    /// Parses and validates the text of a `preprocessor_config.json`; `origin` names it in errors.
    ///
    /// # Errors
    /// As [`Self::from_file`].
    pub fn from_json(json: &str, origin: &str) -> Result<Self, ConfigError> {
        let raw: RawPreprocessor = parse(json, origin)?;
        let invalid = |key: &str, value: &dyn ToString, reason: &str| {
            Err(ConfigError::invalid(origin, key, value, reason))
        };
        if let Some(kind) = &raw.image_processor_type
            && !(kind.starts_with("Idefics3ImageProcessor") || kind.starts_with("SmolVLMImageProcessor"))
        {
            return invalid("image_processor_type", &format!("`{kind}`"), "expected Idefics3ImageProcessor");
        }
        if let Some(resample) = &raw.resample
            && resample.as_u64() != Some(1)
        {
            let name = match resample.as_u64() {
                Some(0) => "nearest",
                Some(2) => "bilinear",
                Some(3) => "bicubic",
                Some(4) => "box",
                Some(5) => "hamming",
                _ => "unknown",
            };
            return invalid("resample", &format!("{resample} ({name})"), "only 1 (Lanczos) is supported");
        }
        let switches = [
            ("do_resize", raw.do_resize),
            ("do_rescale", raw.do_rescale),
            ("do_normalize", raw.do_normalize),
        ];
        for (key, value) in switches {
            if value == Some(false) {
                return invalid(key, &false, "not supported: the vision tower needs this step");
            }
        }
        let defaults = Self::with_tile_edge(364);
        let edge = |value: Option<super::raw::LongestEdge>, key: &str, default: usize| match value {
            None => Ok(default),
            Some(value) => value.longest_edge.ok_or_else(|| {
                ConfigError::invalid(
                    origin,
                    key,
                    "without `longest_edge`",
                    "expected {\"longest_edge\": pixels}",
                )
            }),
        };
        let config = Self {
            do_image_splitting: raw.do_image_splitting.unwrap_or(true),
            longest_edge: edge(raw.size, "size", defaults.longest_edge)?,
            tile_edge: edge(raw.max_image_size, "max_image_size", defaults.tile_edge)?,
            rescale_factor: raw.rescale_factor.unwrap_or(1.0 / 255.0),
            image_mean: per_channel(raw.image_mean, "image_mean", origin)?,
            image_std: per_channel(raw.image_std, "image_std", origin)?,
        };
        config.validate(origin)?;
        Ok(config)
    }

    /// The image settings of a published model, see [`super::Config::known`].
    pub fn known(name: &str) -> Option<Self> {
        known::preprocessor(name)
    }

    /// Checks values that were set by hand (a flag for the longest edge); `origin` names their source.
    ///
    /// # Errors
    /// If an edge is zero or too large, or a scale makes values that are not finite.
    pub fn validate(&self, origin: &str) -> Result<(), ConfigError> {
        let invalid = |key: &str, value: &dyn ToString, reason: String| {
            Err(ConfigError::invalid(origin, key, value, reason))
        };
        for (key, edge) in
            [("size.longest_edge", self.longest_edge), ("max_image_size.longest_edge", self.tile_edge)]
        {
            if edge == 0 || edge > LONGEST_EDGE {
                return invalid(key, &edge, format!("expected 1 to {LONGEST_EDGE} pixels"));
            }
        }
        if self.longest_edge.div_ceil(self.tile_edge) > TILES_PER_EDGE {
            let reason = format!(
                "more than {TILES_PER_EDGE} tiles of {} pixels along one edge; give a smaller edge",
                self.tile_edge
            );
            return invalid("size.longest_edge", &self.longest_edge, reason);
        }
        if !(self.rescale_factor.is_finite() && self.rescale_factor > 0.0) {
            return invalid("rescale_factor", &self.rescale_factor, "expected a positive number".into());
        }
        for (&mean, &std) in self.image_mean.iter().zip(&self.image_std) {
            if !mean.is_finite() {
                return invalid("image_mean", &mean, "expected finite numbers".into());
            }
            if !(std.is_finite() && std > 0.0) {
                return invalid("image_std", &std, "expected positive numbers".into());
            }
        }
        Ok(())
    }

    /// The configuration as a `preprocessor_config.json`.
    pub fn to_json(&self) -> Value {
        serde_json::json!({
            "do_convert_rgb": true,
            "do_image_splitting": self.do_image_splitting,
            "do_normalize": true,
            "do_pad": true,
            "do_rescale": true,
            "do_resize": true,
            "image_mean": self.image_mean,
            "image_processor_type": "Idefics3ImageProcessor",
            "image_std": self.image_std,
            "max_image_size": { "longest_edge": self.tile_edge },
            "processor_class": "Idefics3Processor",
            "resample": 1,
            "rescale_factor": self.rescale_factor,
            "size": { "longest_edge": self.longest_edge },
        })
    }
}

fn per_channel(values: Option<Vec<f64>>, key: &str, origin: &str) -> Result<[f32; 3], ConfigError> {
    let Some(values) = values else { return Ok([0.5; 3]) };
    match values[..] {
        [r, g, b] => Ok([r as f32, g as f32, b as f32]),
        _ => Err(ConfigError::invalid(origin, key, &format!("{values:?}"), "expected three numbers")),
    }
}
