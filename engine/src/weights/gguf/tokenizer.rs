//! The tokenizer that a GGUF file carries, as plain data.

use super::metadata::Metadata;
use crate::weights::WeightError;
use crate::weights::error::shorten;

/// What kind of token it is: `llama_token_type` in llama.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Not said.
    Undefined,
    /// Text.
    Normal,
    /// Stands for what the vocabulary lacks.
    Unknown,
    /// Steers the model, never shown.
    Control,
    /// Added by the user; matched before the text is split.
    UserDefined,
    /// A place kept free.
    Unused,
    /// One byte.
    Byte,
}

/// The tokenizer of a GGUF file: the keys `tokenizer.ggml.*` and `tokenizer.chat_template`.
///
/// Ids are checked to lie in the vocabulary; types and scores, where given, to be as many as the tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerInfo {
    /// Algorithm: `gpt2` (byte-level BPE), `llama` (`SentencePiece`), `bert` and more.
    pub model: String,
    /// Name of the rule that splits text before BPE, such as `smollm` or `gpt-2`.
    pub pre: Option<String>,
    /// Text of each id.
    pub tokens: Vec<String>,
    /// Kind of each id, empty if not given.
    pub token_types: Vec<TokenType>,
    /// Score of each id (`SentencePiece`), empty if not given.
    pub scores: Vec<f32>,
    /// Pairs that BPE joins, best first; empty if not given.
    pub merges: Vec<(String, String)>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// Unknown token.
    pub unknown: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Whether `bos` is put before every text.
    pub add_bos: Option<bool>,
    /// Whether `eos` is put after every text.
    pub add_eos: Option<bool>,
    /// Whether a space is put before every text.
    pub add_space_prefix: Option<bool>,
    /// Jinja template of conversations.
    pub chat_template: Option<String>,
}

impl TokenizerInfo {
    pub(super) fn read(meta: &Metadata) -> Result<Option<Self>, WeightError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let Some(model) = meta.str("tokenizer.ggml.model")?.map(str::to_owned) else { return Ok(None) };
        if meta.get(TOKENS).is_none() && ["none", "no_vocab"].contains(&model.as_str()) {
            return Ok(None);
        }
        let tokens = meta.required(TOKENS, Metadata::strings)?.to_vec();
        let same_length = |key: &str, n: usize| {
            if n == tokens.len() {
                Ok(())
            } else {
                Err(meta.error(key, format!("has {n} elements for {} tokens", tokens.len())))
            }
        };
        let id = |key: &str| {
            let id = meta.u32(key)?;
            match id.filter(|&id| id as usize >= tokens.len()) {
                None => Ok(id),
                Some(id) => {
                    let reason = format!("token {id} is not in the vocabulary of {}", tokens.len());
                    Err(meta.error(key, reason))
                }
            }
        };

        let key = "tokenizer.ggml.scores";
        let scores = meta.f32s(key)?.map(<[f32]>::to_vec);
        scores.as_ref().map_or(Ok(()), |s| same_length(key, s.len()))?;
        let key = "tokenizer.ggml.token_type";
        let types = meta.i32s(key)?.map(|types| types.iter().map(|&t| token_type(meta, key, t)));
        let types: Option<Vec<_>> = types.map(Iterator::collect::<Result<_, _>>).transpose()?;
        types.as_ref().map_or(Ok(()), |t| same_length(key, t.len()))?;

        Ok(Some(Self {
            model,
            pre: meta.str("tokenizer.ggml.pre")?.map(str::to_owned),
            token_types: types.unwrap_or_default(),
            scores: scores.unwrap_or_default(),
            merges: merges(meta)?,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            unknown: id("tokenizer.ggml.unknown_token_id")?,
            pad: id("tokenizer.ggml.padding_token_id")?,
            add_bos: meta.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: meta.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: meta.bool("tokenizer.ggml.add_space_prefix")?,
            chat_template: meta.str("tokenizer.chat_template")?.map(str::to_owned),
            tokens,
        }))
    }
}

fn token_type(meta: &Metadata, key: &str, number: i32) -> Result<TokenType, WeightError> {
    Ok(match number {
        0 => TokenType::Undefined,
        1 => TokenType::Normal,
        2 => TokenType::Unknown,
        3 => TokenType::Control,
        4 => TokenType::UserDefined,
        5 => TokenType::Unused,
        6 => TokenType::Byte,
        other => return Err(meta.error(key, format!("unknown token type {other}"))),
    })
}

/// Merges are stored as "left right". The left part is never empty, so the search begins after its first
/// character: a part may itself begin with a space.
fn merges(meta: &Metadata) -> Result<Vec<(String, String)>, WeightError> {
    let key = "tokenizer.ggml.merges";
    let split = |(i, merge): (usize, &String)| {
        let first = merge.chars().next().map_or(0, char::len_utf8);
        match merge[first..].split_once(' ') {
            Some((left, right)) if !right.is_empty() => {
                Ok((merge[..first + left.len()].to_owned(), right.to_owned()))
            }
            _ => Err(meta.error(key, format!("merge {i}, {:?}, is not two tokens", shorten(merge)))),
        }
    };
    meta.strings(key)?.unwrap_or_default().iter().enumerate().map(split).collect()
}
