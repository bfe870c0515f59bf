//! Which layers are quantised, and what `config.json` says of it.

use engine::QuantConfig;
use serde_json::{Value, json};

/// Modules that stay as they are unless told otherwise: the output projection.
pub const SKIPPED: [&str; 1] = ["lm_head"];

/// Whether the module `path` is, or lies in, a module that one of `names` names by its full path or by whole last or
/// middle parts of it (`lm_head`, `vision_model`, `layers.0.mlp`).
pub fn skips(path: &str, names: &[String]) -> bool {
    let path = format!(".{path}.");
    names.iter().any(|name| !name.is_empty() && path.contains(&format!(".{name}.")))
}

/// `quantization_config` of `config.json` as transformers writes it.
pub fn quantization_config(config: &QuantConfig, skip: &[String]) -> Value {
    let skip = if skip.iter().eq(SKIPPED.iter()) { Value::Null } else { json!(skip) };
    json!({
        "_load_in_4bit": true,
        "_load_in_8bit": false,
        "bnb_4bit_compute_dtype": "bfloat16",
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": config.codebook.name(),
        "bnb_4bit_use_double_quant": config.double,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skip,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": true,
        "load_in_8bit": false,
        "quant_method": "bitsandbytes",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_whole_parts() {
        let names = ["lm_head".to_owned(), "vision_model".into(), "layers.0.mlp".into()];
        assert!(skips("lm_head", &names));
        assert!(skips("model.vision_model.encoder.layers.3.mlp.fc1", &names));
        assert!(skips("model.text_model.layers.0.mlp.up_proj", &names));
        assert!(!skips("model.text_model.layers.10.mlp.up_proj", &names));
        assert!(!skips("model.lm_head2", &names));
        assert!(!skips("anything", &[String::new()]));
    }
}
