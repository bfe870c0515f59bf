//! `quantize`, `merge`, `convert`, `--adapter`, and the plans of `inspect`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::roentgen;
use crate::tiny::{Images, Tiny};

fn adapter() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvlm-tiny/adapter")
}

fn ids(model: &str, more: &[&str]) -> String {
    let base =
        ["generate", "--model", model, "--max-new-tokens", "8", "--ids", "--prompt", "Write a structured"];
    roentgen(base.iter().chain(more)).ok().stdout
}

fn bytes(folder: &Path) -> u64 {
    std::fs::metadata(folder.join("model.safetensors")).unwrap().len()
}

#[test]
fn four_bits_are_written_and_run() {
    let (tiny, images, out) = (Tiny::new(), Images::new(), tempfile::tempdir().unwrap());
    let image = images.gradient("a.png", 40, 50).display().to_string();
    for more in [&[][..], &["--format", "fp4", "--block", "128", "--no-double"]] {
        let to = out.path().join(more.join(""));
        let name = to.to_str().unwrap();
        let base = ["quantize", tiny.name(), name];
        let json = roentgen(base.iter().chain(&["--json"]).chain(more)).ok().json();
        assert_eq!(json["tensors"].as_array().unwrap().len(), 27);
        assert_eq!(json["bytes"], bytes(&to));
        assert!(3 * bytes(tiny.path()) > 4 * bytes(&to));
        // The codes run through the whole program: image, prompt, decoding with a cache.
        let report = ["report", &image, "--model", name, "--max-new-tokens", "8", "--json"];
        assert!(roentgen(report).ok().json()["report"].is_object());
        assert!(!ids(name, &[]).is_empty());
        let inspected = roentgen(["inspect", name, "--json"]).ok().json();
        assert_eq!(inspected["file"]["missing"], serde_json::json!([]));
        assert_eq!(inspected["file"]["unknown"], serde_json::json!([]));
        roentgen(["quantize", name, &format!("{name}-again")]).fails(&["quantised already"]);
    }
    let table = roentgen(["quantize", tiny.name(), out.path().join("t").to_str().unwrap()]).ok().stdout;
    assert!(
        table.contains("RMSE") && table.contains("model.text_model.layers.1.mlp.down_proj.weight"),
        "{table}"
    );
    roentgen(["quantize", tiny.name(), tiny.name()]).fails(&["is the model itself"]);
    assert_eq!(roentgen(["quantize", tiny.name(), "x", "--block", "48"]).code, 2);
}

#[test]
fn adapters_act_and_merge() {
    let (tiny, out) = (Tiny::new(), tempfile::tempdir().unwrap());
    let adapter = adapter().display().to_string();
    let adapted = ids(tiny.name(), &["--adapter", &adapter]);
    assert_ne!(adapted, ids(tiny.name(), &[]), "the adapter must change the answer");
    let merged = out.path().join("f32");
    let name = merged.to_str().unwrap();
    roentgen(["merge", tiny.name(), &adapter, name, "--dtype", "f32"]).ok();
    assert_eq!(ids(name, &[]), adapted);
    let quantised = out.path().join("nf4");
    let json =
        roentgen(["merge", tiny.name(), &adapter, quantised.to_str().unwrap(), "--dtype", "nf4", "--json"])
            .ok()
            .json();
    assert_eq!(json["tensors"].as_array().unwrap().len(), 27);
    assert!(3 * bytes(&merged) > 4 * bytes(&quantised));
    let missing = out.path().join("none").display().to_string();
    roentgen(["merge", tiny.name(), &missing, "x"]).fails(&["adapter_config.json", "missing"]);
    roentgen(["generate", "--model", tiny.name(), "--prompt", "x", "--adapter", &missing])
        .fails(&["adapter_config.json"]);
}

#[test]
fn parity_of_an_adapter() {
    let fixture = adapter().parent().unwrap().to_owned();
    let at = |name: &str| fixture.join(name).display().to_string();
    let base = at("base.safetensors");
    let args = [
        "parity",
        &at(""),
        &at("lora.safetensors"),
        "--adapter",
        &at("adapter"),
        "--inputs",
        &base,
        "--json",
    ];
    let json = roentgen(args).ok().json();
    assert_eq!(json["within_tolerance"], true);
    assert_eq!(json["rows"].as_array().unwrap().len(), 43);
    // Without the adapter the same reference is missed.
    let plain = roentgen(["parity", &at(""), &at("lora.safetensors"), "--inputs", &base, "--json"]);
    assert_eq!(plain.code, 1);
}

#[test]
fn folders_convert() {
    let (tiny, out) = (Tiny::new(), tempfile::tempdir().unwrap());
    let quantised = out.path().join("nf4").display().to_string();
    roentgen(["quantize", tiny.name(), &quantised]).ok();
    for from in [tiny.name(), &quantised] {
        let to = out.path().join("dense").display().to_string();
        roentgen(["convert", from, &to, "--dtype", "f32"]).ok();
        assert_eq!(ids(&to, &[]), ids(from, &[]), "{from}");
        assert!(
            !std::fs::read_to_string(format!("{to}/config.json")).unwrap().contains("quantization_config")
        );
    }
    roentgen(["convert", tiny.name(), "x", "--into", "smolvlm-256m"]).fails(&["vision tower already"]);
    roentgen(["convert", tiny.name(), "x", "--into", "gpt-2"]).fails(&["gpt-2", "SmolVLM-256M-Instruct"]);
}

#[test]
fn the_plan_of_the_paper() {
    let args = ["inspect", "SmolVLM-Instruct", "--lora", "paper", "--quantize", "nf4"];
    let json: Value = roentgen(args.iter().chain(&["--json"])).ok().json();
    let lora = &json["lora"];
    assert_eq!(lora["modules"].as_array().unwrap().len(), 249);
    assert_eq!((&lora["trainable"], &lora["all"]), (&10_536_960.into(), &2_256_809_840_u64.into()));
    let quantised = &json["quantized"];
    assert_eq!((&quantised["layers"], &quantised["weights"]), (&331.into(), &2_042_916_864_u64.into()));
    assert_eq!(quantised["code_bytes"], 1_021_458_432);
    assert!((quantised["bits_per_weight"].as_f64().unwrap() - 4.127).abs() < 5e-4);
    assert!(json["training"]["checkpointed_total"].as_u64() < json["training"]["kept_total"].as_u64());
    let text = roentgen(args).ok().stdout;
    assert!(text.contains("249 modules, 10,536,960 of 2,256,809,840 parameters trainable (0.47%)"), "{text}");

    let out = tempfile::tempdir().unwrap();
    for (name, config) in [
        ("a.toml", "[lora]\nr = 8\nalpha = 16\nuse_dora = true\n"),
        ("a.json", r#"{"peft_type": "LORA", "r": 8, "use_dora": true, "future": 1}"#),
    ] {
        let path = out.path().join(name);
        std::fs::write(&path, config).unwrap();
        let path = path.to_str().unwrap();
        let json = roentgen(["inspect", "SmolVLM-Instruct", "--lora", path, "--json"]).ok().json();
        assert_eq!(json["lora"]["trainable"], 11_269_248);
    }
    roentgen(["inspect", "SmolVLM-Instruct", "--lora", "nowhere.toml"]).fails(&["nowhere.toml", "paper"]);
}
