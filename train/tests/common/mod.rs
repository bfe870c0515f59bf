//! A tiny model and four made-up rows, whose answers depend on the image alone.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod qlora;

use std::fmt::Write as _;
use std::path::Path;

use roentgen_oracle::gpu::device;
use train::{Options, TrainConfig};

const CONFIG: &str = r#"
out = "run"
precision = "f32"

[model]
tie_word_embeddings = true
init_std = 0.06

[model.vision]
image_size = 16
patch_size = 4
hidden_size = 24
intermediate_size = 48
num_hidden_layers = 1
num_attention_heads = 2

[model.text]
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
head_dim = 8

[tokenizer]
vocab_size = 320

[data]
files = ["rows.jsonl"]

[loss]
over = "answer"

[optimizer]
lr = 1e-2

[schedule]
shape = "constant_with_warmup"
warmup_steps = 2

[training]
batch_size = 2
accumulation = 2
epochs = 6
"#;

/// A run on the tests' device.
pub(crate) fn options() -> Options<'static> {
    Options { device: Some(device()), ..Options::default() }
}

/// Writes images and rows into `folder`.
pub(crate) fn data(folder: &Path) {
    let mut rows = String::new();
    for (i, (gender, age, label, caption)) in [
        ("Female", "41", "effusion", "Fluid on the left side."),
        ("Male", "62", "nodule", "A small round shadow."),
        ("Female", "19", "no_finding", "Clear lungs."),
        ("Male", "null", "mass", "A large shadow above."),
    ]
    .into_iter()
    .enumerate()
    {
        let pixels: Vec<u8> =
            (0..1024).map(|p| if (p % 32 / 16 + 2 * (p / 512)) == i { 230 } else { 30 }).collect();
        image::GrayImage::from_raw(32, 32, pixels).unwrap().save(folder.join(format!("{i}.png"))).unwrap();
        // Writing to a string cannot fail.
        let _ = writeln!(
            rows,
            r#"{{"id":"row-{i}","split":"train","image_path":"{i}.png","clinical_case":"A patient with cough.","image_labels":["thorax","{label}"],"gender":"{gender}","age":{age},"image_caption":"{caption}"}}"#
        );
    }
    std::fs::write(folder.join("rows.jsonl"), rows).unwrap();
}

/// The tiny run in `folder`, changed by `overrides`.
pub(crate) fn config(folder: &Path, overrides: &[(&str, &str)]) -> TrainConfig {
    let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    TrainConfig::from_toml(CONFIG, "tiny.toml", folder, &overrides).unwrap()
}
