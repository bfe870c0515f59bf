//! A vocabulary for a small model, learned from its own texts.

use std::collections::HashSet;

use tokenizers::AddedToken;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::{TokenizerError, gguf};

/// Learns a byte-level BPE of `vocab_size` entries with SmolLM2's pre-tokeniser and returns its
/// `tokenizer.json`. `specials` get the ids 0, 1, 2, …; the 256 bytes follow, then merges, the most
/// frequent pair first (a tie goes to the pair with the lower ids), so that texts and size alone decide
/// the result. The vocabulary stays smaller where the texts have no pair left that occurs twice.
///
/// # Errors
/// If `vocab_size` has no room for the specials and the bytes, or a special is empty or given twice.
pub fn train_bpe<S: AsRef<str>>(
    texts: impl IntoIterator<Item = S>,
    vocab_size: usize,
    specials: &[&str],
) -> Result<String, TokenizerError> {
    let least = specials.len() + 256;
    if vocab_size < least {
        let reason = format!("{vocab_size} entries; the specials and the 256 bytes alone need {least}");
        return Err(TokenizerError::Train(reason));
    }
    let distinct: HashSet<_> = specials.iter().collect();
    if distinct.len() != specials.len() || specials.iter().any(|special| special.chars().count() < 2) {
        let reason = "special tokens must differ and have two characters or more".into();
        return Err(TokenizerError::Train(reason));
    }
    let specials: Vec<_> = specials.iter().map(|&special| AddedToken::from(special, true)).collect();
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(specials)
        .build()
        .into();
    let texts: Vec<String> = texts.into_iter().map(|text| text.as_ref().to_owned()).collect();
    let failed = |e: tokenizers::Error| TokenizerError::Train(e.to_string());
    let mut tokenizer = gguf::around(BPE::default());
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(failed)?;
    tokenizer.to_string(true).map_err(failed)
}
