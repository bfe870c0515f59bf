//! From a configuration to a model that can be trained, with its tokenizer and image settings.

use std::path::Path;
use std::sync::Arc;

use engine::weights::Weights;
use engine::{DType, Device, Tensor};
use model::config::{Config, GenerationConfig, PreprocessorConfig};
use model::loader::Loader;
use model::prompt::report::{INSTRUCTION, Limit, question};
use model::prompt::{ChatTemplate, END_OF_UTTERANCE, FAKE, GLOBAL, IMAGE, SMOLVLM_TEMPLATE};
use model::smolvlm::SmolVlm;
use model::tokenizer::{Tokenizer, train_bpe};
use serde_json::json;

use crate::config::{ModelSection, TextSizes, TrainConfig, VisionSizes};
use crate::data::{Cases, Split};
use crate::error::{Error, Result};

/// A model with what belongs to it.
pub struct Setup {
    /// Sizes.
    pub config: Config,
    /// Vocabulary.
    pub tokenizer: Tokenizer,
    /// Jinja text of the chat template.
    pub template: String,
    /// Images to tiles.
    pub preprocessor: PreprocessorConfig,
    /// The network; its parameters are f32 leaves.
    pub model: SmolVlm,
    /// The parameters with their names.
    pub parameters: Vec<(String, Tensor)>,
}

const START: &str = "<|im_start|>";
const PAD: &str = "<|im_end|>";

impl Setup {
    /// Builds what the configuration asks for. A vocabulary that is to be learned is learned from the training
    /// rows of `cases`, or read from `kept` if that file is there (a run that continues).
    pub fn new(run: &TrainConfig, cases: &Cases, kept: &Path, device: &Device) -> Result<Self> {
        match &run.model.folder {
            Some(folder) => Self::from_folder(run, folder, device),
            None => Self::from_scratch(run, cases, kept, device),
        }
    }

    fn from_folder(run: &TrainConfig, folder: &Path, device: &Device) -> Result<Self> {
        let config = Config::from_file(folder.join("config.json"))?;
        let path = folder.join("preprocessor_config.json");
        let preprocessor = if path.is_file() {
            PreprocessorConfig::from_file(&path)?
        } else {
            PreprocessorConfig::with_tile_edge(tile_edge(&config)?)
        };
        let template = template_text(folder)?;
        // The end of an answer is generation's business; a broken file should not wait until then.
        let generation = folder.join("generation_config.json");
        if generation.is_file() {
            GenerationConfig::from_file(&generation)?;
        }
        let loader =
            Loader::from_weights(Arc::new(Weights::open(folder)?), Some(DType::F32), device).trainable();
        Self::assemble(
            run,
            config,
            Tokenizer::from_file(folder.join("tokenizer.json"))?,
            template,
            preprocessor,
            &loader,
        )
    }

    fn from_scratch(run: &TrainConfig, cases: &Cases, kept: &Path, device: &Device) -> Result<Self> {
        let tokenizer = match (&run.tokenizer.file, run.tokenizer.vocab_size) {
            (Some(file), _) => Tokenizer::from_file(file)?,
            (None, _) if kept.is_file() => Tokenizer::from_file(kept)?,
            (None, size) => learn_vocabulary(run, cases, size.unwrap_or_default())?,
        };
        let config = match &run.model.config {
            Some(file) => Config::from_file(file)?,
            None => sizes(&run.model, &tokenizer)?,
        };
        let mut preprocessor = PreprocessorConfig::with_tile_edge(tile_edge(&config)?);
        preprocessor.do_image_splitting = false;
        preprocessor.longest_edge = preprocessor.tile_edge;
        let loader = Loader::random(run.seed, DType::F32, device).trainable();
        let setup =
            Self::assemble(run, config, tokenizer, SMOLVLM_TEMPLATE.to_owned(), preprocessor, &loader)?;
        let scale = (run.model.init_std / f64::from(model::nn::INIT_STD)) as f32;
        if scale != 1.0 {
            // Matrices are drawn with the library's deviation; vectors are the constants of norms and biases.
            for (_, tensor) in setup.parameters.iter().filter(|(_, t)| t.rank() > 1) {
                let value = tensor.detach();
                value.write(&value.affine(scale, 0.0)?)?;
            }
        }
        Ok(setup)
    }

    fn assemble(
        run: &TrainConfig,
        config: Config,
        tokenizer: Tokenizer,
        template: String,
        mut preprocessor: PreprocessorConfig,
        loader: &Loader,
    ) -> Result<Self> {
        if let Some(splitting) = run.image.splitting {
            preprocessor.do_image_splitting = splitting;
        }
        if let Some(edge) = run.image.longest_edge {
            preprocessor.longest_edge = edge;
        }
        preprocessor.validate("[image]")?;
        if preprocessor.do_image_splitting && !run.image.augmentation.is_none() {
            let reason = "`image.augmentation` changes each tile by itself and would tear an image that is \
                split; set `image.splitting = false` or leave it out";
            return Err(Error::config("[image]", reason));
        }
        if tokenizer.vocab_size() > config.text.vocab_size {
            let reason = format!(
                "the tokenizer has {} tokens, the embedding {} rows (vocab_size)",
                tokenizer.vocab_size(),
                config.text.vocab_size
            );
            return Err(Error::config("[tokenizer]", reason));
        }
        let mut model = SmolVlm::load(loader, &config)?;
        model.set_checkpointing(run.training.checkpointing);
        Ok(Self { parameters: loader.given(), config, tokenizer, template, preprocessor, model })
    }

    /// The template, ready to render.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        Ok(ChatTemplate::new(&self.template, "chat template")?)
    }

    /// Parameters in all.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(|(_, t)| t.count()).sum()
    }

    /// What fills the shorter rows of a batch.
    pub fn pad_id(&self) -> u32 {
        let end = || self.tokenizer.special_id(END_OF_UTTERANCE);
        self.config
            .pad_token_id
            .filter(|&id| (id as usize) < self.config.text.vocab_size)
            .or_else(end)
            .unwrap_or(0)
    }
}

fn tile_edge(config: &Config) -> Result<usize> {
    Ok(config.vision_language("config.json")?.vision.image_size)
}

/// Text of a folder's template, else the built-in rule.
fn template_text(folder: &Path) -> Result<String> {
    for name in ["chat_template.jinja", "chat_template.json", "tokenizer_config.json"] {
        let path = folder.join(name);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Error::io(&path, "read", e)),
        };
        if name == "chat_template.jinja" {
            return Ok(text);
        }
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| Error::config(&path.display().to_string(), e.to_string()))?;
        if let Some(template) = json["chat_template"].as_str() {
            return Ok(template.to_owned());
        }
    }
    Ok(SMOLVLM_TEMPLATE.to_owned())
}

/// A byte-level BPE of everything that the training rows say, prompts included.
fn learn_vocabulary(run: &TrainConfig, cases: &Cases, size: usize) -> Result<Tokenizer> {
    let tags: Vec<String> = match run.image.splitting {
        // The tile names of the smaller published vocabularies.
        Some(true) => (1..=6).flat_map(|r| (1..=6).map(move |c| format!("<row_{r}_col_{c}>"))).collect(),
        _ => Vec::new(),
    };
    let mut specials = vec!["<|endoftext|>", START, PAD, FAKE, IMAGE, GLOBAL, END_OF_UTTERANCE];
    specials.extend(tags.iter().map(String::as_str));
    let texts = cases.of(Split::Train).map(|case| {
        let text = Some(case.clinical_case.as_str());
        let question = question(INSTRUCTION, text, Limit::Case(run.data.case_limit));
        // The words that the template adds stand in every prompt too.
        format!("User:{question}\nAssistant: {}", case.report.format())
    });
    let json = train_bpe(texts, size, &specials)?;
    Ok(Tokenizer::from_json(json, "learned vocabulary")?)
}

/// A configuration by the sizes of the run's file.
fn sizes(section: &ModelSection, tokenizer: &Tokenizer) -> Result<Config> {
    let (Some(vision), Some(text)) = (&section.vision, &section.text) else {
        return Err(Error::config("[model]", "sizes need both `vision` and `text`"));
    };
    let VisionSizes {
        image_size,
        patch_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
    } = vision.clone();
    let vision = json!({
        "image_size": image_size,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
    });
    let TextSizes {
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        rope_theta,
        max_position_embeddings,
    } = text.clone();
    let text = json!({
        "vocab_size": tokenizer.vocab_size(),
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "num_key_value_heads": num_key_value_heads,
        "head_dim": head_dim,
        "rope_theta": rope_theta,
        "max_position_embeddings": max_position_embeddings,
    });
    let whole = json!({
        "model_type": "idefics3",
        "scale_factor": section.scale_factor,
        "tie_word_embeddings": section.tie_word_embeddings,
        "image_token_id": tokenizer.special_id(IMAGE),
        "bos_token_id": tokenizer.special_id(START),
        "eos_token_id": tokenizer.special_id(END_OF_UTTERANCE),
        "pad_token_id": tokenizer.special_id(PAD),
        "vision_config": vision,
        "text_config": text,
    });
    Ok(Config::from_json(&whole.to_string(), "[model]")?)
}
