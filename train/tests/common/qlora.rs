//! Adapter runs on a tiny base model that lies in a folder.

use std::path::{Path, PathBuf};

use engine::cpu::threads::set_threads;
use engine::{Device, Tensor, no_grad};
use roentgen_oracle::gpu::device;
use train::data::Cases;
use train::export::export;
use train::metrics::StepRecord;
use train::setup::Setup;
use train::{Options, Summary, TrainConfig, run};

const CONFIG: &str = r#"
out = "run"

[model]
folder = "base"

[quantization]
skip = ["modality_projection.proj"]

[lora]
modules_to_save = ["modality_projection.proj"]

[data]
files = ["rows.jsonl"]

[optimizer]
lr = 1e-2
min_8bit_size = 64

[schedule]
shape = "constant_with_warmup"
warmup_steps = 2

[training]
batch_size = 1
accumulation = 2
epochs = 3
sample_count = 0
"#;

/// A run in a folder that goes away with it.
pub(crate) struct Tiny {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: TrainConfig,
}

impl Tiny {
    /// A vision-language model of random weights, rows for it, and a QLoRA run changed by `overrides`.
    pub(crate) fn new(overrides: &[(&str, &str)]) -> Self {
        Self::with(CONFIG, false, overrides)
    }

    /// A decoder alone; rows without images.
    pub(crate) fn text(overrides: &[(&str, &str)]) -> Self {
        let config = CONFIG
            .replace(r#"skip = ["modality_projection.proj"]"#, "")
            .replace(r#"modules_to_save = ["modality_projection.proj"]"#, "")
            .replace("[data]", "[data]\nimages = false");
        Self::with(&config, true, overrides)
    }

    fn with(text: &str, decoder_alone: bool, overrides: &[(&str, &str)]) -> Self {
        // Before the first kernel: more threads than this machine may have cores.
        set_threads(3);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        super::data(path);
        let mut scratch = super::config(path, &[]);
        if decoder_alone {
            scratch.model.vision = None;
            scratch.data.images = false;
        }
        let cases = Cases::read(&scratch.data).unwrap();
        let setup = Setup::new(&scratch, &cases, &path.join("none"), &Device::cpu()).unwrap();
        export(&path.join("base"), &setup, train::config::WeightDType::F32).unwrap();
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let config = TrainConfig::from_toml(text, "qlora.toml", path, &overrides).unwrap();
        Self { folder, config }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn run(&self) -> Summary {
        run(&self.config, &super::options()).unwrap()
    }

    /// The whole run, and each step of it.
    pub(crate) fn steps(&self) -> (Summary, Vec<StepRecord>) {
        let steps = std::cell::RefCell::new(Vec::new());
        let seen = |record: &StepRecord| steps.borrow_mut().push(record.clone());
        let summary = run(&self.config, &Options { on_step: Some(&seen), ..super::options() }).unwrap();
        (summary, steps.into_inner())
    }

    /// Bytes of the adapter that the run ended with.
    pub(crate) fn adapter(&self) -> Vec<u8> {
        adapter(&self.config.out)
    }

    /// What the run starts from.
    pub(crate) fn setup(&self) -> Setup {
        let cases = Cases::read(&self.config.data).unwrap();
        Setup::new(&self.config, &cases, &self.path("none"), device()).unwrap()
    }
}

/// Bytes of the adapter in a run's folder.
pub(crate) fn adapter(out: &Path) -> Vec<u8> {
    std::fs::read(out.join("adapter/adapter_model.safetensors")).unwrap()
}

/// Bits of the logits for an image (where the model sees) and a few words.
pub(crate) fn logits(setup: &Setup) -> Vec<u32> {
    let network = &setup.network;
    let mut ids: Vec<u32> = (20..30).collect();
    let run = || {
        let dtype = setup.parameters.last().unwrap().1.dtype();
        let features = network.vision_language().map(|model| {
            let pixels: Vec<f32> = (0..3 * 16 * 16).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
            let pixels = Tensor::from_slice(&pixels, &[1, 3, 16, 16], network.device()).unwrap();
            model.image_features_in(dtype, &pixels, None).unwrap()
        });
        if let (Some(features), Some(image)) = (&features, &setup.config.image) {
            ids.extend(vec![image.image_token_id; features.dim(1).unwrap()]);
        }
        let embeds = network.embed(&ids, 1, features.as_ref()).unwrap().to_dtype(dtype).unwrap();
        let places = model::smolvlm::right_padded(&[ids.len()], ids.len(), network.device()).unwrap();
        let decoder = network.decoder();
        decoder.logits(&decoder.forward(&embeds, &places, None).unwrap()).unwrap()
    };
    let logits = no_grad(run).to_dtype(engine::DType::F32).unwrap();
    logits.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}
