//! A model as a folder in Hugging Face layout, which this project's loader and transformers both open.

use std::collections::BTreeMap;
use std::path::Path;

use engine::DType;
use engine::weights::{FileDType, write_safetensors};
use model::config::Config;
use serde_json::{Value, json};

use crate::config::WeightDType;
use crate::error::{Error, Result};
use crate::metrics::write;
use crate::setup::Setup;

/// Writes the folder, each file beside and renamed, the weights last.
pub fn export(folder: &Path, setup: &Setup, dtype: WeightDType) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
    let json = |name: &str, value: Value| write(&folder.join(name), format!("{value:#}\n").as_bytes());
    let template = setup.template.text();
    let torch_dtype = match dtype {
        WeightDType::Bf16 => "bfloat16",
        WeightDType::F32 => "float32",
    };
    let config = Config { torch_dtype: Some(torch_dtype.to_owned()), ..setup.config.clone() };
    json("config.json", config.to_json())?;
    if let Some(preprocessor) = &setup.preprocessor {
        json("preprocessor_config.json", preprocessor.to_json())?;
        // transformers up to 4.51 reads this one for processors, later versions the one below.
        json("chat_template.json", json!({ "chat_template": template }))?;
        json("processor_config.json", processor_json(&setup.config))?;
    }
    write(&folder.join("chat_template.jinja"), template.as_bytes())?;
    json("generation_config.json", generation_json(setup)?)?;
    json("tokenizer_config.json", tokenizer_json(setup)?)?;
    write(&folder.join("tokenizer.json"), setup.tokenizer.to_json()?.as_bytes())?;

    let (dtype, file_dtype) = match dtype {
        WeightDType::Bf16 => (DType::BF16, FileDType::BF16),
        WeightDType::F32 => (DType::F32, FileDType::F32),
    };
    let mut tensors = Vec::new();
    for (name, value) in &setup.parameters {
        let bytes = value.detach().to_dtype(dtype)?.to_bytes()?;
        tensors.push((name.as_str(), value.dims().to_vec(), bytes));
    }
    let tensors = tensors.iter().map(|(name, dims, bytes)| (*name, file_dtype, &dims[..], &bytes[..]));
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    Ok(write_safetensors(folder.join("model.safetensors"), tensors, &metadata)?)
}

fn generation_json(setup: &Setup) -> Result<Value> {
    let config = &setup.config;
    Ok(json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": setup.end_id()?,
        "pad_token_id": config.pad_token_id,
    }))
}

fn processor_json(config: &Config) -> Value {
    let tokens = config.image.as_ref().map_or(0, model::config::VisionLanguageConfig::tokens_per_tile);
    json!({ "processor_class": "Idefics3Processor", "image_seq_len": tokens })
}

fn tokenizer_json(setup: &Setup) -> Result<Value> {
    let tokenizer = &setup.tokenizer;
    let content =
        |id: Option<u32>| tokenizer.specials().iter().find(|s| tokenizer.special_id(s) == id && id.is_some());
    let mut whole = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": content(setup.config.bos_token_id),
        "pad_token": content(setup.config.pad_token_id),
        "eos_token": content(Some(setup.end_id()?)),
        "additional_special_tokens": tokenizer.specials(),
        "model_max_length": setup.config.text.max_position_embeddings,
        "clean_up_tokenization_spaces": false,
        "chat_template": setup.template.text(),
    });
    if setup.preprocessor.is_some() {
        whole["processor_class"] = "Idefics3Processor".into();
    }
    Ok(whole)
}
