//! Fine-tuning as a newcomer does it: train an adapter, look at it, score it, fold it in.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::program::{json_lines, roentgen};
use crate::tiny::{Images, Tiny};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo")
}

/// Four training rows and two for testing out of the shared chest X-rays, and a QLoRA run of the demonstration model
/// on them; `None` where they are not.
fn config(folder: &Images) -> Option<String> {
    let root = crate::eval::shared_data()?.join("cxr");
    let rows = json_lines(&std::fs::read_to_string(root.join("cases.jsonl")).unwrap());
    let mut lines = String::new();
    for (split, count) in [("train", 4), ("test", 2)] {
        for row in rows.iter().filter(|row| row["split"] == split).take(count) {
            let mut row = row.clone();
            let image = root.join(row["image_path"].as_str().unwrap());
            row["image_path"] = image.display().to_string().into();
            // Writing to a string cannot fail.
            let _ = writeln!(lines, "{row}");
        }
    }
    folder.raw("rows.jsonl", lines.as_bytes());
    let text = format!(
        "out = \"run\"\n[model]\nfolder = {:?}\n[quantization]\n[lora]\n[data]\nfiles = [\"rows.jsonl\"]\n\
         [optimizer]\nlr = 2e-2\n[schedule]\nwarmup_steps = 1\n\
         [training]\nbatch_size = 2\naccumulation = 1\nepochs = 10\nsample_count = 0\n",
        demo().display().to_string()
    );
    Some(folder.raw("qlora.toml", text.as_bytes()).display().to_string())
}

/// The greedy report on an image.
fn report(image: &Path, more: &[&str]) -> String {
    let args = ["report", image.to_str().unwrap(), "--json", "--max-new-tokens", "60"];
    let json = roentgen(args.iter().chain(more)).ok().json();
    let line = json["raw"].as_str().unwrap_or_else(|| panic!("{json:#}"));
    line.to_owned()
}

#[test]
fn from_training_to_a_merged_model() {
    let folder = Images::new();
    let Some(config) = config(&folder) else { return };
    let (demo, image) = (demo(), demo().join("images/nih-00028558_000.jpg"));
    let demo = demo.to_str().unwrap();

    let summary = roentgen(["train", &config, "--json"]).ok().json();
    assert_eq!((&summary["steps"], &summary["rows"]), (&20.into(), &4.into()));
    let adapter = summary["model"].as_str().unwrap();
    assert!(Path::new(adapter).ends_with("run/adapter"), "{adapter}");
    let plan = roentgen(["inspect", demo, "--lora", "paper", "--json"]).ok().json();
    assert_eq!(plan["lora"]["trainable"], summary["parameters"]);

    // The adapter on the base as it is.
    let plain = report(&image, &["--model", demo, "--dtype", "f32"]);
    let tuned = report(&image, &["--model", demo, "--dtype", "f32", "--adapter", adapter]);
    assert_ne!(plain, tuned, "ten passes over four rows must show");

    let args = ["eval", &config, "--max-new-tokens", "60", "--json"];
    let json = roentgen(args).ok().json();
    assert_eq!(json["rows"], 2);
    let values = &json["tables"][0]["metrics"][0]["values"];
    assert!(values["base"].is_number() && values["tuned"].is_number(), "{values}");
    let read = |name: &str| std::fs::read_to_string(folder.path().join("run/eval").join(name)).unwrap();
    assert_ne!(read("base.jsonl"), read("tuned.jsonl"));

    // Folded in, in three types; rounding to bf16 and to 4 bits may change words, not the form.
    let merged = |dtype: &str| {
        let out = folder.path().join(dtype).display().to_string();
        roentgen(["merge", demo, adapter, &out, "--dtype", dtype]).ok();
        report(&image, &["--model", &out, "--dtype", "f32"])
    };
    assert_eq!(merged("f32"), tuned);
    for dtype in ["bf16", "nf4"] {
        let text = merged(dtype);
        assert!(text.starts_with("Image Labels: "), "{dtype}: {text}");
        assert_eq!(text.matches(" | ").count(), tuned.matches(" | ").count(), "{dtype}: {text}");
    }

    // In 4 bits on the disk: what the run quantised as it read, so the same answer with the same adapter.
    let quantised = folder.path().join("quantised").display().to_string();
    roentgen(["quantize", demo, &quantised]).ok();
    let from_disk = report(&image, &["--model", &quantised, "--adapter", adapter, "--dtype", "bf16"]);
    assert!(from_disk.starts_with("Image Labels: "), "{from_disk}");

    // A run that starts from the 4-bit folder itself learns the same adapter.
    let set = format!("model.folder={quantised}");
    let other = folder.path().join("other").display().to_string();
    let again =
        ["train", &config, "--set", &set, "--set", &format!("out={other}"), "--json"].map(str::to_owned);
    let again = roentgen(again).ok().json();
    assert_eq!(again["steps"], 20);
    let bytes =
        |run: &str| std::fs::read(folder.path().join(run).join("adapter/adapter_model.safetensors")).unwrap();
    assert!(bytes("run") == bytes("other"), "quantised while reading and before are not the same");
}

/// What a run trained on tiles is asked about tiles, whoever asks: the adapter's folder says how.
#[test]
fn images_are_cut_as_the_adapter_learned_them() {
    let folder = Images::new();
    let Some(config) = config(&folder) else { return };
    let (demo, image) = (demo(), demo().join("images/nih-00028558_000.jpg"));
    let summary =
        ["train", &config, "--json", "--set", "image.splitting=true", "--set", "image.longest_edge=320"];
    let more = ["--set", "training.epochs=1"];
    let summary = roentgen(summary.iter().chain(&more)).ok().json();
    let adapter = summary["model"].as_str().unwrap();
    let prompt_tokens = |more: &[&str]| {
        let args = [
            "report",
            image.to_str().unwrap(),
            "--model",
            demo.to_str().unwrap(),
            "--json",
            "--max-new-tokens",
            "1",
        ];
        let json = roentgen(args.iter().chain(more)).ok().json();
        json["timings"]["prompt_tokens"].as_u64().unwrap()
    };
    let (plain, tiles) = (prompt_tokens(&[]), prompt_tokens(&["--adapter", adapter]));
    // Four tiles and the whole, of 25 tokens each, instead of the whole alone.
    assert!(tiles >= plain + 4 * 25, "{plain} tokens without the adapter, {tiles} with it");

    // A folder whose settings do not fit the vision tower is refused by name.
    let settings = Path::new(adapter).join("preprocessor_config.json");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(
        &settings,
        text.replace(
            "\"max_image_size\": {\n    \"longest_edge\": 160",
            "\"max_image_size\": {\n    \"longest_edge\": 128",
        ),
    )
    .unwrap();
    let args = ["report", image.to_str().unwrap(), "--model", demo.to_str().unwrap(), "--adapter", adapter];
    roentgen(args).fails(&["preprocessor_config.json", "128", "160"]);
}

#[test]
fn bad_adapters_are_refused_by_name() {
    let (tiny, out) = (Tiny::new(), tempfile::tempdir().unwrap());
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvlm-tiny/adapter");
    let copy = |name: &str| {
        let to = out.path().join(name);
        std::fs::create_dir(&to).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(good.join(file), to.join(file)).unwrap();
        }
        to
    };
    let fails = |model: &str, adapter: &Path, texts: &[&str]| {
        let adapter = adapter.display().to_string();
        let generate =
            ["generate", "--model", model, "--prompt", "x", "--max-new-tokens", "2", "--adapter", &adapter];
        roentgen(generate).fails(texts);
        let merged = out.path().join("merged");
        roentgen(["merge", model, &adapter, merged.to_str().unwrap()]).fails(texts);
        assert!(!merged.join("config.json").exists(), "a model was written");
    };
    let demo = demo().display().to_string();
    fails(&demo, &good, &["adapter_model.safetensors", "has shape", "belongs to another model"]);

    let cut = copy("cut");
    let file = cut.join("adapter_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for length in [bytes.len() / 2, 300, 5, 0] {
        std::fs::write(&file, &bytes[..length]).unwrap();
        fails(tiny.name(), &cut, &["cut", "adapter_model.safetensors"]);
    }
    std::fs::remove_file(&file).unwrap();
    fails(tiny.name(), &cut, &["adapter_model.safetensors", "missing", "an adapter is a folder with"]);

    let rank = copy("rank");
    let text = std::fs::read_to_string(rank.join("adapter_config.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (r, texts) in [
        (serde_json::json!(0), &["adapter_config.json", "`r`"][..]),
        (serde_json::json!(-1), &["adapter_config.json", "`r`"]),
        (serde_json::json!(3), &["adapter_model.safetensors", "lora_A", "has shape"]),
    ] {
        json["r"] = r;
        std::fs::write(rank.join("adapter_config.json"), json.to_string()).unwrap();
        fails(tiny.name(), &rank, texts);
    }
    std::fs::write(rank.join("adapter_config.json"), "{").unwrap();
    fails(tiny.name(), &rank, &["adapter_config.json"]);

    fails(tiny.name(), &out.path().join("nowhere"), &["nowhere", "adapter_config.json", "missing"]);
    // A model where an adapter should be.
    fails(tiny.name(), tiny.path(), &["adapter_config.json", "missing"]);
}

#[test]
fn senseless_runs_are_refused_before_they_start() {
    let folder = Images::new();
    let Some(config) = config(&folder) else { return };
    for (set, texts) in [
        ("lora.r=0", &["lora.r", "a rank from 1"][..]),
        ("lora.dropout=1.0", &["lora.dropout", "below 1"]),
        ("lora.rank=8", &["rank", "unknown field"]),
        ("lora.target_modules=[\"q_projj\"]", &["target_modules", "q_projj", "names no linear layer"]),
        ("lora.modules_to_save=[\"connector\"]", &["modules_to_save", "quantised", "leave it out"]),
        ("quantization.block=48", &["block"]),
        ("model.folder=nowhere", &["nowhere", "is not there"]),
        ("model.freeze_vision=true", &["model.freeze_vision", "lora.exclude_modules"]),
    ] {
        roentgen(["train", &config, "--set", set]).fails(texts);
        assert!(
            !folder.path().join("run/adapter").exists() && !folder.path().join("run/checkpoints").exists()
        );
    }
}
