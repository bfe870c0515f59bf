//! `config.json` as it is written: every key optional, `null` meaning absent.

use serde::Deserialize;
use serde_json::Value;

use super::{Config, ConfigError, ModelType, TextConfig, VisionConfig, VisionLanguageConfig};

/// `eos_token_id` may be one id or a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct RawConfig {
    model_type: Option<String>,
    text_config: Option<RawText>,
    vision_config: Option<RawVision>,
    scale_factor: Option<usize>,
    image_token_id: Option<u32>,
    /// The decoder's keys at the top level, where a `llama` file has them.
    #[serde(flatten)]
    top: RawText,
}

#[derive(Debug, Default, Deserialize)]
struct RawText {
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    /// Where transformers 5 writes `rope_theta`.
    rope_parameters: Option<RawRope>,
    max_position_embeddings: Option<usize>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    qk_layer_norms: Option<bool>,
    use_resampler: Option<bool>,
    tie_word_embeddings: Option<bool>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
    pad_token_id: Option<u32>,
    torch_dtype: Option<String>,
    /// Where transformers 4.56 and later write `torch_dtype`.
    dtype: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawRope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The older name of `rope_type`.
    r#type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct RawVision {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_channels: Option<usize>,
    image_size: Option<usize>,
    patch_size: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
}

impl RawConfig {
    pub(super) fn resolve(self, origin: &str) -> Result<Config, ConfigError> {
        let name = self.model_type.unwrap_or_default();
        let model_type = match name.as_str() {
            "idefics3" => ModelType::Idefics3,
            "smolvlm" => ModelType::SmolVlm,
            "llama" => ModelType::Llama,
            _ => {
                let value = if name.is_empty() { "missing".into() } else { format!("`{name}`") };
                let reason = "expected idefics3 or smolvlm (SmolVLM), or llama (a text model)";
                return Err(ConfigError::invalid(origin, "model_type", &value, reason));
            }
        };
        if model_type == ModelType::Llama {
            return self.top.resolve_llama(origin);
        }

        let section = self.text_config.unwrap_or_default();
        // The top level has the last word on what it says about the whole model.
        let bos_token_id = self.top.bos_token_id.or(section.bos_token_id).or(Some(1));
        let eos = self.top.eos_token_id.or(section.eos_token_id.clone());
        let eos_token_ids = eos.map_or_else(|| vec![2], OneOrMany::into_vec);
        let pad_token_id = self.top.pad_token_id.or(section.pad_token_id).or(Some(128_002));
        let dtypes = [&self.top.torch_dtype, &self.top.dtype, &section.torch_dtype, &section.dtype];
        let torch_dtype = dtypes.into_iter().flatten().next().cloned();
        Ok(Config {
            model_type,
            // Idefics3Config makes its Llama section with another epsilon than Llama's own default.
            text: section.resolve(origin, "text_config.", 1e-5)?,
            image: Some(VisionLanguageConfig {
                vision: self.vision_config.unwrap_or_default().resolve(origin)?,
                scale_factor: self.scale_factor.unwrap_or(2),
                image_token_id: self.image_token_id.unwrap_or(128_257),
            }),
            tie_word_embeddings: self.top.tie_word_embeddings.unwrap_or(false),
            bos_token_id,
            eos_token_ids,
            pad_token_id,
            torch_dtype,
        })
    }
}

impl RawText {
    fn resolve_llama(self, origin: &str) -> Result<Config, ConfigError> {
        let tie_word_embeddings = self.tie_word_embeddings.unwrap_or(false);
        let bos_token_id = self.bos_token_id.or(Some(1));
        let eos_token_ids = self.eos_token_id.clone().map_or_else(|| vec![2], OneOrMany::into_vec);
        let pad_token_id = self.pad_token_id;
        let torch_dtype = self.torch_dtype.clone().or_else(|| self.dtype.clone());
        Ok(Config {
            model_type: ModelType::Llama,
            text: self.resolve(origin, "", 1e-6)?,
            image: None,
            tie_word_embeddings,
            bos_token_id,
            eos_token_ids,
            pad_token_id,
            torch_dtype,
        })
    }

    fn resolve(self, origin: &str, section: &str, default_eps: f64) -> Result<TextConfig, ConfigError> {
        let refuse = |key: &str, value: &dyn ToString, reason: &str| {
            Err(ConfigError::invalid(origin, format!("{section}{key}"), value, reason))
        };
        if let Some(act) = self.hidden_act.filter(|act| act != "silu") {
            return refuse("hidden_act", &format!("`{act}`"), "only silu is supported");
        }
        let switches = [
            ("attention_bias", self.attention_bias),
            ("mlp_bias", self.mlp_bias),
            ("qk_layer_norms", self.qk_layer_norms),
            ("use_resampler", self.use_resampler),
        ];
        for (key, value) in switches {
            if value == Some(true) {
                return refuse(key, &true, "not supported: SmolVLM and SmolLM2 have it off");
            }
        }
        let mut rope_theta = self.rope_theta;
        for (key, rope) in [("rope_scaling", self.rope_scaling), ("rope_parameters", self.rope_parameters)] {
            let Some(rope) = rope else { continue };
            if let Some(kind) = rope.rope_type.or(rope.r#type).filter(|kind| kind != "default") {
                return refuse(key, &format!("`{kind}`"), "only plain rotary positions are supported");
            }
            rope_theta = rope_theta.or(rope.rope_theta);
        }

        let hidden_size = self.hidden_size.unwrap_or(4096);
        let num_attention_heads = self.num_attention_heads.unwrap_or(32);
        let head_dim = match self.head_dim {
            Some(dim) => dim,
            None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                let reason = format!("must divide hidden_size {hidden_size} where head_dim is not given");
                return refuse("num_attention_heads", &num_attention_heads, &reason);
            }
        };
        Ok(TextConfig {
            vocab_size: self.vocab_size.unwrap_or(32_000),
            hidden_size,
            intermediate_size: self.intermediate_size.unwrap_or(11_008),
            num_hidden_layers: self.num_hidden_layers.unwrap_or(32),
            num_attention_heads,
            num_key_value_heads: self.num_key_value_heads.unwrap_or(num_attention_heads),
            head_dim,
            rms_norm_eps: self.rms_norm_eps.unwrap_or(default_eps),
            rope_theta: rope_theta.unwrap_or(10_000.0),
            max_position_embeddings: self.max_position_embeddings.unwrap_or(2048),
        })
    }
}

impl RawVision {
    fn resolve(self, origin: &str) -> Result<VisionConfig, ConfigError> {
        if let Some(act) = self.hidden_act.filter(|act| act != "gelu_pytorch_tanh") {
            let reason = "only gelu_pytorch_tanh is supported";
            return Err(ConfigError::invalid(
                origin,
                "vision_config.hidden_act",
                &format!("`{act}`"),
                reason,
            ));
        }
        Ok(VisionConfig {
            hidden_size: self.hidden_size.unwrap_or(1152),
            intermediate_size: self.intermediate_size.unwrap_or(3072),
            num_hidden_layers: self.num_hidden_layers.unwrap_or(12),
            num_attention_heads: self.num_attention_heads.unwrap_or(16),
            num_channels: self.num_channels.unwrap_or(3),
            image_size: self.image_size.unwrap_or(224),
            patch_size: self.patch_size.unwrap_or(32),
            layer_norm_eps: self.layer_norm_eps.unwrap_or(1e-6),
        })
    }
}

/// A `{"longest_edge": n}` of `preprocessor_config.json`.
#[derive(Debug, Deserialize)]
pub(super) struct LongestEdge {
    pub(super) longest_edge: Option<usize>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RawPreprocessor {
    pub(super) image_processor_type: Option<String>,
    pub(super) do_image_splitting: Option<bool>,
    pub(super) do_resize: Option<bool>,
    pub(super) do_rescale: Option<bool>,
    pub(super) do_normalize: Option<bool>,
    pub(super) resample: Option<Value>,
    pub(super) rescale_factor: Option<f64>,
    pub(super) size: Option<LongestEdge>,
    pub(super) max_image_size: Option<LongestEdge>,
    pub(super) image_mean: Option<Vec<f64>>,
    pub(super) image_std: Option<Vec<f64>>,
}
