//! Decoding an answer while it is generated.

use super::{Tokenizer, TokenizerError};

/// Turns ids into text one by one. The pieces, joined, are what decoding all ids at once gives.
#[derive(Debug)]
pub struct Detokenizer<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    trim: bool,
    /// The beginning of a character whose other bytes have not come yet.
    pending: Vec<u8>,
}

impl<'a> Detokenizer<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, trim: false, pending: Vec::new() }
    }

    /// Drops one leading space of the text. (An answer of SmolVLM begins with one.)
    #[must_use]
    pub fn trim_leading_space(mut self) -> Self {
        self.trim = true;
        self
    }

    /// Text that `id` completes; empty while a character is unfinished, and for a skipped special token.
    ///
    /// # Errors
    /// If the id is not in the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        let entry = self.tokenizer.entry(id)?;
        if self.skip_special && entry.special {
            return Ok(String::new());
        }
        self.pending.extend_from_slice(&entry.bytes);
        let mut text = String::new();
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            used += chunk.valid().len();
            let rest = chunk.invalid();
            // At the very end, the start of a character may still be completed; elsewhere it is broken.
            let unfinished = used + rest.len() == self.pending.len()
                && std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none());
            if rest.is_empty() || unfinished {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            used += rest.len();
        }
        self.pending.drain(..used);
        Ok(self.trimmed(text))
    }

    /// What is left at the end: U+FFFD if the last character was never finished, else nothing.
    pub fn finish(mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.trimmed(text)
    }

    fn trimmed(&mut self, text: String) -> String {
        if self.trim && !text.is_empty() {
            self.trim = false;
            if let Some(rest) = text.strip_prefix(' ') {
                return rest.into();
            }
        }
        text
    }
}
