//! From a configuration to a model that can be trained, with its tokenizer and image settings.

use std::path::Path;
use std::sync::Arc;

use engine::weights::Weights;
use engine::{DType, Device, Tensor};
use model::bundle::{Network, network};
use model::config::{Config, GenerationConfig, PreprocessorConfig};
use model::loader::Loader;
use model::lora::Adapter;
use model::prompt::{ChatTemplate, END_OF_UTTERANCE, FAKE, GLOBAL, IMAGE, PromptEncoder};
use model::tokenizer::{Tokenizer, train_bpe};
use serde_json::{Value, json};

use crate::config::{ImageSection, LossOver, ModelSection, Precision, TextSizes, TrainConfig, VisionSizes};
use crate::data::batch::Collation;
use crate::data::{Cases, Split};
use crate::error::{Error, Result};

/// A model with what belongs to it.
pub struct Setup {
    /// Sizes.
    pub config: Config,
    /// Vocabulary.
    pub tokenizer: Tokenizer,
    /// Messages to text.
    pub template: ChatTemplate,
    /// Images to tiles; `None` for a decoder alone.
    pub preprocessor: Option<PreprocessorConfig>,
    /// The network. Without an adapter its parameters are f32 leaves; with one they are frozen.
    pub network: Network,
    /// All dense parameters of the network with their names.
    pub parameters: Vec<(String, Tensor)>,
    /// What is trained in their place, attached to the network.
    pub adapter: Option<Adapter>,
    /// The tower and the connector are left out of [`Self::trained`].
    freeze_vision: bool,
}

const START: &str = "<|im_start|>";
const PAD: &str = "<|im_end|>";

/// What an image goes through before the decoder.
const VISION: [&str; 2] = ["model.vision_model.", "model.connector."];

impl Setup {
    /// Builds what the configuration asks for. A vocabulary that is to be learned is learned from the training
    /// rows of `cases`, or read from `kept` if that file is there (a run that continues).
    pub fn new(run: &TrainConfig, cases: &Cases, kept: &Path, device: &Device) -> Result<Self> {
        let _phase = engine::profile::phase("load");
        match &run.model.folder {
            Some(folder) => Self::from_folder(run, folder, device),
            None => Self::from_scratch(run, cases, kept, device),
        }
    }

    fn from_folder(run: &TrainConfig, folder: &Path, device: &Device) -> Result<Self> {
        if !folder.is_dir() {
            return Err(no_folder(folder));
        }
        let config = Config::from_file(folder.join("config.json"))?;
        let path = folder.join("preprocessor_config.json");
        let preprocessor = match &config.image {
            None => None,
            Some(_) if path.is_file() => Some(PreprocessorConfig::from_file(&path)?),
            Some(image) => Some(PreprocessorConfig::with_tile_edge(image.vision.image_size)),
        };
        let template = ChatTemplate::from_folder(folder)?.unwrap_or_else(ChatTemplate::smolvlm);
        // The end of an answer is generation's business; a broken file should not wait until then.
        let generation = folder.join("generation_config.json");
        if generation.is_file() {
            GenerationConfig::from_file(&generation)?;
        }
        let loader = prepare(
            run,
            Loader::from_weights(Arc::new(Weights::open(folder)?), Some(base_dtype(run)), device),
        );
        let tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))?;
        Self::assemble(run, config, tokenizer, template, preprocessor, &loader)
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
        let preprocessor = config.image.as_ref().map(|image| {
            let edge = image.vision.image_size;
            let whole = PreprocessorConfig::with_tile_edge(edge);
            PreprocessorConfig { do_image_splitting: false, longest_edge: edge, ..whole }
        });
        let loader = prepare(run, Loader::random(run.seed, base_dtype(run), device));
        let template = ChatTemplate::smolvlm();
        let setup = Self::assemble(run, config, tokenizer, template, preprocessor, &loader)?;
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
        template: ChatTemplate,
        mut preprocessor: Option<PreprocessorConfig>,
        loader: &Loader,
    ) -> Result<Self> {
        if let Some(preprocessor) = &mut preprocessor {
            run.image.apply(preprocessor);
            preprocessor.validate("[image]")?;
            if preprocessor.do_image_splitting && !run.image.augmentation.is_none() {
                let reason = "`image.augmentation` changes each tile by itself and would tear an image that is \
                    split; set `image.splitting = false` or leave it out";
                return Err(Error::config("[image]", reason));
            }
        } else if run.image != ImageSection::default() {
            return Err(Error::config("[image]", "a decoder alone reads no images; leave the section out"));
        }
        if tokenizer.vocab_size() > config.text.vocab_size {
            let reason = format!(
                "the tokenizer has {} tokens, the embedding {} rows (vocab_size)",
                tokenizer.vocab_size(),
                config.text.vocab_size
            );
            return Err(Error::config("[tokenizer]", reason));
        }
        let mut network = network(loader, &config)?;
        network.set_checkpointing(run.training.checkpointing);
        let base = run.model.folder.as_ref().map(|folder| folder.display().to_string());
        let adapter =
            run.lora.as_ref().map(|lora| Adapter::new(lora.config(base), &network, run.seed)).transpose()?;
        if let Some(adapter) = &adapter {
            network.attach(adapter)?;
        }
        // What loading needed beside the weights is not of the sizes that training asks for.
        network.device().trim();
        let freeze_vision = run.model.freeze_vision;
        Ok(Self {
            parameters: loader.given(),
            config,
            tokenizer,
            template,
            preprocessor,
            network,
            adapter,
            freeze_vision,
        })
    }

    /// An encoder of messages for this model.
    ///
    /// # Errors
    /// If the tokenizer is not the model's.
    pub fn encoder(&self) -> Result<PromptEncoder<'_>> {
        if let Some(image) = &self.config.image {
            return Ok(PromptEncoder::new(&self.tokenizer, &self.template, image)?);
        }
        let encoder = PromptEncoder::text_only(&self.tokenizer, &self.template);
        Ok(match self.tokenizer.special_id(END_OF_UTTERANCE) {
            Some(_) => encoder,
            None => encoder.ending_with(self.end_id()?),
        })
    }

    /// The token that ends an answer: `<end_of_utterance>`, else the first end of a text in `config.json`.
    ///
    /// # Errors
    /// If there is neither.
    pub fn end_id(&self) -> Result<u32> {
        let end = self.tokenizer.special_id(END_OF_UTTERANCE);
        end.or_else(|| self.config.eos_token_ids.first().copied()).ok_or_else(|| {
            Error::Data(format!(
                "neither has the tokenizer a special token `{END_OF_UTTERANCE}` nor config.json an eos_token_id: \
                 nothing can end an answer"
            ))
        })
    }

    /// The parameters that the optimiser changes.
    pub fn trained(&self) -> Vec<(String, Tensor)> {
        if let Some(adapter) = &self.adapter {
            return adapter.parameters();
        }
        let frozen = |name: &str| self.freeze_vision && is_vision(name);
        self.parameters.iter().filter(|(name, _)| !frozen(name)).cloned().collect()
    }

    /// Parameters that an image goes through before the decoder.
    pub fn vision_parameters(&self) -> impl Iterator<Item = &(String, Tensor)> {
        self.parameters.iter().filter(|(name, _)| is_vision(name))
    }

    /// Whether an image always gives the same features: the model has a tower, and no parameter of it or of the
    /// connector is trained.
    pub fn vision_is_frozen(&self) -> bool {
        self.network.vision_language().is_some() && !self.trained().iter().any(|(name, _)| is_vision(name))
    }

    /// Parameters in all, those of an adapter included.
    pub fn parameter_count(&self) -> usize {
        let base = self.config.parameter_count().total() as usize;
        base + self.adapter.as_ref().map_or(0, Adapter::parameter_count)
    }

    /// How rows become batches. Padding is what the notebook leaves out of the loss by its id (spec smolvlm §8); where
    /// a text model pads with the token that ends an answer, that would keep it from ever learning to end.
    pub fn collation(&self, loss: LossOver) -> Collation {
        let pad_id = self.pad_id();
        let image_id = self.config.image.as_ref().map(|image| image.image_token_id);
        let padding = Some(pad_id).filter(|&id| self.end_id().is_ok_and(|end| end != id));
        Collation { pad_id, never: [image_id, padding], loss }
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

/// Type of the weights as they are loaded: what is trained is f32; a frozen base is in the type of the residual stream.
fn base_dtype(run: &TrainConfig) -> DType {
    match (run.lora.is_some(), run.precision) {
        (true, Precision::Bf16) => DType::BF16,
        _ => DType::F32,
    }
}

/// A loader that gives leaves, or a frozen base as the configuration wants it.
fn prepare(run: &TrainConfig, loader: Loader) -> Loader {
    let loader = match run.precision {
        Precision::Mixed => loader.computing_in(DType::BF16),
        Precision::F32 | Precision::Bf16 => loader,
    };
    match (&run.lora, &run.quantization) {
        (None, _) => loader.trainable(),
        (Some(_), None) => loader,
        (Some(_), Some(q)) => loader.quantized(q.config(), q.skipped()),
    }
}

fn is_vision(name: &str) -> bool {
    VISION.iter().any(|part| name.contains(part))
}

/// What to say of a `model.folder` that is none.
fn no_folder(path: &Path) -> Error {
    let name = path.display();
    let gguf = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    Error::config(
        "[model]",
        match (path.is_file(), gguf) {
            (true, true) => format!(
                "`folder`: {name} is a GGUF file, which is made to be run and not trained; make a folder in Hugging \
             Face layout of it with `roentgen convert`"
            ),
            (true, false) => format!("`folder`: {name} is a file; give the folder that it is in"),
            (false, _) => {
                format!("`folder`: {name} is not there; give a model's folder in Hugging Face layout")
            }
        },
    )
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
        let question = run.data.question(Some(&case.clinical_case));
        // The words that the template adds stand in every prompt too.
        format!("User:{question}\nAssistant: {}", case.answer)
    });
    let json = train_bpe(texts, size, &specials)?;
    Ok(Tokenizer::from_json(json, "learned vocabulary")?)
}

/// A configuration by the sizes of the run's file.
fn sizes(section: &ModelSection, tokenizer: &Tokenizer) -> Result<Config> {
    let Some(text) = &section.text else {
        return Err(Error::config("[model]", "sizes need `text`"));
    };
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
    let mut whole = json!({
        "tie_word_embeddings": section.tie_word_embeddings,
        "bos_token_id": tokenizer.special_id(START),
        "eos_token_id": tokenizer.special_id(END_OF_UTTERANCE),
        "pad_token_id": tokenizer.special_id(PAD),
    });
    let Some(vision) = &section.vision else {
        whole["model_type"] = "llama".into();
        merge(&mut whole, text);
        return Ok(Config::from_json(&whole.to_string(), "[model]")?);
    };
    let VisionSizes {
        image_size,
        patch_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
    } = vision.clone();
    merge(
        &mut whole,
        json!({
            "model_type": "idefics3",
            "scale_factor": section.scale_factor,
            "image_token_id": tokenizer.special_id(IMAGE),
            "vision_config": {
                "image_size": image_size,
                "patch_size": patch_size,
                "hidden_size": hidden_size,
                "intermediate_size": intermediate_size,
                "num_hidden_layers": num_hidden_layers,
                "num_attention_heads": num_attention_heads,
            },
            "text_config": text,
        }),
    );
    Ok(Config::from_json(&whole.to_string(), "[model]")?)
}

/// Puts the keys of the object `more` into the object `into`.
fn merge(into: &mut Value, mut more: Value) {
    if let (Some(into), Some(more)) = (into.as_object_mut(), more.as_object_mut()) {
        into.append(more);
    }
}
