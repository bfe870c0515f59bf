//! `config.json` of a BERT or `RoBERTa` encoder.

use std::path::Path;

use engine::ops::GeluKind;
use serde::Deserialize;

use crate::error::{Error, Result};

/// Which of the two: they differ in the tokenizer and in where positions begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BertKind {
    /// `WordPiece`, positions from 0.
    Bert,
    /// Byte-level BPE, positions from the padding id + 1.
    Roberta,
}

/// Sizes of an encoder, by the names of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct BertConfig {
    /// Which of the two.
    pub kind: BertKind,
    /// Name under which the file was published, where it says so (`roberta-large`).
    pub published_name: Option<String>,
    /// Rows of the word embedding.
    pub vocab_size: usize,
    /// Width.
    pub hidden_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Rows of the position embedding.
    pub max_position_embeddings: usize,
    /// Rows of the token type embedding.
    pub type_vocab_size: usize,
    /// Added to a variance.
    pub layer_norm_eps: f64,
    /// Fills the shorter texts of a batch.
    pub pad_token_id: u32,
    /// Form of the activation.
    pub activation: GeluKind,
}

/// The file as it is written.
#[derive(Deserialize)]
struct Raw {
    model_type: Option<String>,
    #[serde(rename = "_name_or_path")]
    name: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: Option<usize>,
    layer_norm_eps: Option<f64>,
    pad_token_id: Option<u32>,
    hidden_act: Option<String>,
    position_embedding_type: Option<String>,
}

impl BertConfig {
    /// Reads `config.json` of a folder.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Error::Input(format!("{}: cannot be read: {e}", path.display())))?;
        Self::from_json(&text, &path.display().to_string())
    }

    /// Reads the text of a `config.json`; `origin` names it in errors.
    pub fn from_json(text: &str, origin: &str) -> Result<Self> {
        let wrong = |reason: String| Error::Input(format!("{origin}: {reason}"));
        let raw: Raw = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        let kind = match raw.model_type.as_deref() {
            Some("bert") => BertKind::Bert,
            Some("roberta") => BertKind::Roberta,
            other => {
                let found = other.unwrap_or("missing");
                return Err(wrong(format!("`model_type` is {found}; the encoders are `bert` and `roberta`")));
            }
        };
        let activation = match raw.hidden_act.as_deref() {
            None | Some("gelu") => GeluKind::Erf,
            Some("gelu_new" | "gelu_pytorch_tanh") => GeluKind::Tanh,
            Some(other) => return Err(wrong(format!("`hidden_act` `{other}` is not supported; gelu is"))),
        };
        if let Some(other) = raw.position_embedding_type.filter(|p| p != "absolute") {
            return Err(wrong(format!("`position_embedding_type` `{other}` is not supported; absolute is")));
        }
        let roberta = kind == BertKind::Roberta;
        let config = Self {
            kind,
            published_name: raw.name.filter(|name| !name.is_empty()),
            vocab_size: raw.vocab_size,
            hidden_size: raw.hidden_size,
            num_hidden_layers: raw.num_hidden_layers,
            num_attention_heads: raw.num_attention_heads,
            intermediate_size: raw.intermediate_size,
            max_position_embeddings: raw.max_position_embeddings,
            type_vocab_size: raw.type_vocab_size.unwrap_or(2),
            // transformers' default for both; RoBERTa's published files say 1e-5.
            layer_norm_eps: raw.layer_norm_eps.unwrap_or(1e-12),
            pad_token_id: raw.pad_token_id.unwrap_or(u32::from(roberta)),
            activation,
        };
        let c = &config;
        for (name, value) in [
            ("vocab_size", c.vocab_size),
            ("hidden_size", c.hidden_size),
            ("num_attention_heads", c.num_attention_heads),
            ("intermediate_size", c.intermediate_size),
            ("type_vocab_size", c.type_vocab_size),
        ] {
            if value == 0 {
                return Err(wrong(format!("`{name}` is 0")));
            }
        }
        if !c.hidden_size.is_multiple_of(c.num_attention_heads) {
            return Err(wrong(format!(
                "`hidden_size` {} is no multiple of `num_attention_heads` {}",
                c.hidden_size, c.num_attention_heads
            )));
        }
        if !(c.layer_norm_eps.is_finite() && c.layer_norm_eps >= 0.0) {
            return Err(wrong(format!("`layer_norm_eps` is {}", c.layer_norm_eps)));
        }
        if c.pad_token_id as usize >= c.vocab_size {
            return Err(wrong(format!(
                "`pad_token_id` {} in a vocabulary of {}",
                c.pad_token_id, c.vocab_size
            )));
        }
        if c.longest() < 3 || u32::try_from(c.max_position_embeddings).is_err() {
            return Err(wrong(format!(
                "`max_position_embeddings` is {}: no text fits",
                c.max_position_embeddings
            )));
        }
        Ok(config)
    }

    /// Row of the position embedding that the first token takes.
    pub fn first_position(&self) -> usize {
        match self.kind {
            BertKind::Bert => 0,
            BertKind::Roberta => self.pad_token_id as usize + 1,
        }
    }

    /// Most tokens of a text, special ones included.
    pub fn longest(&self) -> usize {
        self.max_position_embeddings.saturating_sub(self.first_position())
    }
}
