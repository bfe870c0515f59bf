//! Text to the pieces of a BERT or `RoBERTa` encoder, special tokens around them.

use std::path::Path;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, PreTokenizerWrapper};

use super::TokenizerError;
use crate::bert::BertKind;

/// A tokenizer for encoders: `WordPiece`, or byte-level BPE as `RoBERTa` has it.
pub struct PieceTokenizer {
    inner: tokenizers::Tokenizer,
    kind: BertKind,
    prefix_space: bool,
    first: u32,
    last: u32,
    /// Most ids of a text, special ones included.
    limit: usize,
}

impl PieceTokenizer {
    /// Opens the `tokenizer.json` of a folder, else `vocab.txt` (BERT) or `vocab.json` and `merges.txt` (`RoBERTa`).
    ///
    /// # Errors
    /// If neither is there, or the file is not a tokenizer of this kind.
    pub fn from_folder(folder: &Path, kind: BertKind) -> Result<Self, TokenizerError> {
        let path = folder.join("tokenizer.json");
        if path.exists() {
            let text = read(&path)?;
            return Self::from_json(&text, kind, &path.display().to_string());
        }
        match kind {
            BertKind::Bert => Self::from_vocab(folder),
            BertKind::Roberta => Self::from_merges(folder),
        }
    }

    /// Takes the text of a `tokenizer.json`; `origin` names it in errors. Its padding, truncation and special
    /// tokens are not used: they are this type's business.
    ///
    /// # Errors
    /// If it cannot be parsed, or lacks the special tokens.
    pub fn from_json(text: &str, kind: BertKind, origin: &str) -> Result<Self, TokenizerError> {
        let inner: tokenizers::Tokenizer = text.parse().map_err(|e| TokenizerError::Invalid {
            origin: origin.into(),
            reason: format!("not a tokenizer.json: {e}"),
        })?;
        Self::new(inner, kind, origin)
    }

    /// `vocab.txt`, one piece a line; `do_lower_case` and its like from `tokenizer_config.json`, if it is there.
    fn from_vocab(folder: &Path) -> Result<Self, TokenizerError> {
        let path = folder.join("vocab.txt");
        let origin = path.display().to_string();
        let text = read(&path)?;
        let settings = match std::fs::read_to_string(folder.join("tokenizer_config.json")) {
            Ok(text) => serde_json::from_str(&text).unwrap_or_default(),
            Err(_) => serde_json::Value::Null,
        };
        let flag = |name: &str| settings.get(name).and_then(serde_json::Value::as_bool);
        let vocab = text.lines().enumerate().map(|(id, piece)| (piece.trim_end().to_owned(), id as u32));
        let model = WordPiece::builder()
            .vocab(vocab.collect::<Vocab>())
            .unk_token("[UNK]".into())
            .build()
            .map_err(|e| invalid(&origin, &e))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner
            .with_normalizer(Some(BertNormalizer::new(
                true,
                flag("tokenize_chinese_chars").unwrap_or(true),
                flag("strip_accents"),
                flag("do_lower_case").unwrap_or(true),
            )))
            .map_err(|e| invalid(&origin, &e))?;
        inner.with_pre_tokenizer(Some(BertPreTokenizer));
        add_specials(&mut inner, &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], &origin)?;
        Self::new(inner, BertKind::Bert, &origin)
    }

    /// `vocab.json` and `merges.txt`.
    fn from_merges(folder: &Path) -> Result<Self, TokenizerError> {
        let (vocab, merges) = (folder.join("vocab.json"), folder.join("merges.txt"));
        let origin = vocab.display().to_string();
        // Read here first: the library's message does not name the file.
        read(&vocab)?;
        read(&merges)?;
        let model = BPE::from_file(&origin, &merges.display().to_string())
            .unk_token("<unk>".into())
            .build()
            .map_err(|e| invalid(&origin, &e))?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_pre_tokenizer(Some(ByteLevel::new(true, true, true)));
        add_specials(&mut inner, &["<s>", "<pad>", "</s>", "<unk>", "<mask>"], &origin)?;
        Self::new(inner, BertKind::Roberta, &origin)
    }

    fn new(mut inner: tokenizers::Tokenizer, kind: BertKind, origin: &str) -> Result<Self, TokenizerError> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| invalid(origin, &e))?;
        let byte_level = matches!(inner.get_pre_tokenizer(), Some(PreTokenizerWrapper::ByteLevel(_)));
        if kind == BertKind::Roberta && !byte_level {
            return Err(invalid(origin, &"its pre-tokenizer is not ByteLevel, which RoBERTa's is"));
        }
        let (first, last) = match kind {
            BertKind::Bert => ("[CLS]", "[SEP]"),
            BertKind::Roberta => ("<s>", "</s>"),
        };
        let id = |token: &str| {
            inner.token_to_id(token).ok_or_else(|| TokenizerError::Invalid {
                origin: origin.into(),
                reason: format!("has no token `{token}`, which a {kind:?} encoder needs"),
            })
        };
        let (first, last) = (id(first)?, id(last)?);
        let tokenizer = Self { inner, kind, prefix_space: true, first, last, limit: usize::MAX };
        Ok(tokenizer.with_prefix_space(true))
    }

    /// `RoBERTa`: whether the first word is spelled as one inside a text, with a space before it (`BERTScore` does so).
    /// No effect on BERT.
    #[must_use]
    pub fn with_prefix_space(mut self, prefix_space: bool) -> Self {
        self.prefix_space = prefix_space;
        if let Some(PreTokenizerWrapper::ByteLevel(level)) = self.inner.get_pre_tokenizer() {
            let mut level = *level;
            level.add_prefix_space = prefix_space;
            self.inner.with_pre_tokenizer(Some(level));
        }
        self
    }

    /// At most `limit` ids a text, special ones included; what comes after is cut. At least the special ones stay.
    #[must_use]
    pub fn with_limit(self, limit: usize) -> Self {
        Self { limit: limit.max(2), ..self }
    }

    /// Ids of `text` with the special tokens at both ends; an empty text gives these two alone.
    ///
    /// # Errors
    /// If the library cannot encode the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = vec![self.first];
        // A prefix space would make a piece of nothing.
        if !text.is_empty() {
            let pieces =
                self.inner.encode_fast(text, false).map_err(|e| TokenizerError::Encode(e.to_string()))?;
            ids.extend(pieces.get_ids().iter().take(self.limit - 2));
        }
        ids.push(self.last);
        Ok(ids)
    }

    /// Which encoder it serves.
    pub fn kind(&self) -> BertKind {
        self.kind
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1)
    }
}

impl std::fmt::Debug for PieceTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PieceTokenizer")
            .field("kind", &self.kind)
            .field("prefix_space", &self.prefix_space)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

fn read(path: &Path) -> Result<String, TokenizerError> {
    std::fs::read_to_string(path).map_err(|source| TokenizerError::Read { path: path.into(), source })
}

fn invalid(origin: &str, reason: &dyn std::fmt::Display) -> TokenizerError {
    TokenizerError::Invalid { origin: origin.into(), reason: reason.to_string() }
}

/// Marks those that the vocabulary has as special: in a text they stand for themselves.
fn add_specials(
    inner: &mut tokenizers::Tokenizer,
    names: &[&str],
    origin: &str,
) -> Result<(), TokenizerError> {
    let there: Vec<AddedToken> = names
        .iter()
        .filter(|name| inner.token_to_id(name).is_some())
        .map(|name| AddedToken::from(*name, true))
        .collect();
    inner.add_special_tokens(there).map_err(|e| invalid(origin, &e))?;
    Ok(())
}
