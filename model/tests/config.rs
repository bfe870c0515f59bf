//! Configuration files: the published ones, the fixture's, and hostile ones.

mod common;

use common::{fixture, fixture_json, fixture_text, shared};
use model::config::{Config, ConfigError, GenerationConfig, ModelType, ParameterCount, PreprocessorConfig};
use serde_json::{Value, json};

fn published() -> Value {
    fixture_json("smolvlm-256m-instruct/config.json")
}

/// The published 256M configuration with one key (a JSON pointer) changed.
fn with(pointer: &str, value: Value) -> Result<Config, ConfigError> {
    let mut json = published();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    json.pointer_mut(parent).unwrap()[key] = value;
    Config::from_json(&json.to_string(), "config.json")
}

#[test]
fn the_published_file_equals_the_known_model() {
    let read = Config::from_file(fixture("smolvlm-256m-instruct/config.json")).unwrap();
    let known = Config::known("HuggingFaceTB/SmolVLM-256M-Instruct").unwrap();
    // The file's own section says 2; generation_config.json says where an answer ends.
    let generation =
        GenerationConfig::from_file(fixture("smolvlm-256m-instruct/generation_config.json")).unwrap();
    assert_eq!(read.eos_token_ids, [2]);
    assert_eq!(generation.eos_token_ids, known.eos_token_ids);
    assert_eq!(generation.pad_token_id, known.pad_token_id);
    assert_eq!(Config { eos_token_ids: known.eos_token_ids.clone(), ..read }, known);

    let images =
        PreprocessorConfig::from_file(fixture("smolvlm-256m-instruct/preprocessor_config.json")).unwrap();
    assert_eq!(Some(images), PreprocessorConfig::known("smolvlm-256m-instruct"));
}

#[test]
fn known_models_have_the_published_parameter_counts() {
    let counts = |name: &str| Config::known(name).unwrap().parameter_count();
    let smolvlm = ParameterCount {
        vision: 412_987_248,
        connector: 21_233_664,
        decoder: 1_610_713_088,
        embedding: 100_669_440,
        head: 100_669_440,
    };
    assert_eq!(counts("SmolVLM-Instruct"), smolvlm);
    assert_eq!(counts("SmolVLM-Instruct").total(), 2_246_272_880);
    assert_eq!(counts("SmolVLM-500M-Instruct").total(), 507_482_304);
    assert_eq!(counts("SmolVLM-256M-Instruct").total(), 256_484_928);
    assert_eq!(counts("SmolVLM2-2.2B-Instruct").total(), 2_246_784_880);
    assert_eq!(counts("SmolLM2-135M").total(), 134_515_008);
    for name in Config::known_names() {
        assert!(Config::known(name).is_some(), "{name}");
    }
    assert_eq!(Config::known("SmolVLM"), None);
}

#[test]
fn known_models_have_the_published_grids() {
    for (name, tensors, tokens, tile) in
        [("SmolVLM-Instruct", 657, 81, 384), ("SmolVLM-500M-Instruct", 489, 64, 512)]
    {
        let config = Config::known(name).unwrap();
        let image = config.vision_language(name).unwrap();
        assert_eq!(image.tokens_per_tile(), tokens);
        assert_eq!(PreprocessorConfig::known(name).unwrap().tile_edge, tile);
        assert_eq!(config.tensors().len(), tensors, "{name}");
    }
    let text = Config::known("SmolLM2-135M").unwrap();
    assert!(text.vision_language("SmolLM2").unwrap_err().to_string().contains("no vision tower"));
}

#[test]
fn tensors_are_those_of_the_reference_checkpoint() {
    let config = Config::from_file(fixture("smolvlm-tiny/config.json")).unwrap();
    assert_eq!(config.image.as_ref().unwrap().tokens_per_tile(), 4);
    assert_eq!(config.eos_token_ids, [510]);
    let Some(path) = shared("fixtures/smolvlm-tiny/model.safetensors") else { return };
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut expected: Vec<_> = file.iter().map(|(name, t)| (name.to_owned(), t.shape().to_vec())).collect();
    let mut ours: Vec<_> = config.tensors().into_iter().map(|t| (t.name, t.shape)).collect();
    expected.sort();
    ours.sort();
    assert_eq!(ours, expected);
}

#[test]
fn a_plain_llama_file_is_read_with_its_defaults() {
    let json = json!({
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "tie_word_embeddings": true, "rope_scaling": null,
        "rope_parameters": { "rope_type": "default", "rope_theta": 100_000 }, "head_dim": null,
        "bos_token_id": 0, "eos_token_id": [0], "dtype": "bfloat16", "pad_token_id": null,
    });
    let config = Config::from_json(&json.to_string(), "config.json").unwrap();
    assert_eq!(config, Config::known("SmolLM2-135M").unwrap());
    let config = Config::from_json(r#"{"model_type": "llama"}"#, "config.json").unwrap();
    assert_eq!(config.parameter_count().total(), 6_738_415_616, "LLaMA 7B");
    assert_eq!(config.text.num_key_value_heads, 32);
}

#[test]
fn smolvlm2_is_the_same_network() {
    let config = with("/model_type", json!("smolvlm")).unwrap();
    assert_eq!(config.model_type, ModelType::SmolVlm);
    assert_eq!(config.parameter_count().total(), 256_484_928);
}

#[test]
fn what_cannot_be_computed_is_refused_by_name() {
    let cases = [
        ("/model_type", json!("llava"), "llava"),
        ("/model_type", json!(null), "model_type"),
        ("/text_config/num_attention_heads", json!(0), "text_config.num_attention_heads"),
        ("/text_config/num_key_value_heads", json!(0), "text_config.num_key_value_heads"),
        ("/text_config/num_key_value_heads", json!(4), "must divide num_attention_heads 9"),
        ("/text_config/head_dim", json!(63), "must be even"),
        ("/text_config/hidden_act", json!("relu"), "only silu"),
        ("/text_config/attention_bias", json!(true), "attention_bias"),
        ("/text_config/rope_scaling", json!({"type": "linear", "factor": 2.0}), "rope_scaling"),
        ("/text_config/rope_theta", json!(-1), "positive"),
        ("/text_config/rms_norm_eps", json!(0), "positive"),
        ("/text_config/vocab_size", json!(1u64 << 60), "expected 1 to"),
        ("/text_config/num_hidden_layers", json!(1_000_000), "expected 1 to 1024"),
        ("/text_config/hidden_size", json!(-5), "config.json"),
        ("/text_config/hidden_size", json!("wide"), "config.json"),
        ("/vision_config/num_attention_heads", json!(0), "vision_config.num_attention_heads"),
        ("/vision_config/num_attention_heads", json!(7), "must divide hidden_size 768"),
        ("/vision_config/patch_size", json!(0), "vision_config.patch_size"),
        ("/vision_config/patch_size", json!(513), "vision_config.patch_size"),
        ("/vision_config/num_channels", json!(1), "only 3"),
        ("/vision_config/hidden_act", json!("gelu"), "gelu_pytorch_tanh"),
        ("/scale_factor", json!(0), "scale_factor"),
        ("/scale_factor", json!(5), "must divide the 32 patches"),
        ("/image_token_id", json!(49_280), "not in the vocabulary of 49280"),
    ];
    for (pointer, value, expected) in cases {
        let error = with(pointer, value.clone()).expect_err(&format!("{pointer} = {value}")).to_string();
        assert!(error.contains(expected), "{pointer} = {value}: {error}");
        assert!(error.contains("config.json"), "{error}");
    }
    for text in
        ["", "[]", "{", "{\"model_type\": 3}", "null", "{\"model_type\": \"idefics3\", \"text_config\": 1}"]
    {
        assert!(Config::from_json(text, "config.json").is_err(), "{text}");
    }
}

#[test]
fn sizes_that_are_absurd_only_together_are_refused() {
    let mut json = published();
    for key in ["hidden_size", "intermediate_size", "vocab_size"] {
        json["text_config"][key] = json!(1 << 20);
    }
    json["text_config"]["num_hidden_layers"] = json!(1024);
    let error = Config::from_json(&json.to_string(), "config.json").unwrap_err().to_string();
    assert!(error.contains("parameters"), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::from_file("no-such-folder/config.json").unwrap_err().to_string();
    assert!(error.contains("no-such-folder/config.json"), "{error}");
}

#[test]
fn image_settings_that_are_not_computed_are_refused() {
    let text = fixture_text("smolvlm-256m-instruct/preprocessor_config.json");
    let base: Value = serde_json::from_str(&text).unwrap();
    let cases = [
        ("resample", json!(3), "bicubic"),
        ("resample", json!("lanczos"), "only 1 (Lanczos)"),
        ("do_resize", json!(false), "do_resize"),
        ("do_normalize", json!(false), "do_normalize"),
        ("image_processor_type", json!("CLIPImageProcessor"), "CLIPImageProcessor"),
        ("size", json!({"longest_edge": 0}), "size.longest_edge"),
        ("size", json!({"longest_edge": 4097}), "1 to 4096"),
        ("size", json!({"height": 5}), "longest_edge"),
        ("max_image_size", json!({"longest_edge": 16}), "more than 16 tiles"),
        ("image_mean", json!([0.5]), "three numbers"),
        ("image_std", json!([0.5, 0, 0.5]), "positive"),
        ("rescale_factor", json!(0), "rescale_factor"),
    ];
    for (key, value, expected) in cases {
        let mut json = base.clone();
        json[key] = value.clone();
        let error = PreprocessorConfig::from_json(&json.to_string(), "preprocessor_config.json")
            .expect_err(&format!("{key} = {value}"))
            .to_string();
        assert!(error.contains(expected) && error.contains("preprocessor_config.json"), "{key}: {error}");
    }
    let written = PreprocessorConfig::known("SmolVLM-Instruct").unwrap();
    let read = PreprocessorConfig::from_json(&written.to_json().to_string(), "written").unwrap();
    assert_eq!(read, written);
}
