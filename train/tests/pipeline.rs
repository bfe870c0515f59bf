//! From rows to batches: the caches, rows of text alone, what is in the run folder.

mod common;

use std::path::{Path, PathBuf};

use engine::weights::Weights;
use model::bundle::{Bundle, Network};
use train::config::SplitShares;
use train::data::{Split, check};
use train::{Options, Program, Summary, TrainConfig, run};

fn go(config: &TrainConfig) -> Summary {
    run(config, &Options::default()).unwrap()
}

fn weights(config: &TrainConfig) -> Vec<u8> {
    std::fs::read(config.out.join("model/model.safetensors")).unwrap()
}

/// Files below `folder`, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { all.push(path) }
        }
    }
    all.sort();
    all
}

fn damage(path: &Path, i: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    match i % 3 {
        0 => bytes.truncate(bytes.len() / 2),
        1 => *bytes.last_mut().unwrap() ^= 1,
        _ => bytes.clear(),
    }
    std::fs::write(path, bytes).unwrap();
}

/// Another `out` for the same data.
fn again(folder: &Path, out: &str, overrides: &[(&str, &str)]) -> TrainConfig {
    let mut all = vec![("out", out), ("data.cache", "cache"), ("training.export_dtype", "f32")];
    all.extend(overrides);
    common::config(folder, &all)
}

#[test]
fn threads_and_damaged_caches_do_not_change_the_weights() {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    let changes = [("image.augmentation.shift", "0.1"), ("data.case_dropout", "0.3")];
    let first = again(folder.path(), "first", &changes);
    go(&first);
    let cached = files(&folder.path().join("cache"));
    assert_eq!(cached.len(), 4);
    for (i, path) in cached.iter().enumerate() {
        damage(path, i);
    }
    for workers in ["0", "3"] {
        let mut changes = changes.to_vec();
        changes.push(("data.workers", workers));
        let other = again(folder.path(), &format!("workers-{workers}"), &changes);
        go(&other);
        assert!(weights(&first) == weights(&other), "{workers} workers");
    }
    assert_eq!(files(&folder.path().join("cache")), cached);
    // Another setting of the processor is another key.
    go(&again(folder.path(), "other", &[("image.longest_edge", "24"), ("training.epochs", "1")]));
    assert_eq!(files(&folder.path().join("cache")).len(), 8);
}

#[test]
fn features_of_a_frozen_tower_are_kept_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    for precision in ["f32", "bf16"] {
        let frozen = [("model.freeze_vision", "true"), ("precision", precision)];
        let first = again(folder.path(), &format!("first-{precision}"), &frozen);
        let summary = go(&first);
        let all: usize = Weights::open(first.out.join("model"))
            .unwrap()
            .entries()
            .iter()
            .map(|e| e.shape().iter().product::<usize>())
            .sum();
        assert!(summary.parameters < all, "{} of {all}", summary.parameters);
        let cached = files(&folder.path().join("cache/features"));
        assert_eq!(cached.len(), if precision == "f32" { 4 } else { 8 });

        // From the disk, and with the disk's files damaged.
        go(&again(folder.path(), &format!("second-{precision}"), &frozen));
        let second = again(folder.path(), &format!("second-{precision}"), &frozen);
        assert!(weights(&first) == weights(&second));
        for (i, path) in cached.iter().enumerate() {
            damage(path, i);
        }
        let third = again(folder.path(), &format!("third-{precision}"), &frozen);
        go(&third);
        assert!(weights(&first) == weights(&third));

        // The tower stayed as it was drawn; the decoder did not.
        let mut short = frozen.to_vec();
        short.push(("training.epochs", "1"));
        let short = again(folder.path(), &format!("short-{precision}"), &short);
        go(&short);
        let [a, b] = [&first, &short].map(|c| Weights::open(c.out.join("model")).unwrap());
        for entry in a.entries() {
            let same = entry.bytes() == b.require(entry.name()).unwrap().bytes();
            let vision = entry.name().contains("vision_model") || entry.name().contains("connector");
            assert!(same || !vision, "{} changed", entry.name());
            assert!(!same || vision || entry.name().contains("norm"), "{} did not change", entry.name());
        }
    }
    // Without freezing, or with augmentation, nothing is kept.
    let plain = tempfile::tempdir().unwrap();
    common::data(plain.path());
    go(&again(plain.path(), "a", &[("training.epochs", "1")]));
    let shifted =
        [("model.freeze_vision", "true"), ("image.augmentation.shift", "0.1"), ("training.epochs", "1")];
    go(&again(plain.path(), "b", &shifted));
    assert!(!plain.path().join("cache/features").exists());
}

#[test]
fn a_row_of_text_alone_goes_beside_images() {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    let rows = folder.path().join("rows.jsonl");
    let mut text = std::fs::read_to_string(&rows).unwrap();
    text += r#"{"id":"t","split":"train","clinical_case":"Cough.","expected_output":"Nothing to see."}"#;
    std::fs::write(&rows, &text).unwrap();
    for frozen in ["false", "true"] {
        let config = again(folder.path(), &format!("run-{frozen}"), &[("model.freeze_vision", frozen)]);
        let summary = go(&config);
        assert_eq!((summary.rows, summary.text_rows, summary.bad.len()), (5, 1, 0));
    }
}

/// A decoder alone learns captions from keywords, and the export says them.
#[test]
fn a_decoder_alone_trains_on_text() {
    const CONFIG: &str = r#"
out = "run"
precision = "f32"
[model]
init_std = 0.06
tie_word_embeddings = true
[model.text]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8
[tokenizer]
vocab_size = 300
[data]
files = ["rows.jsonl"]
instruction = "Caption:"
case_field = "keywords"
answer_field = "caption"
[data.split]
train = 1.0
validation = 0.0
test = 0.0
[loss]
over = "answer"
[optimizer]
lr = 1e-2
[schedule]
shape = "constant_with_warmup"
warmup_steps = 2
[training]
batch_size = 3
accumulation = 1
epochs = 120
"#;
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        r#"{"id":"a","pmcid":"PMC1","keywords":["ct","nodule"],"caption":"CT shows a nodule."}"#,
        r#"{"id":"b","pmcid":"PMC2","keywords":["xray","effusion"],"caption":"Film with fluid."}"#,
        r#"{"id":"c","pmcid":"PMC3","keywords":[],"caption":"No words given."}"#,
        r#"{"id":"d","pmcid":"PMC4","keywords":["x"],"caption":"Image.","image_path":"rows.jsonl"}"#,
    ];
    std::fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let config = TrainConfig::from_toml(CONFIG, "text.toml", folder.path(), &[]).unwrap();
    let summary = go(&config);
    assert_eq!((summary.rows, summary.text_rows, summary.bad.len()), (3, 3, 1));
    assert!(summary.bad[0].reason.contains("decoder alone"), "{}", summary.bad[0]);
    assert!(summary.loss.unwrap() < 0.05, "{:?}", summary.loss);
    let bundle = Bundle::open(&summary.model.unwrap(), None, &engine::Device::cpu()).unwrap();
    assert!(matches!(bundle.network, Network::Llama(_)) && bundle.processor.is_none());
    let samples = std::fs::read_to_string(folder.path().join("run/samples/step-000120.jsonl")).unwrap();
    for line in samples.lines() {
        let report: train::samples::Report = serde_json::from_str(line).unwrap();
        assert_eq!(report.generated, report.expected);
    }
    assert_eq!(samples.lines().count(), 3);
    // The export is a model to start from.
    let more = [
        ("out", "more"),
        ("training.epochs", "1"),
        ("model", "{folder = \"run/model\"}"),
        ("tokenizer", "{}"),
    ];
    let more: Vec<_> = more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let summary = go(&TrainConfig::from_toml(CONFIG, "text.toml", folder.path(), &more).unwrap());
    assert!(summary.loss.unwrap() < 0.1, "{:?}", summary.loss);
}

#[test]
fn a_gguf_file_is_sent_to_convert() {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    std::fs::write(folder.path().join("m.gguf"), b"GGUF").unwrap();
    for (path, part) in
        [("m.gguf", "roentgen convert"), ("rows.jsonl", "is a file"), ("none", "is not there")]
    {
        let model = format!("{{folder = {path:?}}}");
        let config = common::config(folder.path(), &[("model", &model), ("tokenizer", "{}")]);
        let said = run(&config, &Options::default()).unwrap_err().to_string();
        assert!(said.contains(part) && said.contains("[model]"), "{said}");
    }
}

#[test]
fn the_run_folder_tells_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    let config = common::config(folder.path(), &[("training.epochs", "2"), ("training.sample_tokens", "8")]);
    let program = Program { version: "1.2.3", commit: Some("abc") };
    run(&config, &Options { program, ..Options::default() }).unwrap();
    let out = folder.path().join("run");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let environment: serde_json::Value = serde_json::from_str(&read("environment.json")).unwrap();
    assert_eq!((&environment[0]["version"], &environment[0]["commit"]), (&"1.2.3".into(), &"abc".into()));
    assert!(environment[0]["threads"].as_u64().unwrap() >= 1 && environment[0]["cpu_features"].is_array());
    let page = read("index.html");
    for plot in ["loss", "learning_rate", "gradient_norm", "throughput", "memory"] {
        let svg = read(&format!("{plot}.svg"));
        assert!(page.contains(svg.trim()), "{plot} is not in the page");
    }
    assert_eq!(read("samples/step-000002.jsonl").lines().count(), 4);
    assert!(page.contains("A small round shadow.") && page.contains("batch_size"));
    assert!(!page.contains("src=") && !page.contains("href="), "the page needs nothing else");

    // Another process in the folder.
    let lock = std::fs::File::open(out.join(".lock")).unwrap();
    lock.lock().unwrap();
    let said = run(&config, &Options { resume: true, ..Options::default() }).unwrap_err().to_string();
    assert!(said.contains("another process"), "{said}");
    lock.unlock().unwrap();
    run(&config, &Options { resume: true, ..Options::default() }).unwrap();
    let environment: serde_json::Value = serde_json::from_str(&read("environment.json")).unwrap();
    assert_eq!(environment[1]["after_step"], 2);

    let none = common::config(folder.path(), &[("out", "quiet"), ("training.sample_count", "0")]);
    go(&none);
    assert!(!folder.path().join("quiet/samples").exists());
}

#[test]
fn hostile_rows_are_listed_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    std::fs::write(
        folder.path().join("corrupt.png"),
        &std::fs::read(folder.path().join("1.png")).unwrap()[..40],
    )
    .unwrap();
    std::fs::write(folder.path().join("empty.png"), b"").unwrap();
    let row = |id: &str, image: &str, case: &str, caption: &str| {
        format!(
            r#"{{"id":"{id}","split":"train","image_path":"{image}","clinical_case":"{case}","image_caption":"{caption}"}}"#
        )
    };
    let mut rows = std::fs::read(folder.path().join("rows.jsonl")).unwrap();
    // Line 5 is usable: the limit cuts its case.
    for row in [
        row("long", "0.png", &"x".repeat(100_000), "Clear."),
        row("corrupt", "corrupt.png", "", "Clear."),
        row("empty", "empty.png", "", "Clear."),
        row("folder", ".", "", "Clear."),
        row("row-0", "0.png", "", "Clear."),
        row("caption", "0.png", "", "  "),
        row("control", "0.png", "", "Clear.<end_of_utterance>"),
    ] {
        rows.extend(row.bytes());
        rows.push(b'\n');
    }
    rows.extend(b"{\"id\":\"\xf0\x28\"}\n");
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let config = common::config(folder.path(), &[("training.epochs", "1")]);
    let summary = go(&config);
    assert_eq!(summary.rows, 5);
    let listed = std::fs::read_to_string(folder.path().join("run/bad-rows.txt")).unwrap();
    let parts =
        ["corrupt.png", "empty.png", "is a folder", "already at", "image_caption", "control token", "UTF-8"];
    assert_eq!(listed.lines().count(), parts.len(), "{listed}");
    for ((line, part), at) in listed.lines().zip(parts).zip(6..) {
        assert!(line.contains(part) && line.contains(&format!("rows.jsonl:{at}:")), "{line}: {part}");
    }
    // The check without a model finds all but the token that only a vocabulary knows.
    let checked = check(&config.data, |_| {}, &|| {}).unwrap();
    assert_eq!(checked.bad.len(), parts.len() - 1);
    assert_eq!((checked.parts[0].0, checked.parts[0].1.rows), (Split::Train, 6));
}

#[test]
fn one_image_in_two_parts_stops_the_run() {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    std::fs::copy(folder.path().join("0.png"), folder.path().join("3.png")).unwrap();
    let mut config = common::config(folder.path(), &[("training.epochs", "1")]);
    // In one part it may be.
    go(&config);
    config.out = folder.path().join("split");
    config.data.split = Some(SplitShares { train: 0.5, validation: 0.25, test: 0.25, seed: 0 });
    // Whichever rows are drawn, some seed parts the two.
    let parted = (0..20).find_map(|seed| {
        config.data.split.as_mut().unwrap().seed = seed;
        run(&config, &Options { resume: true, ..Options::default() }).err()
    });
    let said = parted.unwrap().to_string();
    assert!(said.contains("the same image") && said.contains("row-0") && said.contains("row-3"), "{said}");
    assert!(check(&config.data, |_| {}, &|| {}).unwrap_err().to_string().contains("the same image"));
}
