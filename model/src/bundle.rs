//! A model with everything that it needs to answer: weights, tokenizer, template, image processor.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::ops::RopeKind;
use engine::profile::phase;
use engine::weights::{Weights, gguf};
use engine::{DType, Device, QuantConfig, Tensor, no_grad};

use crate::config::{Config, GenerationConfig, ModelType, PreprocessorConfig, TextConfig};
use crate::error::{Error, Result};
use crate::generate;
use crate::image::{Idefics3Processor, Tiles};
use crate::llama::{Llama, Names};
use crate::loader::{Loader, find_not_finite};
use crate::lora::Adapter;
use crate::nn::Linear;
use crate::prompt::{ChatTemplate, Message, PromptEncoder};
use crate::smolvlm::SmolVlm;
use crate::tokenizer::{GgufVocab, Tokenizer};

/// The files of a model that is part of the program.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// Stands for the folder in messages.
    pub name: &'static str,
    /// Name and content of each file, as in a Hugging Face folder.
    pub files: &'static [(&'static str, &'static [u8])],
}

/// The network of a bundle.
pub enum Network {
    /// Vision tower and decoder.
    SmolVlm(Box<SmolVlm>),
    /// A decoder alone.
    Llama(Box<Llama>),
}

impl Network {
    /// All linear layers, each with its module path, in the order of the forward pass.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::SmolVlm(model) => model.linears(),
            Self::Llama(model) => model.linears(),
        }
    }
}

/// A model, ready to answer.
pub struct Bundle {
    /// Where it came from.
    pub origin: String,
    /// Sizes.
    pub config: Config,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Messages to text.
    pub template: ChatTemplate,
    /// Defaults of generation.
    pub generation: GenerationConfig,
    /// Images to tiles; `None` for a text model.
    pub processor: Option<Idefics3Processor>,
    /// The network.
    pub network: Network,
    /// Every weight with its name.
    pub weights: Vec<(String, Tensor)>,
}

/// Where the small files of a model are.
enum Files {
    Folder(PathBuf),
    Embedded(Embedded),
}

impl Files {
    fn read(&self, name: &str) -> Result<Option<Cow<'static, [u8]>>> {
        match self {
            Self::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(Cow::Owned(bytes))),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(Error::Input(format!("{}: {e}", folder.join(name).display()))),
            },
            Self::Embedded(embedded) => {
                Ok(embedded.files.iter().find(|f| f.0 == name).map(|f| Cow::Borrowed(f.1)))
            }
        }
    }

    fn text(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let text = String::from_utf8(bytes.into_owned());
        text.map(Some).map_err(|_| Error::Input(format!("{}: is not UTF-8 text", self.path(name))))
    }

    fn require(&self, name: &str, hint: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| Error::Input(format!("{}: missing; {hint}", self.path(name))))
    }

    fn path(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(name).display().to_string(),
            Self::Embedded(embedded) => format!("{}/{name}", embedded.name),
        }
    }

    /// The template of the folder, else the built-in rule.
    fn template(&self) -> Result<ChatTemplate> {
        let found = ChatTemplate::find(|name| self.text(name), |name| self.path(name))?;
        Ok(found.unwrap_or_else(ChatTemplate::smolvlm))
    }
}

impl Network {
    /// The decoder.
    pub fn decoder(&self) -> &Llama {
        match self {
            Self::SmolVlm(model) => &model.text,
            Self::Llama(model) => model,
        }
    }

    /// The model with a vision tower, if it is one.
    pub fn vision_language(&self) -> Option<&SmolVlm> {
        match self {
            Self::SmolVlm(model) => Some(model),
            Self::Llama(_) => None,
        }
    }

    /// Embeddings `[rows, n, hidden]` of `ids` (`rows` rows of `n`), `features [tiles, tokens, hidden]` put in
    /// the places of `<image>`, in order.
    ///
    /// # Errors
    /// If features and places do not go together; a decoder alone takes no features.
    pub fn embed(&self, ids: &[u32], rows: usize, features: Option<&Tensor>) -> Result<Tensor> {
        match (self, features) {
            (Self::SmolVlm(model), features) => model.embed(ids, rows, features),
            (Self::Llama(model), None) => model.embed(ids, rows),
            (Self::Llama(_), Some(_)) => Err(Error::Input("a text model takes no images".into())),
        }
    }

    /// Turns gradient checkpointing on or off.
    pub fn set_checkpointing(&mut self, on: bool) {
        match self {
            Self::SmolVlm(model) => model.set_checkpointing(on),
            Self::Llama(model) => model.checkpointing = on,
        }
    }
}

impl Bundle {
    /// Opens a folder in Hugging Face layout or a GGUF file. Weights become `dtype`, or stay as the file
    /// has them (f16 and block-quantised ones become f32, which holds their values exactly).
    pub fn open(path: &Path, dtype: Option<DType>, device: &Device) -> Result<Self> {
        let _phase = phase("load");
        if path.is_dir() {
            let loader = Loader::from_weights(Arc::new(Weights::open(path)?), dtype, device);
            return Self::assemble(&Files::Folder(path.into()), &loader);
        }
        let weights = Weights::open(path)?;
        if weights.gguf().is_none() {
            return Err(Error::Input(format!(
                "{}: a model is a folder in Hugging Face layout or a .gguf file; this is one weight file",
                path.display()
            )));
        }
        Self::from_gguf(weights, dtype, device)
    }

    /// As [`Self::open`] for a folder, its linear layers in 4 bits: quantised as they are read, one at a time. `skip`
    /// as in [`Loader::quantized`].
    pub fn open_quantized(
        folder: &Path,
        dtype: Option<DType>,
        config: QuantConfig,
        skip: Vec<String>,
        device: &Device,
    ) -> Result<Self> {
        let _phase = phase("load");
        let loader =
            Loader::from_weights(Arc::new(Weights::open(folder)?), dtype, device).quantized(config, skip);
        Self::assemble(&Files::Folder(folder.into()), &loader)
    }

    /// A model that is part of the program.
    pub fn embedded(files: Embedded, dtype: Option<DType>, device: &Device) -> Result<Self> {
        let _phase = phase("load");
        let name = "model.safetensors";
        let bytes = files.files.iter().find(|f| f.0 == name);
        let bytes = bytes.ok_or_else(|| Error::Input(format!("{}/{name}: missing", files.name)))?.1;
        let weights = Weights::embedded(&format!("{}/{name}", files.name), bytes)?;
        Self::assemble(&Files::Embedded(files), &Loader::from_weights(Arc::new(weights), dtype, device))
    }

    fn assemble(files: &Files, loader: &Loader) -> Result<Self> {
        let hint = "a model folder holds config.json, tokenizer.json and model.safetensors";
        let config = Config::from_json(&files.require("config.json", hint)?, &files.path("config.json"))?;
        let tokenizer =
            Tokenizer::from_json(files.require("tokenizer.json", hint)?, &files.path("tokenizer.json"))?;
        let generation = match files.text("generation_config.json")? {
            Some(json) => GenerationConfig::from_json(&json, &files.path("generation_config.json"))?,
            None => GenerationConfig::default(),
        };
        let processor = match (&config.image, files.text("preprocessor_config.json")?) {
            (None, _) => None,
            (Some(_), Some(json)) => {
                Some(PreprocessorConfig::from_json(&json, &files.path("preprocessor_config.json"))?)
            }
            (Some(image), None) => Some(PreprocessorConfig::with_tile_edge(image.vision.image_size)),
        };
        if let (Some(processor), Some(image)) = (&processor, &config.image)
            && processor.tile_edge != image.vision.image_size
        {
            return Err(Error::Input(format!(
                "{}: tiles of {} pixels, but the vision tower takes {} (image_size in config.json)",
                files.path("preprocessor_config.json"),
                processor.tile_edge,
                image.vision.image_size
            )));
        }
        if tokenizer.vocab_size() > config.text.vocab_size {
            return Err(Error::Input(format!(
                "{}: {} tokens, but the embedding has {} rows (vocab_size in config.json)",
                files.path("tokenizer.json"),
                tokenizer.vocab_size(),
                config.text.vocab_size
            )));
        }
        let network = network(loader, &config)?;
        Ok(Self {
            origin: files.path("").trim_end_matches('/').to_owned(),
            template: files.template()?,
            processor: processor
                .map(|p| Idefics3Processor::new(p, &files.path("preprocessor_config.json")))
                .transpose()?,
            weights: loader.given(),
            config,
            tokenizer,
            generation,
            network,
        })
    }

    fn from_gguf(weights: Weights, dtype: Option<DType>, device: &Device) -> Result<Self> {
        let origin = weights.path().display().to_string();
        let meta = weights.gguf().ok_or_else(|| Error::Input(format!("{origin}: is no GGUF file")))?.clone();
        let config = gguf_config(&meta, &weights)?;
        let info = meta.tokenizer()?.ok_or_else(|| {
            Error::Input(format!("{origin}: carries no tokenizer; convert it with its vocabulary"))
        })?;
        let template = match &info.chat_template {
            Some(template) => ChatTemplate::new(template, &origin)?,
            None => ChatTemplate::smolvlm(),
        };
        let generation = GenerationConfig {
            bos_token_id: info.bos,
            eos_token_ids: info.eos.into_iter().chain(info.eot).collect(),
            pad_token_id: info.pad,
            ..GenerationConfig::default()
        };
        let tokenizer = Tokenizer::from_gguf(&GgufVocab::from(info), &origin)?;
        let loader = Loader::renamed(Arc::new(weights), dtype, device, gguf_name);
        loader.prepare(&config);
        let llama = Llama::load(
            &loader,
            &config.text,
            Names::LLAMA,
            RopeKind::Interleaved,
            config.tie_word_embeddings,
        )?;
        Ok(Self {
            origin,
            template,
            processor: None,
            weights: loader.given(),
            config,
            tokenizer,
            generation,
            network: Network::Llama(Box::new(llama)),
        })
    }

    /// Puts the adapter of a folder on the network, in the place of any other, and prepares images as it was trained
    /// with, where the folder says how (a `preprocessor_config.json` beside PEFT's files). Returns what was odd but
    /// harmless.
    pub fn attach(&mut self, folder: &Path) -> Result<Vec<String>> {
        let adapter = Adapter::open(folder, &self.network)?;
        let path = folder.join("preprocessor_config.json");
        if self.processor.is_some() && path.is_file() {
            self.prepare_images(PreprocessorConfig::from_file(&path)?, &path.display().to_string())?;
        }
        self.network.attach(&adapter)?;
        Ok(adapter.warnings)
    }

    /// Prepares images by other settings; `origin` names them in errors.
    pub fn prepare_images(&mut self, settings: PreprocessorConfig, origin: &str) -> Result<()> {
        if let Some(image) = &self.config.image
            && settings.tile_edge != image.vision.image_size
        {
            return Err(Error::Input(format!(
                "{origin}: tiles of {} pixels, but the vision tower takes {}",
                settings.tile_edge, image.vision.image_size
            )));
        }
        self.processor = Some(Idefics3Processor::new(settings, origin)?);
        Ok(())
    }

    /// The decoder.
    pub fn decoder(&self) -> &Llama {
        self.network.decoder()
    }

    /// Where it lives.
    pub fn device(&self) -> &Device {
        self.decoder().device()
    }

    /// Tokens that end an answer: those of `generation_config.json`, else those of `config.json`.
    pub fn stop_tokens(&self) -> Vec<u32> {
        match &self.generation.eos_token_ids[..] {
            [] => self.config.eos_token_ids.clone(),
            ids => ids.to_vec(),
        }
    }

    /// An encoder of messages for this model.
    pub fn encoder(&self) -> Result<PromptEncoder<'_>> {
        Ok(match &self.config.image {
            Some(image) => PromptEncoder::new(&self.tokenizer, &self.template, image)?,
            None => PromptEncoder::text_only(&self.tokenizer, &self.template),
        })
    }

    /// A conversation with its images, embedded. Runs the vision tower.
    pub fn prompt(&self, messages: &[Message], images: &[Tiles<'_>]) -> Result<generate::Prompt> {
        let grids: Vec<_> = images.iter().map(Tiles::grid).collect();
        let ids = {
            let _phase = phase("prompt");
            self.encoder()?.encode(messages, &grids)?.ids
        };
        self.embed(ids, images)
    }

    /// Text as it is, without a template; `<image>` is not expanded.
    pub fn raw_prompt(&self, text: &str) -> Result<generate::Prompt> {
        let ids = {
            let _phase = phase("prompt");
            self.tokenizer.encode(text)?
        };
        self.embed(ids, &[])
    }

    fn embed(&self, ids: Vec<u32>, images: &[Tiles<'_>]) -> Result<generate::Prompt> {
        let longest = self.config.text.max_position_embeddings;
        if ids.len() >= longest {
            return Err(Error::Input(format!(
                "the prompt has {} tokens; with one new token that exceeds the model's {longest} positions: shorten the text or use smaller images",
                ids.len()
            )));
        }
        let embeds = no_grad(|| match &self.network {
            Network::Llama(model) => model.embed(&ids, 1),
            Network::SmolVlm(model) => {
                let features = self.pixels(images)?.map(|p| model.image_features(&p, None)).transpose()?;
                let _phase = phase("prompt");
                model.embed(&ids, 1, features.as_ref())
            }
        })?;
        Ok(generate::Prompt { embeds, ids })
    }

    /// Normalised pixels `[tiles, 3, edge, edge]`, f32, of all images; `None` if there are none.
    pub fn pixels(&self, images: &[Tiles<'_>]) -> Result<Option<Tensor>> {
        let tiles: usize = images.iter().map(Tiles::count).sum();
        let Some(first) = images.first() else { return Ok(None) };
        let _phase = phase("image");
        let edge = first.edge();
        let mut values = vec![0.0; tiles * 3 * edge * edge];
        let mut rest = &mut values[..];
        for image in images {
            let (own, after) = rest.split_at_mut(image.shape().iter().product());
            image.write_normalised(own);
            rest = after;
        }
        Ok(Some(Tensor::from_slice(&values, &[tiles, 3, edge, edge], self.device())?))
    }

    /// What to say when the model's output was not finite: the first weight that is not, if there is one.
    pub fn explain(&self, error: Error) -> Error {
        match error {
            Error::NotFinite(what) => match find_not_finite(&self.weights) {
                Ok(Some(weight)) => Error::NotFinite(format!("{what}; {}: {weight}", self.origin)),
                _ => Error::NotFinite(format!(
                    "{what}; all weights of {} are finite: try --dtype f32",
                    self.origin
                )),
            },
            other => other,
        }
    }
}

/// The network of a configuration, with tensors under their published names.
pub fn network(loader: &Loader, config: &Config) -> Result<Network> {
    loader.prepare(config);
    Ok(match config.model_type {
        ModelType::Idefics3 | ModelType::SmolVlm => {
            Network::SmolVlm(Box::new(SmolVlm::load(loader, config)?))
        }
        ModelType::Llama => Network::Llama(Box::new(Llama::load(
            loader,
            &config.text,
            Names::LLAMA,
            RopeKind::Half,
            config.tie_word_embeddings,
        )?)),
    })
}

/// GGUF's name of a decoder tensor; `None` if it is none.
pub fn gguf_name(name: &str) -> Option<String> {
    let outer = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(outer) = outer {
        return Some(outer.into());
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let part = match part.strip_suffix(".weight")? {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(format!("blk.{layer}.{part}.weight"))
}

/// The sizes of the model in a GGUF file.
pub fn gguf_config(meta: &gguf::Metadata, weights: &Weights) -> Result<Config> {
    let architecture = meta.required("general.architecture", gguf::Metadata::str)?;
    if architecture != "llama" {
        return Err(Error::Input(format!(
            "{}: architecture `{architecture}`; llama is supported",
            weights.path().display()
        )));
    }
    let size =
        |key: &str| Ok::<_, Error>(meta.required(&format!("llama.{key}"), gguf::Metadata::u32)? as usize);
    let hidden_size = size("embedding_length")?;
    let heads = size("attention.head_count")?;
    let kv_heads = meta.u32("llama.attention.head_count_kv")?.map_or(heads, |n| n as usize);
    let head_dim = match meta.u32("llama.attention.key_length")? {
        Some(n) => n as usize,
        None => hidden_size / heads.max(1),
    };
    if let Some(n) = meta.u32("llama.rope.dimension_count")?
        && n as usize != head_dim
    {
        return Err(meta
            .error("llama.rope.dimension_count", format!("is {n}, heads are {head_dim} wide"))
            .into());
    }
    let vocab_size = weights.require("token_embd.weight")?.rows();
    let config = Config {
        model_type: ModelType::Llama,
        text: TextConfig {
            vocab_size,
            hidden_size,
            intermediate_size: size("feed_forward_length")?,
            num_hidden_layers: size("block_count")?,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            rms_norm_eps: f64::from(
                meta.required("llama.attention.layer_norm_rms_epsilon", gguf::Metadata::f32)?,
            ),
            rope_theta: f64::from(meta.f32("llama.rope.freq_base")?.unwrap_or(10_000.0)),
            max_position_embeddings: size("context_length")?,
        },
        image: None,
        tie_word_embeddings: weights.get("output.weight").is_none(),
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
        torch_dtype: None,
    };
    config.validate(&weights.path().display().to_string())?;
    Ok(config)
}
