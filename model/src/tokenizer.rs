//! Byte-level BPE: text to ids and back, for files and for GGUF vocabularies.
//!
//! Encoding is the `tokenizers` crate's. Decoding is done here from a table of each token's bytes, so
//! that a streamed answer can be shown as it grows: a character may span tokens, and no half of one is
//! ever shown.

mod bytes;
mod gguf;
mod pieces;
mod stream;
mod train;

use std::path::{Path, PathBuf};

use tokenizers::DecoderWrapper;

pub use gguf::GgufVocab;
pub use pieces::PieceTokenizer;
pub use stream::Detokenizer;
pub use train::train_bpe;

/// What can go wrong with a tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file could not be read.
    #[error("{path}: cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a tokenizer, or one of a kind that is not supported.
    #[error("{origin}: {reason}")]
    Invalid {
        /// File name, or another name of the data's source.
        origin: String,
        /// What is wrong.
        reason: String,
    },
    /// The text could not be encoded.
    #[error("text cannot be tokenised: {0}")]
    Encode(String),
    /// An id that the vocabulary does not have.
    #[error("token id {id} is not in the vocabulary of {size}")]
    UnknownId {
        /// The id.
        id: u32,
        /// One more than the largest id.
        size: usize,
    },
    /// No vocabulary could be trained.
    #[error("the tokenizer cannot be trained: {0}")]
    Train(String),
}

/// One entry of the vocabulary, as decoding needs it.
#[derive(Clone, Debug, Default)]
struct Entry {
    bytes: Vec<u8>,
    special: bool,
}

/// A byte-level BPE tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// By id; an id that the vocabulary leaves out is `None`.
    entries: Vec<Option<Entry>>,
    /// Contents of the special tokens, in order of their ids.
    specials: Vec<String>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("specials", &self.specials.len())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// If the file cannot be read or is no byte-level tokenizer.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        let path = path.as_ref();
        let json =
            std::fs::read(path).map_err(|source| TokenizerError::Read { path: path.into(), source })?;
        Self::from_json(&json, &path.display().to_string())
    }

    /// Parses the text of a `tokenizer.json`; `origin` names it in errors.
    ///
    /// # Errors
    /// If it is no byte-level tokenizer.
    pub fn from_json(json: impl AsRef<[u8]>, origin: &str) -> Result<Self, TokenizerError> {
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| TokenizerError::Invalid {
            origin: origin.into(),
            reason: format!("not a tokenizer.json: {e}"),
        })?;
        Self::new(inner, origin)
    }

    /// Builds the tokenizer that a GGUF file's metadata describe; `origin` names the file in errors.
    ///
    /// # Errors
    /// If the vocabulary is not SmolLM2's kind of byte-level BPE, or contradicts itself.
    pub fn from_gguf(vocab: &GgufVocab, origin: &str) -> Result<Self, TokenizerError> {
        Self::new(gguf::build(vocab, origin)?, origin)
    }

    fn new(mut inner: tokenizers::Tokenizer, origin: &str) -> Result<Self, TokenizerError> {
        let invalid = |reason: String| TokenizerError::Invalid { origin: origin.into(), reason };
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            return Err(invalid("its decoder is not ByteLevel; only byte-level BPE is supported".into()));
        }
        // Files may carry the settings of whoever saved them; lengths are this crate's business.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| invalid(e.to_string()))?;

        let vocab = inner.get_vocab(true);
        // Published vocabularies are dense; a stray huge id must not become a huge table.
        let size = vocab.values().max().map_or(0, |&id| id as usize + 1);
        if size > 4 * vocab.len() + 1024 {
            return Err(invalid(format!("token id {} in a vocabulary of {}", size - 1, vocab.len())));
        }
        let added = inner.get_added_tokens_decoder();
        let mut entries = vec![None; size];
        for (token, id) in vocab {
            let special = added.get(&id).is_some_and(|token| token.special);
            entries[id as usize] = Some(Entry { bytes: bytes::of_token(&token), special });
        }
        let mut specials: Vec<_> = added.iter().filter(|(_, token)| token.special).collect();
        specials.sort_unstable_by_key(|&(&id, _)| id);
        let specials = specials.into_iter().map(|(_, token)| token.content.clone()).collect();
        Ok(Self { inner, entries, specials })
    }

    /// Ids of `text`. Special tokens written out in it become their ids; nothing is added before or after.
    ///
    /// # Errors
    /// If the model of the file cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let encoding =
            self.inner.encode_fast(text, false).map_err(|e| TokenizerError::Encode(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids`; bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If an id is not in the vocabulary.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        let mut bytes = Vec::new();
        for &id in ids {
            let entry = self.entry(id)?;
            if !(skip_special && entry.special) {
                bytes.extend_from_slice(&entry.bytes);
            }
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A decoder that takes one id after the other.
    pub fn stream(&self, skip_special: bool) -> Detokenizer<'_> {
        Detokenizer::new(self, skip_special)
    }

    /// Id of a token by its exact content, special or ordinary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Id of a special token; `None` where the vocabulary spells it with ordinary tokens, as SmolVLM 2.2B
    /// does with `<global-img>`.
    pub fn special_id(&self, token: &str) -> Option<u32> {
        self.id(token).filter(|&id| self.is_special(id))
    }

    /// Whether `id` is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        self.entry(id).is_ok_and(|entry| entry.special)
    }

    /// Contents of all special tokens, in order of their ids.
    pub fn specials(&self) -> &[String] {
        &self.specials
    }

    /// The first special token that `text` spells out, if any.
    pub fn special_in<'s>(&'s self, text: &str) -> Option<&'s str> {
        self.specials.iter().map(String::as_str).find(|&special| text.contains(special))
    }

    /// One more than the largest id. The embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.entries.len()
    }

    /// This vocabulary with more special tokens after its last id, in this order.
    ///
    /// # Errors
    /// If one of them is a token already, or the library refuses.
    pub fn with_specials(&self, tokens: &[String]) -> Result<Self, TokenizerError> {
        let invalid = |reason: String| TokenizerError::Invalid { origin: "tokenizer".into(), reason };
        if let Some(known) = tokens.iter().find(|token| self.id(token).is_some()) {
            return Err(invalid(format!("`{known}` is a token already")));
        }
        let mut inner = self.inner.clone();
        let added = tokens.iter().map(|token| tokenizers::AddedToken::from(token.clone(), true));
        inner.add_special_tokens(added).map_err(|e| invalid(e.to_string()))?;
        Self::new(inner, "tokenizer")
    }

    /// The tokenizer as a `tokenizer.json`.
    ///
    /// # Errors
    /// If the library cannot write one of its parts.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        self.inner.to_string(true).map_err(|e| TokenizerError::Invalid {
            origin: "tokenizer".into(),
            reason: format!("cannot be written: {e}"),
        })
    }

    fn entry(&self, id: u32) -> Result<&Entry, TokenizerError> {
        let entry = self.entries.get(id as usize).and_then(Option::as_ref);
        entry.ok_or(TokenizerError::UnknownId { id, size: self.vocab_size() })
    }
}
