//! Ids against the reference library's, decoding, streams, GGUF vocabularies, training.

mod common;

use std::sync::OnceLock;

use common::{fixture_json, ids_of, tokenizer_2b, tokenizer_256m};
use model::tokenizer::{GgufVocab, Tokenizer, TokenizerError, train_bpe};
use proptest::prelude::*;
use serde_json::{Value, json};

const SPECIALS: [&str; 7] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
];

/// A small vocabulary that needs no shared data.
fn small() -> &'static Tokenizer {
    static SMALL: OnceLock<Tokenizer> = OnceLock::new();
    SMALL.get_or_init(|| {
        let json = train_bpe(corpus(), 360, &SPECIALS).unwrap();
        Tokenizer::from_json(json, "trained").unwrap()
    })
}

fn corpus() -> Vec<String> {
    let cases = fixture_json("smolvlm-256m-instruct/cases.json");
    let mut texts: Vec<String> =
        cases["cases"].as_array().unwrap().iter().map(|case| case["text"].as_str().unwrap().into()).collect();
    texts
        .extend((0..40).map(|i| format!("No pleural effusion in patient {i}; the lungs are clear. 胸部 🩻")));
    texts
}

#[test]
fn ids_are_those_of_the_reference() {
    let Some(tokenizer) = tokenizer_256m() else { return };
    let cases = fixture_json("smolvlm-256m-instruct/cases.json");
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(ids, ids_of(&case["ids"]), "{text}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn both_vocabularies_agree_with_the_reference() {
    let (Some(small), Some(large)) = (tokenizer_256m(), tokenizer_2b()) else { return };
    let cases = fixture_json("smolvlm-tiny/tokenizer_cases.json");
    let mut counted = [0, 0];
    for case in cases["text"].as_array().unwrap() {
        let is_large = case["model"] == "2.2B";
        let tokenizer = if is_large { &large } else { &small };
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids_of(&case["ids"]), "{} {text}", case["model"]);
        counted[usize::from(is_large)] += 1;
    }
    assert_eq!(counted, [11, 11]);
    assert_eq!((small.vocab_size(), large.vocab_size()), (49_280, 49_155));
}

#[test]
fn a_tag_may_be_a_token_or_ordinary_text() {
    let (Some(small), Some(large)) = (tokenizer_256m(), tokenizer_2b()) else { return };
    assert_eq!(small.special_id("<global-img>"), Some(49_152));
    assert_eq!(large.special_id("<global-img>"), None);
    assert_eq!((small.special_id("<image>"), large.special_id("<image>")), (Some(49_190), Some(49_153)));
    assert_eq!(large.special_id("<end_of_utterance>"), Some(49_154));
    assert_eq!(small.special_id("the"), None, "ordinary tokens are not special");
    assert_eq!(small.special_in("a <image> b"), Some("<image>"));
    assert_eq!(large.special_in("<global-img>"), None);
}

#[test]
fn decoding_skips_special_tokens_on_demand() {
    let tokenizer = small();
    let ids = tokenizer.encode("<|im_start|>User: clear<end_of_utterance>\n").unwrap();
    assert_eq!(ids[0], 1, "recognised, and nothing before it");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "User: clear\n");
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "<|im_start|>User: clear<end_of_utterance>\n");
    let error = tokenizer.decode(&[1_000_000], true).unwrap_err();
    assert!(matches!(error, TokenizerError::UnknownId { id: 1_000_000, .. }));
    assert!(tokenizer.stream(true).push(1_000_000).is_err());
}

#[test]
fn a_stream_never_shows_half_a_character() {
    let tokenizer = small();
    // One byte a token: the emoji's four bytes come one by one.
    let byte = |b: u8| {
        let of = |id: u32| tokenizer.decode(&[id], false).unwrap();
        match b {
            0..0x80 => (7..263).find(|&id| of(id).as_bytes() == [b]).unwrap(),
            _ => (7 + 94..263).find(|&id| bytes_of(tokenizer, id) == [b]).unwrap(),
        }
    };
    let mut stream = tokenizer.stream(true).trim_leading_space();
    let pieces: Vec<_> = " a🩻b".bytes().map(|b| stream.push(byte(b)).unwrap()).collect();
    assert_eq!(pieces, ["", "a", "", "", "", "🩻", "b"]);
    assert_eq!(stream.finish(), "");

    let mut stream = tokenizer.stream(true);
    for b in &"🩻".as_bytes()[..3] {
        assert_eq!(stream.push(byte(*b)).unwrap(), "");
    }
    assert_eq!(stream.push(byte(b'x')).unwrap(), "\u{fffd}x", "a broken character ends at the next one");
    assert_eq!(stream.push(byte(0xf0)).unwrap(), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}

/// The single byte of a token of the base alphabet, found by completing it to valid text.
fn bytes_of(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let json: Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let (spelled, _) = vocab.iter().find(|(_, value)| value.as_u64() == Some(id.into())).unwrap();
    let code = u32::from(spelled.chars().next().unwrap());
    vec![match code {
        0x121..=0x142 => (code - 0x121 + 0x7f) as u8,
        0x143 => 0xad,
        _ => code as u8,
    }]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_inverts_encoding(text in "\\PC{0,60}") {
        let tokenizer = small();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn a_stream_joined_is_the_whole(ids in prop::collection::vec(0u32..360, 0..40), skip: bool) {
        let tokenizer = small();
        let mut stream = tokenizer.stream(skip);
        let mut text = String::new();
        for &id in &ids {
            text += &stream.push(id).unwrap();
        }
        text += &stream.finish();
        prop_assert_eq!(text, tokenizer.decode(&ids, skip).unwrap());
    }
}

#[test]
fn training_is_deterministic_and_keeps_the_specials_first() {
    let json = train_bpe(corpus(), 360, &SPECIALS).unwrap();
    for round in 0..4 {
        let mut texts = corpus();
        texts.rotate_left(round);
        assert!(train_bpe(texts, 360, &SPECIALS).unwrap() == json, "round {round}");
    }
    let tokenizer = Tokenizer::from_json(&json, "trained").unwrap();
    assert_eq!(tokenizer.vocab_size(), 360);
    for (id, special) in (0u32..).zip(SPECIALS) {
        assert_eq!(tokenizer.special_id(special), Some(id));
    }
    assert_eq!(tokenizer.encode("2026").unwrap().len(), 4, "digits stand alone");
    let text = "No pleural effusion";
    assert!(tokenizer.encode(text).unwrap().len() < text.len() / 3, "merges were learned");

    for (size, specials) in [(256, &SPECIALS[..]), (500, &["<a>", "<a>"]), (500, &[""]), (500, &["x"])] {
        assert!(train_bpe(corpus(), size, specials).is_err(), "{size} {specials:?}");
    }
}

/// The vocabulary of a `tokenizer.json`, written the way GGUF files have it.
fn as_gguf(tokenizer: &Tokenizer) -> GgufVocab {
    let json: Value = serde_json::from_str(&tokenizer.to_json().unwrap()).unwrap();
    let mut tokens = vec![String::new(); tokenizer.vocab_size()];
    for (token, id) in json["model"]["vocab"].as_object().unwrap() {
        tokens[id.as_u64().unwrap() as usize].clone_from(token);
    }
    let mut types = vec![1; tokens.len()];
    for token in json["added_tokens"].as_array().unwrap() {
        let id = token["id"].as_u64().unwrap() as usize;
        tokens[id] = token["content"].as_str().unwrap().into();
        types[id] = 3;
    }
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    let merges = merges
        .map(|merge| match merge {
            Value::String(merge) => merge.clone(),
            pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    GgufVocab { model: "gpt2".into(), pre: "smollm".into(), tokens, merges, types }
}

#[test]
fn a_gguf_vocabulary_gives_the_same_ids() {
    let Some(reference) = tokenizer_256m() else { return };
    let built = Tokenizer::from_gguf(&as_gguf(&reference), "model.gguf").unwrap();
    assert_eq!(built.specials(), reference.specials());
    let cases = fixture_json("smolvlm-256m-instruct/cases.json");
    let more = fixture_json("smolvlm-tiny/tokenizer_cases.json");
    let texts = cases["cases"].as_array().unwrap().iter().chain(more["text"].as_array().unwrap());
    for text in texts.map(|case| case["text"].as_str().unwrap()) {
        let ids = built.encode(text).unwrap();
        assert_eq!(ids, reference.encode(text).unwrap(), "{text}");
        assert_eq!(built.decode(&ids, true).unwrap(), reference.decode(&ids, true).unwrap());
    }
}

#[test]
fn a_contradictory_gguf_vocabulary_is_refused() {
    type Spoil = fn(&mut GgufVocab);
    let good = as_gguf(small());
    assert!(Tokenizer::from_gguf(&good, "model.gguf").is_ok());
    let spoil: [(&str, Spoil); 6] = [
        ("tokenizer.ggml.model", |v| v.model = "llama".into()),
        ("tokenizer.ggml.pre", |v| v.pre = "qwen2".into()),
        ("token_type", |v| v.types.truncate(5)),
        ("stands at", |v| v.tokens[300] = v.tokens[299].clone()),
        ("not a pair", |v| v.merges[3] = "nospace".into()),
        ("not a pair", |v| v.merges[3] = "zz qq".into()),
    ];
    for (expected, spoil) in spoil {
        let mut bad = good.clone();
        spoil(&mut bad);
        let error = Tokenizer::from_gguf(&bad, "model.gguf").unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("model.gguf"), "{error}");
    }
}

#[test]
fn files_that_are_no_tokenizer_are_refused() {
    for text in ["", "{}", "[1]", "not json", "\u{0}\u{1}"] {
        let error = Tokenizer::from_json(text, "tokenizer.json").unwrap_err().to_string();
        assert!(error.contains("tokenizer.json"), "{error}");
    }
    let json: Value = serde_json::from_str(&small().to_json().unwrap()).unwrap();
    let mut other = json.clone();
    other["decoder"] = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always" });
    let error = Tokenizer::from_json(other.to_string(), "tokenizer.json").unwrap_err().to_string();
    assert!(error.contains("byte-level"), "{error}");
    let mut huge = json;
    huge["model"]["vocab"]["zzzz"] = json!(4_000_000_000u32);
    let error = Tokenizer::from_json(huge.to_string(), "tokenizer.json").unwrap_err().to_string();
    assert!(error.contains("4000000000"), "{error}");
    let error = Tokenizer::from_file("no-such-folder/tokenizer.json").unwrap_err().to_string();
    assert!(error.contains("no-such-folder"), "{error}");
}
