//! A tiny SmolVLM on disk, whole or broken on purpose, and images for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::weights::{FileDType, Weights, write_safetensors};
use image::{GrayImage, Luma};
use model::prompt::report::INSTRUCTION;
use model::tokenizer::train_bpe;
use serde_json::{Value, json};
use tempfile::TempDir;

const SPECIALS: [&str; 6] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
];

/// A tensor of a weight file.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) dtype: FileDType,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// A model folder that goes away with this value.
pub(crate) struct Tiny {
    folder: TempDir,
}

impl Tiny {
    /// The network of the parity fixture with a tokenizer of its own.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvlm-tiny");
        std::fs::copy(fixture.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
        let texts =
            [INSTRUCTION, "User: Assistant: Image Labels: radiology, thorax | Gender: Female | Age: 29.0"];
        let tokenizer = train_bpe(texts.iter().flat_map(|text| [text; 4]), 512, &SPECIALS).unwrap();
        let tiny = Self { folder };
        tiny.write("tokenizer.json", &tokenizer);
        let config = std::fs::read_to_string(fixture.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["image_token_id"] = json!(4);
        config["eos_token_id"] = json!(5);
        config["text_config"]["max_position_embeddings"] = json!(1024);
        tiny.write("config.json", &config.to_string());
        tiny
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn name(&self) -> &str {
        self.path().to_str().unwrap()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    /// Changes `config.json`.
    pub(crate) fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let text = std::fs::read_to_string(self.path().join("config.json")).unwrap();
        let mut config = serde_json::from_str(&text).unwrap();
        edit(&mut config);
        self.write("config.json", &config.to_string());
    }

    /// Changes the weights.
    pub(crate) fn edit_weights(&self, edit: impl FnOnce(&mut BTreeMap<String, Stored>)) {
        let path = self.path().join("model.safetensors");
        let weights = Weights::open(&path).unwrap();
        let mut tensors: BTreeMap<String, Stored> = weights
            .entries()
            .iter()
            .map(|e| {
                let stored =
                    Stored { dtype: e.dtype(), shape: e.shape().to_vec(), bytes: e.bytes().to_vec() };
                (e.name().to_owned(), stored)
            })
            .collect();
        drop(weights);
        edit(&mut tensors);
        let list = tensors.iter().map(|(name, t)| (name.as_str(), t.dtype, &t.shape[..], &t.bytes[..]));
        write_safetensors(&path, list, &BTreeMap::new()).unwrap();
    }
}

/// Images in a folder that goes away with this value.
pub(crate) struct Images {
    folder: TempDir,
}

impl Images {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn name(&self) -> &str {
        self.path().to_str().unwrap()
    }

    /// A grey gradient; the format follows the name's ending.
    pub(crate) fn gradient(&self, name: &str, width: u32, height: u32) -> PathBuf {
        let path = self.path().join(name);
        let image = GrayImage::from_fn(width, height, |x, y| Luma([((x * 3 + y * 5) % 256) as u8]));
        image.save(&path).unwrap();
        path
    }

    /// Any bytes under any name.
    pub(crate) fn raw(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}
