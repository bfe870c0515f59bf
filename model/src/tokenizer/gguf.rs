//! A vocabulary as GGUF files carry it.

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

use super::TokenizerError;

/// The keys `tokenizer.ggml.*` of a GGUF file.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `gpt2` is byte-level BPE.
    pub model: String,
    /// `tokenizer.ggml.pre`: `smollm` is SmolLM and SmolLM2.
    pub pre: String,
    /// `tokenizer.ggml.tokens`, by id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.merges`: two pieces with a space between, best first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
}

impl From<engine::weights::gguf::TokenizerInfo> for GgufVocab {
    fn from(info: engine::weights::gguf::TokenizerInfo) -> Self {
        use engine::weights::gguf::TokenType;
        let number = |kind: &TokenType| match kind {
            TokenType::Undefined => 0,
            TokenType::Normal => 1,
            TokenType::Unknown => 2,
            TokenType::Control => CONTROL,
            TokenType::UserDefined => USER_DEFINED,
            TokenType::Unused => 5,
            TokenType::Byte => 6,
        };
        Self {
            model: info.model,
            pre: info.pre.unwrap_or_default(),
            tokens: info.tokens,
            merges: info.merges.into_iter().map(|(a, b)| format!("{a} {b}")).collect(),
            types: info.token_types.iter().map(number).collect(),
        }
    }
}

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// SmolLM2's pre-tokeniser (spec smolvlm §5): every digit alone, then GPT-2's expression, no prefix space.
pub(super) fn pre_tokenizer() -> Sequence {
    Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()])
}

/// A tokenizer around `model` with SmolLM2's pre-tokeniser and decoder.
pub(super) fn around(model: BPE) -> Tokenizer {
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer())).with_decoder(Some(ByteLevel::default()));
    tokenizer
}

pub(super) fn build(vocab: &GgufVocab, origin: &str) -> Result<Tokenizer, TokenizerError> {
    let invalid = |reason: String| TokenizerError::Invalid { origin: origin.into(), reason };
    if vocab.model != "gpt2" {
        let reason =
            format!("tokenizer.ggml.model is `{}`; only gpt2 (byte-level BPE) is supported", vocab.model);
        return Err(invalid(reason));
    }
    if vocab.pre != "smollm" {
        let reason = format!("tokenizer.ggml.pre is `{}`; only smollm is supported", vocab.pre);
        return Err(invalid(reason));
    }
    if vocab.types.len() != vocab.tokens.len() {
        let (types, tokens) = (vocab.types.len(), vocab.tokens.len());
        return Err(invalid(format!("{types} entries in tokenizer.ggml.token_type for {tokens} tokens")));
    }
    let mut ids = HashMap::with_capacity(vocab.tokens.len());
    for (id, token) in (0u32..).zip(&vocab.tokens) {
        if let Some(first) = ids.insert(token.clone(), id) {
            return Err(invalid(format!("token `{token}` stands at {first} and {id}")));
        }
    }
    let mut merges = Vec::with_capacity(vocab.merges.len());
    for (i, merge) in vocab.merges.iter().enumerate() {
        let pair = merge.split_once(' ');
        let Some((a, b)) = pair.filter(|(a, b)| {
            ids.contains_key(*a) && ids.contains_key(*b) && ids.contains_key(&format!("{a}{b}"))
        }) else {
            return Err(invalid(format!("merge {i}, `{merge}`, is not a pair of known pieces")));
        };
        merges.push((a.to_owned(), b.to_owned()));
    }
    let bpe = BPE::builder()
        .vocab_and_merges(ids.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .build()
        .map_err(|e| invalid(e.to_string()))?;

    let mut tokenizer = around(bpe);
    let added = vocab.tokens.iter().zip(&vocab.types).filter_map(|(token, &kind)| match kind {
        CONTROL => Some(AddedToken::from(token.clone(), true)),
        USER_DEFINED => Some(AddedToken::from(token.clone(), false).normalized(false)),
        _ => None,
    });
    tokenizer.add_tokens(added).map_err(|e| invalid(e.to_string()))?;
    Ok(tokenizer)
}
