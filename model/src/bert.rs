//! BERT (Devlin et al. 2019, arXiv 1810.04805) and `RoBERTa` (Liu et al. 2019, arXiv 1907.11692) encoders, as
//! `BERTScore` needs them: token vectors after a chosen layer, in f32.
//!
//! Post-norm: every sublayer's output is added to its input and then normalised. Field and tensor names are the
//! checkpoints'. Layers above the chosen one are neither read nor run.

mod config;

use std::path::Path;
use std::sync::Arc;

use engine::ops::GeluKind;
use engine::weights::Weights;
use engine::{DType, Device, Tensor, no_grad};

pub use config::{BertConfig, BertKind};

use crate::error::{Error, Result};
use crate::loader::{Init, Loader};
use crate::nn::{INIT_STD, LayerNorm, Linear};
use crate::tokenizer::PieceTokenizer;

/// An encoder with its tokenizer.
pub struct BertEncoder {
    /// Where it came from.
    pub origin: String,
    /// Sizes.
    pub config: BertConfig,
    /// Text to ids, special tokens included.
    pub tokenizer: PieceTokenizer,
    word_embeddings: Tensor,
    position_embeddings: Tensor,
    /// Of token type 0, the only one that a single text uses.
    token_type_embedding: Tensor,
    norm: LayerNorm,
    layers: Vec<Layer>,
    device: Device,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    attention_output: Linear,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output: Linear,
    output_norm: LayerNorm,
    heads: usize,
    activation: GeluKind,
}

impl BertEncoder {
    /// Opens a folder in Hugging Face layout: `config.json`, weights, and `tokenizer.json` or the vocabulary's own
    /// files. `layer` is the last one that runs, counted from 1; 0 gives the embeddings, `None` all layers.
    ///
    /// # Errors
    /// If a file is missing or broken, the model is neither BERT nor `RoBERTa`, or it has no such layer.
    pub fn open(folder: &Path, layer: Option<usize>, device: &Device) -> Result<Self> {
        let config = BertConfig::from_folder(folder)?;
        let layers = layer.unwrap_or(config.num_hidden_layers);
        if layers > config.num_hidden_layers {
            return Err(Error::Input(format!(
                "{}: layer {layers} was asked for, the encoder has {}",
                folder.display(),
                config.num_hidden_layers
            )));
        }
        let tokenizer = PieceTokenizer::from_folder(folder, config.kind)?;
        if tokenizer.vocab_size() > config.vocab_size {
            return Err(Error::Input(format!(
                "{}: the tokenizer has {} pieces, the embedding {} rows (vocab_size in config.json)",
                folder.display(),
                tokenizer.vocab_size(),
                config.vocab_size
            )));
        }
        let tokenizer = tokenizer.with_limit(config.longest());
        let loader = Loader::from_weights(Arc::new(Weights::open(folder)?), Some(DType::F32), device);
        let prefix = prefix(&loader, folder)?;
        let (hidden, eps) = (config.hidden_size, config.layer_norm_eps);
        let table = |name: &str, rows: usize| {
            let name = format!("{prefix}embeddings.{name}.weight");
            loader.get(&name, &[rows, hidden], Init::Normal(INIT_STD))
        };
        Ok(Self {
            origin: folder.display().to_string(),
            word_embeddings: table("word_embeddings", config.vocab_size)?,
            position_embeddings: table("position_embeddings", config.max_position_embeddings)?,
            token_type_embedding: table("token_type_embeddings", config.type_vocab_size)?
                .narrow(0, 0, 1)?
                .reshape(&[hidden])?,
            norm: LayerNorm::load(&loader, &format!("{prefix}embeddings.LayerNorm"), hidden, eps)?,
            layers: (0..layers)
                .map(|i| Layer::load(&loader, &config, &format!("{prefix}encoder.layer.{i}")))
                .collect::<Result<_>>()?,
            device: device.clone(),
            tokenizer,
            config,
        })
    }

    /// Token vectors `[tokens, hidden_size]`, row-major, of each text, from its ids with special tokens. The texts
    /// run as one batch, so those of one call should be of similar length.
    ///
    /// # Errors
    /// If a text has no id, more than the model has positions for, or one outside the vocabulary.
    pub fn encode(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
        let longest = texts.iter().map(|ids| ids.len()).max().unwrap_or(0);
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        self.check(texts, longest)?;
        let hidden = no_grad(|| self.forward(texts, longest))?.to_f32_vec()?;
        let width = self.config.hidden_size;
        let rows = hidden.chunks_exact(longest * width);
        Ok(texts.iter().zip(rows).map(|(ids, row)| row[..ids.len() * width].to_vec()).collect())
    }

    fn check(&self, texts: &[&[u32]], longest: usize) -> Result<()> {
        if longest > self.config.longest() {
            return Err(Error::Input(format!(
                "{}: a text of {longest} pieces; the encoder has positions for {}",
                self.origin,
                self.config.longest()
            )));
        }
        if texts.iter().any(|ids| ids.is_empty()) {
            return Err(Error::Input(format!("{}: a text without any id", self.origin)));
        }
        match texts.iter().copied().flatten().find(|&&id| id as usize >= self.config.vocab_size) {
            Some(id) => Err(Error::Input(format!(
                "{}: id {id} in a vocabulary of {}",
                self.origin, self.config.vocab_size
            ))),
            None => Ok(()),
        }
    }

    /// `[texts, longest, hidden_size]`; what stands at the padding has no meaning.
    fn forward(&self, texts: &[&[u32]], longest: usize) -> engine::Result<Tensor> {
        let dims = [texts.len(), longest];
        let pad = self.config.pad_token_id;
        let padded = |ids: &&[u32]| {
            let rest = longest - ids.len();
            ids.iter().copied().chain(std::iter::repeat_n(pad, rest)).collect::<Vec<_>>()
        };
        let ids: Vec<u32> = texts.iter().flat_map(padded).collect();
        let mask: Vec<u8> =
            texts.iter().flat_map(|ids| (0..longest).map(|i| u8::from(i < ids.len()))).collect();
        let first = self.config.first_position() as u32;
        let positions: Vec<u32> = (first..first + longest as u32).collect();

        let ids = Tensor::from_slice(&ids, &dims, &self.device)?;
        let positions = Tensor::from_slice(&positions, &[longest], &self.device)?;
        let places = self.position_embeddings.embedding(&positions)?.add(&self.token_type_embedding)?;
        let mut x = self.norm.forward(&self.word_embeddings.embedding(&ids)?.add(&places)?)?;
        // Only a batch of unequal texts has padding to hide.
        let mask = mask.contains(&0).then(|| Tensor::from_slice(&mask, &dims, &self.device)).transpose()?;
        for layer in &self.layers {
            x = layer.forward(&x, mask.as_ref())?;
        }
        Ok(x)
    }
}

/// What stands before the names: nothing in an encoder saved by itself, the model's name under a head.
fn prefix(loader: &Loader, folder: &Path) -> Result<&'static str> {
    let found = ["", "bert.", "roberta."]
        .into_iter()
        .find(|prefix| loader.has(&format!("{prefix}embeddings.word_embeddings.weight")));
    found.ok_or_else(|| {
        Error::Input(format!(
            "{}: its weights hold no `embeddings.word_embeddings.weight`, with or without `bert.` or `roberta.`",
            folder.display()
        ))
    })
}

impl Layer {
    fn load(loader: &Loader, config: &BertConfig, name: &str) -> Result<Self> {
        let (h, inner, eps) = (config.hidden_size, config.intermediate_size, config.layer_norm_eps);
        let linear = |part: &str, a, b| Linear::load(loader, &format!("{name}.{part}"), a, b, true);
        let norm = |part: &str| LayerNorm::load(loader, &format!("{name}.{part}.LayerNorm"), h, eps);
        Ok(Self {
            query: linear("attention.self.query", h, h)?,
            key: linear("attention.self.key", h, h)?,
            value: linear("attention.self.value", h, h)?,
            attention_output: linear("attention.output.dense", h, h)?,
            attention_norm: norm("attention.output")?,
            intermediate: linear("intermediate.dense", h, inner)?,
            output: linear("output.dense", inner, h)?,
            output_norm: norm("output")?,
            heads: config.num_attention_heads,
            activation: config.activation,
        })
    }

    /// `x [B, S, hidden]`, `key_mask` u8 `[B, S]`.
    fn forward(&self, x: &Tensor, key_mask: Option<&Tensor>) -> engine::Result<Tensor> {
        let (b, s, h) = (x.dim(0)?, x.dim(1)?, x.dim(2)?);
        let d = h / self.heads;
        let split = |y: Tensor| y.reshape(&[b, s, self.heads, d]);
        let q = split(self.query.forward(x)?)?;
        let k = split(self.key.forward(x)?)?;
        let v = split(self.value.forward(x)?)?;
        let attended = q.attention(&k, &v, key_mask, (d as f32).sqrt().recip(), false)?;
        let attended = self.attention_output.forward(&attended.reshape(&[b, s, h])?)?;
        let x = self.attention_norm.forward(&x.add(&attended)?)?;
        let fed = self.output.forward(&self.intermediate.forward(&x)?.gelu(self.activation)?)?;
        self.output_norm.forward(&x.add(&fed)?)
    }
}
