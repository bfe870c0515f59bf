//! Adapters in files: what PEFT wrote is read and written again, and what is damaged or foreign is refused by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cuda_host::{How, again};
use engine::weights::{FileDType, Weights, write_safetensors};
use engine::{DType, QuantConfig, Tensor, no_grad};
use model::bundle::{Network, network};
use model::config::Config;
use model::loader::Loader;
use model::lora::{Adapter, LoraConfig, LoraInit, Module, Targets, merged};
use model::nn::Weight;
use roentgen_oracle::gpu::device;
use serde_json::{Value, json};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/smolvlm-tiny")
}

fn load(loader: impl Fn(Loader) -> Loader) -> Network {
    let config = Config::from_file(tiny().join("config.json")).unwrap();
    let weights = Arc::new(Weights::open(tiny().join("model.safetensors")).unwrap());
    network(&loader(Loader::from_weights(weights, Some(DType::F32), device())), &config).unwrap()
}

fn plain() -> Network {
    load(|l| l)
}

/// A copy of the fixture's adapter.
fn copy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(tiny().join("adapter").join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn edit_config(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join("adapter_config.json");
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

type Tensors = Vec<(String, FileDType, Vec<usize>, Vec<u8>)>;

fn edit_weights(folder: &Path, edit: impl FnOnce(&mut Tensors)) {
    let path = folder.join("adapter_model.safetensors");
    let file = Weights::open(&path).unwrap();
    let mut tensors: Tensors = file
        .entries()
        .iter()
        .map(|e| (e.name().to_owned(), e.dtype(), e.shape().to_vec(), e.bytes().to_vec()))
        .collect();
    edit(&mut tensors);
    let list = tensors.iter().map(|(n, d, s, b)| (n.as_str(), *d, &s[..], &b[..]));
    write_safetensors(&path, list, file.metadata()).unwrap();
}

fn refused(folder: &Path, says: &[&str]) {
    let error = Adapter::open(folder, &plain()).unwrap_err().to_string();
    for part in says {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn what_peft_wrote_is_written_again() {
    let network = plain();
    let adapter = Adapter::open(&tiny().join("adapter"), &network).unwrap();
    assert_eq!(adapter.parameter_count(), 4 * (2 * 3 * 2 * 48 + 2 * (2 * 128 + 2 * 80 + 3 * 160)));
    let out = tempfile::tempdir().unwrap();
    adapter.save(out.path()).unwrap();
    let weights = "adapter_model.safetensors";
    let same = fs::read(out.path().join(weights)).unwrap()
        == fs::read(tiny().join("adapter").join(weights)).unwrap();
    assert!(same, "{weights} differs");
    let again = Adapter::open(out.path(), &network).unwrap();
    assert_eq!(again.config, adapter.config);
    assert!(again.warnings.is_empty());

    // Every key of PEFT 0.15.2, sorted.
    let text = fs::read_to_string(out.path().join("adapter_config.json")).unwrap();
    let Value::Object(map) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
    let keys: Vec<&str> = map.keys().map(String::as_str).collect();
    assert!(keys.is_sorted());
    for key in "alpha_pattern auto_mapping base_model_name_or_path bias corda_config eva_config exclude_modules \
        fan_in_fan_out inference_mode init_lora_weights layer_replication layers_pattern layers_to_transform \
        loftq_config lora_alpha lora_bias lora_dropout megatron_config megatron_core modules_to_save peft_type r \
        rank_pattern revision target_modules task_type trainable_token_indices use_dora use_rslora"
        .split(' ')
    {
        assert!(keys.contains(&key), "{key}");
    }
    assert_eq!((&map["lora_alpha"], &map["r"]), (&json!(8), &json!(4)));
    assert_eq!(map["target_modules"].as_array().unwrap().len(), 7);
}

#[test]
fn newer_keys_are_ignored_aloud() {
    let folder = copy();
    edit_config(folder.path(), |c| c["qalora_group_size"] = json!(16));
    let adapter = Adapter::open(folder.path(), &plain()).unwrap();
    assert!(adapter.warnings[0].contains("qalora_group_size"), "{:?}", adapter.warnings);
}

#[test]
fn foreign_and_unsupported_configurations() {
    let cases: [(&str, Value, &[&str]); 12] = [
        ("peft_type", json!("IA3"), &["peft_type", "LORA"]),
        ("bias", json!("all"), &["bias", "none"]),
        ("r", json!(0), &["`r`", "rank"]),
        ("r", json!(1e12), &["`r`"]),
        ("r", json!(8), &["lora_A", "[4, ", "[8, "]),
        ("lora_alpha", json!("8"), &["lora_alpha"]),
        ("lora_dropout", json!(1.0), &["lora_dropout"]),
        ("init_lora_weights", json!("pissa"), &["init_lora_weights", "pissa"]),
        ("target_modules", json!(["query_key_value"]), &["query_key_value", "no linear layer"]),
        ("target_modules", json!(["q_proj"]), &["target_modules", "does not name"]),
        ("target_modules", json!("(((("), &["regular expression"]),
        ("lora_bias", json!(true), &["lora_bias", "not supported"]),
    ];
    for (key, value, says) in cases {
        let folder = copy();
        edit_config(folder.path(), |c| c[key] = value);
        refused(folder.path(), says);
    }
    let folder = copy();
    edit_config(folder.path(), |c| c["use_dora"] = json!(true));
    refused(folder.path(), &["lora_magnitude_vector", "is not there"]);
    fs::write(folder.path().join("adapter_config.json"), "{").unwrap();
    refused(folder.path(), &["adapter_config.json", "EOF"]);
    fs::write(folder.path().join("adapter_config.json"), " ".repeat(2 << 20)).unwrap();
    refused(folder.path(), &["adapter_config.json", "larger"]);
    fs::remove_file(folder.path().join("adapter_config.json")).unwrap();
    refused(folder.path(), &["adapter_config.json", "missing"]);
}

#[test]
fn damaged_and_foreign_weights() {
    let (a, b) = (0, 1);
    let folder = || copy();
    let changed = |edit: &dyn Fn(&mut Tensors), says: &[&str]| {
        let folder = folder();
        edit_weights(folder.path(), |t| edit(t));
        refused(folder.path(), says);
    };
    changed(
        &|t| t[a].3[..4].copy_from_slice(&f32::NAN.to_le_bytes()),
        &["lora_A", "not finite", "element 0"],
    );
    changed(&|t| t[b].3[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes()), &["not finite", "element 1"]);
    changed(&|t| t[a].1 = FileDType::I32, &["I32", "floats"]);
    changed(&|t| t[a].2.reverse(), &["shape [96, 4]", "[4, 96]"]);
    changed(&|t| drop(t.remove(b)), &["lora_B", "is not there"]);
    changed(&|t| t[a].0 = t[a].0.replace("layers.0", "layers.7"), &["is not there"]);
    changed(
        &|t| {
            t.push((
                "base_model.model.model.layers.9.mlp.up_proj.lora_A.weight".into(),
                FileDType::F32,
                vec![1],
                vec![0; 4],
            ));
        },
        &["model.layers.9.mlp.up_proj", "no linear layer of this model"],
    );
    changed(
        &|t| {
            t.push((
                "base_model.model.model.embed.lora_embedding_A".into(),
                FileDType::F32,
                vec![1],
                vec![0; 4],
            ));
        },
        &["lora_embedding_A", "no part of a LoRA adapter"],
    );
    let folder = copy();
    let path = folder.path().join("adapter_model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    refused(folder.path(), &["adapter_model.safetensors"]);
    fs::write(&path, [bytes, vec![0; 9]].concat()).unwrap();
    refused(folder.path(), &["adapter_model.safetensors"]);
    fs::remove_file(&path).unwrap();
    refused(folder.path(), &["adapter_model.safetensors", "missing"]);
}

/// Logits of a short text through the whole decoder.
fn logits(network: &Network) -> Vec<f32> {
    no_grad(|| {
        let text = network.decoder();
        let embeds = text.embed(&[1, 20, 30, 40, 50], 1).unwrap();
        let places = model::llama::Places::from(0, 1, 5, text.device()).unwrap();
        text.logits(&text.forward(&embeds, &places, None).unwrap()).unwrap().to_f32_vec().unwrap()
    })
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

fn config(targets: Targets) -> LoraConfig {
    LoraConfig { target_modules: targets, r: 4, ..LoraConfig::default() }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_trained_ones_switch() {
    let network = plain();
    let before = logits(&network);
    let all = Adapter::new(config(Targets::AllLinear), &network, 5).unwrap();
    // 2 × 6 in the vision tower, the connector, 2 × 7 in the decoder; not the head.
    assert_eq!(all.modules.len(), 27);
    network.attach(&all).unwrap();
    assert_eq!(logits(&network), before);
    let same = Adapter::new(config(Targets::AllLinear), &network, 5).unwrap();
    let values = |a: &Adapter| a.parameters()[0].1.to_f32_vec().unwrap();
    assert_eq!(values(&all), values(&same));
    assert_ne!(values(&all), values(&Adapter::new(config(Targets::AllLinear), &network, 6).unwrap()));

    let other = Adapter::open(&tiny().join("adapter"), &network).unwrap();
    network.attach(&other).unwrap();
    let adapted = logits(&network);
    assert!(distance(&adapted, &before) > 1e-2);
    network.attach(&all).unwrap();
    assert_eq!(logits(&network), before);
    network.attach(&other).unwrap();
    assert_eq!(logits(&network), adapted);
    network.detach();
    assert_eq!(logits(&network), before);
}

#[test]
fn start_values() {
    let network = plain();
    let spread = |init| {
        let config = LoraConfig { init, r: 8, ..config(Targets::Names(vec!["down_proj".into()])) };
        let adapter = Adapter::new(config, &network, 1).unwrap();
        let Module::Lora(lora) = &adapter.modules[0].1 else { panic!() };
        assert!(lora.b.to_f32_vec().unwrap().iter().all(|&x| x == 0.0));
        let a = lora.a.to_f32_vec().unwrap();
        let square: f32 = a.iter().map(|x| x * x).sum::<f32>() / a.len() as f32;
        (square.sqrt(), a.iter().fold(0.0f32, |m, x| m.max(x.abs())))
    };
    let (deviation, _) = spread(LoraInit::Gaussian);
    assert!((deviation - 0.125).abs() < 0.01, "{deviation}");
    let (deviation, largest) = spread(LoraInit::Kaiming);
    let bound = 1.0 / 96f32.sqrt();
    assert!(largest <= bound && largest > 0.95 * bound, "{largest}");
    assert!((deviation - bound / 3f32.sqrt()).abs() < 0.1 * bound, "{deviation}");
}

/// Every kind of adapter with values that do something, saved, opened, and folded into the weights.
#[test]
fn kinds_of_adapters_survive_files_and_merging() {
    let quantized = || load(|l| l.quantized(QuantConfig::default(), vec!["lm_head".into()]));
    for (make, tolerance) in [(&plain as &dyn Fn() -> Network, 2e-5), (&quantized, 2e-5)] {
        let base = LoraConfig { lora_dropout: 0.0, ..config(Targets::AllLinear) };
        let pattern = vec![("v_proj".to_owned(), 2)];
        let whole = vec!["lm_head".to_owned()];
        for config in [
            LoraConfig { use_rslora: true, rank_pattern: pattern, ..base.clone() },
            LoraConfig { use_dora: true, modules_to_save: whole, ..base },
        ] {
            let network = make();
            let trained = Adapter::new(config, &network, 3).unwrap();
            let mut rng = engine::Rng::new(4);
            for (_, t) in trained.parameters() {
                let noise = Tensor::randn(&t.dims(), 0.05, DType::F32, &mut rng, t.device()).unwrap();
                t.detach().write(&t.detach().add(&noise).unwrap()).unwrap();
            }
            network.attach(&trained).unwrap();
            let want = logits(&network);
            let out = tempfile::tempdir().unwrap();
            trained.save(out.path()).unwrap();
            let opened = Adapter::open(out.path(), &network).unwrap();
            network.attach(&opened).unwrap();
            assert!(distance(&logits(&network), &want) <= 1e-6);
            network.detach();

            // The same by merged weights, put in whole.
            let mut dense = opened.clone();
            for (path, module) in &mut dense.modules {
                let linears = network.linears();
                let layer = linears.iter().find(|l| l.path == *path).unwrap();
                let weight = merged(layer, module).unwrap();
                *module = Module::Full(Arc::new(model::nn::Full { weight, bias: layer.bias.clone() }));
            }
            network.attach(&dense).unwrap();
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let apart = distance(&logits(&network), &want);
            assert!(apart <= tolerance * largest, "{apart:e} of {largest}");
        }
    }
}

#[test]
fn a_quantised_layer_is_not_trained_whole() {
    let network = load(|l| l.quantized(QuantConfig::default(), Vec::new()));
    assert!(network.linears().iter().all(|l| matches!(l.weight, Weight::Quantized(_))));
    let config = LoraConfig { modules_to_save: vec!["lm_head".into()], ..config(Targets::AllLinear) };
    let error = Adapter::new(config, &network, 0).unwrap_err().to_string();
    assert!(error.contains("lm_head is quantised"), "{error}");
}

/// Adapters attached, exchanged, saved and folded in, on the stand-in for CUDA's driver.
#[test]
fn on_cuda() {
    let tests = [
        "a_fresh_adapter_changes_nothing_and_trained_ones_switch",
        "start_values",
        "kinds_of_adapters_survive_files_and_merging",
    ];
    for how in How::SCHEDULES {
        again(&tests, how);
    }
}
