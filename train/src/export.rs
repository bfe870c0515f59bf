//! A model as a folder in Hugging Face layout, which this project's loader and transformers both open.

use std::collections::BTreeMap;
use std::path::Path;

use engine::DType;
use engine::weights::{FileDType, write_safetensors};
use model::config::{Config, PreprocessorConfig};
use model::prompt::END_OF_UTTERANCE;
use model::tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::config::WeightDType;
use crate::error::{Error, Result};
use crate::metrics::write;
use crate::optimizer::Parameter;

/// What is written beside the weights.
pub struct Parts<'a> {
    /// Sizes.
    pub config: &'a Config,
    /// Vocabulary.
    pub tokenizer: &'a Tokenizer,
    /// Images to tiles.
    pub preprocessor: &'a PreprocessorConfig,
    /// Jinja text of the chat template.
    pub template: &'a str,
}

/// Writes the folder, each file beside and renamed, the weights last.
pub fn export(folder: &Path, parts: &Parts<'_>, parameters: &[Parameter], dtype: WeightDType) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
    let json = |name: &str, value: Value| write(&folder.join(name), format!("{value:#}\n").as_bytes());
    let template = parts.template;
    json("config.json", config_json(parts.config, dtype)?)?;
    json("preprocessor_config.json", parts.preprocessor.to_json())?;
    // transformers up to 4.51 reads the first for processors, later versions the second.
    json("chat_template.json", json!({ "chat_template": template }))?;
    write(&folder.join("chat_template.jinja"), template.as_bytes())?;
    json("generation_config.json", generation_json(parts)?)?;
    json("processor_config.json", processor_json(parts.config))?;
    json("tokenizer_config.json", tokenizer_json(parts))?;
    write(&folder.join("tokenizer.json"), parts.tokenizer.to_json()?.as_bytes())?;

    let (dtype, file_dtype) = match dtype {
        WeightDType::Bf16 => (DType::BF16, FileDType::BF16),
        WeightDType::F32 => (DType::F32, FileDType::F32),
    };
    let mut tensors = Vec::new();
    for p in parameters {
        let bytes = p.value.detach().to_dtype(dtype)?.to_bytes()?;
        tensors.push((p.name.as_str(), p.value.dims().to_vec(), bytes));
    }
    let tensors = tensors.iter().map(|(name, dims, bytes)| (*name, file_dtype, &dims[..], &bytes[..]));
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(write_safetensors(folder.join("model.safetensors"), tensors, &metadata)?)
}

fn config_json(config: &Config, dtype: WeightDType) -> Result<Value> {
    let image = config.vision_language("config.json")?;
    let (text, vision) = (&config.text, &image.vision);
    let dtype = match dtype {
        WeightDType::Bf16 => "bfloat16",
        WeightDType::F32 => "float32",
    };
    let architecture = match config.model_type {
        model::config::ModelType::SmolVlm => "SmolVLMForConditionalGeneration",
        _ => "Idefics3ForConditionalGeneration",
    };
    Ok(json!({
        "architectures": [architecture],
        "model_type": config.model_type.name(),
        "image_token_id": image.image_token_id,
        "scale_factor": image.scale_factor,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_ids,
        "pad_token_id": config.pad_token_id,
        "torch_dtype": dtype,
        "text_config": {
            "model_type": "llama",
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "head_dim": text.head_dim,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": text.rope_theta,
            "max_position_embeddings": text.max_position_embeddings,
            "hidden_act": "silu",
            "attention_bias": false,
            "mlp_bias": false,
            "tie_word_embeddings": config.tie_word_embeddings,
            "bos_token_id": config.bos_token_id,
            "eos_token_id": config.eos_token_ids,
            "pad_token_id": config.pad_token_id,
        },
        "vision_config": {
            "model_type": "idefics3_vision",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": vision.num_channels,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "layer_norm_eps": vision.layer_norm_eps,
            "hidden_act": "gelu_pytorch_tanh",
        },
    }))
}

fn generation_json(parts: &Parts<'_>) -> Result<Value> {
    let end = parts.tokenizer.special_id(END_OF_UTTERANCE).ok_or_else(|| {
        Error::Data(format!("the tokenizer has no special token `{END_OF_UTTERANCE}`, which ends an answer"))
    })?;
    let config = parts.config;
    Ok(
        json!({ "bos_token_id": config.bos_token_id, "eos_token_id": end, "pad_token_id": config.pad_token_id }),
    )
}

fn processor_json(config: &Config) -> Value {
    let tokens = config.image.as_ref().map_or(0, model::config::VisionLanguageConfig::tokens_per_tile);
    json!({ "processor_class": "Idefics3Processor", "image_seq_len": tokens })
}

fn tokenizer_json(parts: &Parts<'_>) -> Value {
    let content = |id: Option<u32>| {
        parts.tokenizer.specials().iter().find(|s| parts.tokenizer.special_id(s) == id && id.is_some())
    };
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "Idefics3Processor",
        "bos_token": content(parts.config.bos_token_id),
        "pad_token": content(parts.config.pad_token_id),
        "eos_token": END_OF_UTTERANCE,
        "additional_special_tokens": parts.tokenizer.specials(),
        "model_max_length": parts.config.text.max_position_embeddings,
        "clean_up_tokenization_spaces": false,
        "chat_template": parts.template,
    })
}
