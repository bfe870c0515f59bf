//! `inspect`: the numbers of spec smolvlm §1 and §4.

use serde_json::Value;

use crate::program::roentgen;
use crate::tiny::Tiny;

fn inspect(args: &[&str]) -> Value {
    roentgen(["inspect", "--json"].iter().chain(args)).ok().json()
}

fn parameters(json: &Value) -> Vec<(String, u64)> {
    let part = |p: &Value| (p["part"].as_str().unwrap().to_owned(), p["parameters"].as_u64().unwrap());
    json["parts"].as_array().unwrap().iter().map(part).collect()
}

#[test]
fn published_models_by_name() {
    let large = inspect(&["SmolVLM-Instruct", "--text-tokens", "183"]);
    let expected = [
        ("vision", 412_987_248),
        ("connector", 21_233_664),
        ("embedding", 100_669_440),
        ("decoder", 1_610_713_088),
        ("head", 100_669_440),
    ];
    assert_eq!(parameters(&large), expected.map(|(name, n)| (name.to_owned(), n)));
    assert_eq!(large["total"]["parameters"], 2_246_272_880_u64);
    assert_eq!(large["total"]["tensors"], 657);
    assert_eq!(large["total"]["bf16_bytes"], 4_492_545_760_u64);
    assert_eq!(large["memory"]["kv_cache_bytes_per_token"], 196_608);
    assert_eq!(large["image"]["tiles"], 17);
    assert_eq!(large["image"]["tokens"], 1377);
    assert_eq!(large["prefill"]["tokens"], 1560);
    let near = |value: &Value, wanted: f64| {
        let found = value.as_f64().unwrap();
        assert!((found / wanted - 1.0).abs() < 0.01, "{found} against {wanted}");
    };
    near(&large["image"]["vision"]["linear"], 17.0 * 599e9);
    near(&large["image"]["vision"]["attention"], 17.0 * 66e9);
    near(&large["prefill"]["decoder"]["linear"], 5.03e12);
    near(&large["prefill"]["decoder"]["attention"], 0.239e12);
    near(&large["decode_per_token"]["linear"], 3.42e9);

    for (name, total, cache) in [
        ("SmolVLM-256M-Instruct", 256_484_928_u64, 23_040),
        ("huggingfacetb/smolvlm-500m-instruct", 507_482_304, 40_960),
    ] {
        // The prefix counts as the organisation only in its own spelling.
        let name = name.replace("huggingfacetb/", "HuggingFaceTB/");
        let json = inspect(&[&name]);
        assert_eq!(json["total"]["parameters"], total, "{name}");
        assert_eq!(json["memory"]["kv_cache_bytes_per_token"], cache, "{name}");
    }
    let text = roentgen(["inspect", "SmolVLM-Instruct"]).ok().stdout;
    assert!(text.contains("2,246,272,880") && text.contains("196,608 bytes a token"), "{text}");
}

#[test]
fn image_sizes_follow_the_processor() {
    // Tiles of spec smolvlm §3.
    for (size, tiles) in [("1024x800", 17), ("300x1000", 9), ("640x480", 13), ("3000x500", 5)] {
        assert_eq!(inspect(&["SmolVLM-Instruct", "--image", size])["image"]["tiles"], tiles, "{size}");
    }
}

#[test]
fn a_folder_and_its_config_alone() {
    let tiny = Tiny::new();
    let folder = inspect(&[tiny.name()]);
    assert_eq!(folder["file"]["missing"], serde_json::json!([]));
    assert_eq!(folder["file"]["tensors"], folder["total"]["tensors"]);
    let config = tiny.path().join("config.json");
    let alone = inspect(&[config.to_str().unwrap()]);
    assert_eq!(alone["total"], folder["total"]);
    assert!(alone.get("file").is_none());
    let listed = roentgen(["inspect", tiny.name(), "--tensors"]).ok().stdout;
    assert!(listed.contains("model.connector.modality_projection.proj.weight"), "{listed}");
    assert!(listed.contains("names and shapes agree"), "{listed}");
    std::fs::remove_file(tiny.path().join("model.safetensors")).unwrap();
    assert!(inspect(&[tiny.name()]).get("file").is_none(), "sizes without weights");
}

#[test]
fn what_does_not_fit_is_listed() {
    let tiny = Tiny::new();
    tiny.edit_weights(|tensors| {
        let norm = tensors.remove("model.text_model.norm.weight").unwrap();
        tensors.insert("model.text_model.surplus".into(), norm);
        tensors.get_mut("lm_head.weight").unwrap().shape.swap(0, 1);
    });
    let outcome = roentgen(["inspect", tiny.name()]);
    assert_eq!(outcome.code, 1);
    for text in [
        "missing: model.text_model.norm.weight",
        "wrong shape: lm_head.weight [64, 512]",
        "not used: model.text_model.surplus",
    ] {
        assert!(outcome.stdout.contains(text), "{outcome:#?}");
    }
    outcome.says(&["do not fit"]);
}

#[test]
fn nothing_of_that_name() {
    roentgen(["inspect", "SmolVLM-9000"]).fails(&["SmolVLM-9000", "SmolVLM-256M-Instruct"]);
    let tiny = Tiny::new();
    let weights = tiny.path().join("model.safetensors");
    roentgen(["inspect", weights.to_str().unwrap()]).fails(&["model.safetensors", "config.json"]);
    tiny.write("config.json", "{\"model_type\": ");
    roentgen(["inspect", tiny.name()]).fails(&["config.json"]);
}
