//! Published models, so that `inspect` can plan without their files. Numbers: spec smolvlm §1, proved
//! there from published parameter counts and file sizes.

use super::{
    Config, GenerationConfig, ModelType, PreprocessorConfig, TextConfig, VisionConfig, VisionLanguageConfig,
};

pub(super) const NAMES: &[&str] = &[
    "SmolVLM-Instruct",
    "SmolVLM-500M-Instruct",
    "SmolVLM-256M-Instruct",
    "SmolVLM2-2.2B-Instruct",
    "SmolLM2-135M",
    "SmolLM2-1.7B",
    "vicuna-7b-v1.5",
];

/// The name as [`NAMES`] has it.
fn canonical(name: &str) -> Option<&'static str> {
    let bare = ["HuggingFaceTB/", "lmsys/"].iter().find_map(|owner| name.strip_prefix(owner)).unwrap_or(name);
    NAMES.iter().copied().find(|known| known.eq_ignore_ascii_case(bare))
}

/// SigLIP-so400m, patch 14, at 384 pixels.
const SO400M: VisionConfig = VisionConfig {
    hidden_size: 1152,
    intermediate_size: 4304,
    num_hidden_layers: 27,
    num_attention_heads: 16,
    num_channels: 3,
    image_size: 384,
    patch_size: 14,
    layer_norm_eps: 1e-6,
};

/// SigLIP base, patch 16, at 512 pixels.
const BASE: VisionConfig = VisionConfig {
    hidden_size: 768,
    intermediate_size: 3072,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    num_channels: 3,
    image_size: 512,
    patch_size: 16,
    layer_norm_eps: 1e-6,
};

/// The decoder of SmolVLM-256M: SmolLM2-135M with a larger vocabulary.
const SMOL_135M: TextConfig = TextConfig {
    vocab_size: 49_280,
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    head_dim: 64,
    rms_norm_eps: 1e-5,
    rope_theta: 100_000.0,
    max_position_embeddings: 8192,
};

const SMOL_360M: TextConfig = TextConfig {
    hidden_size: 960,
    intermediate_size: 2560,
    num_hidden_layers: 32,
    num_attention_heads: 15,
    num_key_value_heads: 5,
    ..SMOL_135M
};

const SMOL_1_7B: TextConfig = TextConfig {
    vocab_size: 49_155,
    hidden_size: 2048,
    intermediate_size: 8192,
    num_hidden_layers: 24,
    num_attention_heads: 32,
    num_key_value_heads: 32,
    rope_theta: 273_768.0,
    max_position_embeddings: 16_384,
    ..SMOL_135M
};

/// Llama 2's shape, that of Vicuna 1.5.
const LLAMA_7B: TextConfig = TextConfig {
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 32,
    head_dim: 128,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000.0,
    max_position_embeddings: 4096,
};

/// A decoder alone.
fn text_model(name: &str) -> Option<Config> {
    let smol = |text| Config {
        model_type: ModelType::Llama,
        text,
        image: None,
        tie_word_embeddings: true,
        bos_token_id: Some(0),
        eos_token_ids: vec![0],
        pad_token_id: None,
        torch_dtype: Some("bfloat16".into()),
    };
    Some(match name {
        "SmolLM2-135M" => smol(TextConfig { vocab_size: 49_152, ..SMOL_135M }),
        "SmolLM2-1.7B" => smol(TextConfig {
            vocab_size: 49_152,
            rope_theta: 130_000.0,
            max_position_embeddings: 8192,
            ..SMOL_1_7B
        }),
        "vicuna-7b-v1.5" => Config {
            tie_word_embeddings: false,
            bos_token_id: Some(1),
            eos_token_ids: vec![2],
            pad_token_id: Some(0),
            torch_dtype: Some("float16".into()),
            ..smol(LLAMA_7B)
        },
        _ => return None,
    })
}

pub(super) fn config(name: &str) -> Option<Config> {
    let name = canonical(name)?;
    if let Some(config) = text_model(name) {
        return Some(config);
    }
    let (model_type, text, vision, scale_factor, image_token_id, dtype) = match name {
        "SmolVLM-Instruct" => (ModelType::Idefics3, SMOL_1_7B, SO400M, 3, 49_153, "bfloat16"),
        "SmolVLM-500M-Instruct" => (ModelType::Idefics3, SMOL_360M, BASE, 4, 49_190, "bfloat16"),
        "SmolVLM-256M-Instruct" => (ModelType::Idefics3, SMOL_135M, BASE, 4, 49_190, "bfloat16"),
        "SmolVLM2-2.2B-Instruct" => {
            let text = TextConfig { vocab_size: 49_280, ..SMOL_1_7B };
            (ModelType::SmolVlm, text, SO400M, 3, 49_190, "float32")
        }
        _ => return None,
    };
    Some(Config {
        model_type,
        text,
        image: Some(VisionLanguageConfig { vision, scale_factor, image_token_id }),
        tie_word_embeddings: false,
        bos_token_id: Some(1),
        eos_token_ids: vec![end_of_utterance(name)],
        pad_token_id: Some(2),
        torch_dtype: Some(dtype.into()),
    })
}

/// Id of `<end_of_utterance>`, spec smolvlm §5.
fn end_of_utterance(name: &str) -> u32 {
    if name == "SmolVLM-Instruct" { 49_154 } else { 49_279 }
}

pub(super) fn generation(name: &str) -> Option<GenerationConfig> {
    let config = config(name)?;
    Some(GenerationConfig {
        bos_token_id: config.bos_token_id,
        eos_token_ids: config.eos_token_ids,
        pad_token_id: config.pad_token_id,
        ..GenerationConfig::default()
    })
}

pub(super) fn preprocessor(name: &str) -> Option<PreprocessorConfig> {
    Some(PreprocessorConfig::with_tile_edge(config(name)?.image?.vision.image_size))
}
