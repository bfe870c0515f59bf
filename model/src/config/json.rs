//! A configuration as a `config.json`.

use serde_json::{Map, Value, json};

use super::{Config, ModelType, TextConfig};

impl Config {
    /// The text of a `config.json` that this crate and transformers read.
    pub fn to_json(&self) -> Value {
        let eos = match self.eos_token_ids[..] {
            [] => Value::Null,
            [one] => json!(one),
            ref all => json!(all),
        };
        let mut text = text_json(&self.text);
        let ids = [
            ("bos_token_id", json!(self.bos_token_id)),
            ("eos_token_id", eos),
            ("pad_token_id", json!(self.pad_token_id)),
            ("tie_word_embeddings", json!(self.tie_word_embeddings)),
        ];
        text.extend(ids.clone().map(|(key, value)| (key.to_owned(), value)));
        let Some(image) = &self.image else {
            let mut all = Map::new();
            all.insert("architectures".into(), json!(["LlamaForCausalLM"]));
            all.insert("torch_dtype".into(), json!(self.torch_dtype));
            all.extend(text);
            return Value::Object(all);
        };
        let vision = &image.vision;
        let architecture = match self.model_type {
            ModelType::SmolVlm => "SmolVLMForConditionalGeneration",
            ModelType::Idefics3 | ModelType::Llama => "Idefics3ForConditionalGeneration",
        };
        let mut all = json!({
            "architectures": [architecture],
            "model_type": self.model_type.name(),
            "image_token_id": image.image_token_id,
            "scale_factor": image.scale_factor,
            "torch_dtype": self.torch_dtype,
            "vocab_size": self.text.vocab_size,
            "text_config": text,
            "vision_config": {
                "model_type": format!("{}_vision", self.model_type.name()),
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
        });
        if let Value::Object(map) = &mut all {
            map.extend(ids.map(|(key, value)| (key.to_owned(), value)));
        }
        all
    }
}

fn text_json(text: &TextConfig) -> Map<String, Value> {
    let value = json!({
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
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_configurations_survive() {
        for name in Config::known_names() {
            let config = Config::known(name).unwrap();
            let again = Config::from_json(&config.to_json().to_string(), name).unwrap();
            assert_eq!(again, config, "{name}");
        }
    }
}
