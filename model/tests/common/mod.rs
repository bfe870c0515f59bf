//! What several test files need.
#![allow(dead_code)]

use std::path::PathBuf;

use model::tokenizer::Tokenizer;
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// A fixture that is part of the project.
pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(ROOT).join("tests/fixtures").join(name)
}

pub(crate) fn fixture_text(name: &str) -> String {
    let path = fixture(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn fixture_json(name: &str) -> Value {
    serde_json::from_str(&fixture_text(name)).expect("fixtures are JSON")
}

/// A file or folder of the shared data, which is not on every machine: `$ROENTGEN_SHARED`, or `shared`
/// beside the repository.
pub(crate) fn shared(name: &str) -> Option<PathBuf> {
    let roots = match std::env::var_os("ROENTGEN_SHARED") {
        Some(root) => vec![PathBuf::from(root)],
        // The second is for a working tree one folder deeper.
        None => vec![PathBuf::from(ROOT).join("../shared"), PathBuf::from(ROOT).join("../../shared")],
    };
    let found = roots.into_iter().map(|root| root.join(name)).find(|path| path.exists());
    if found.is_none() {
        println!("SKIP: shared data `{name}` is not on this machine");
    }
    found
}

/// The published tokenizer of SmolVLM-256M.
pub(crate) fn tokenizer_256m() -> Option<Tokenizer> {
    let path = shared("data/tokenizers/smolvlm-256m-instruct/tokenizer.json")?;
    Some(Tokenizer::from_file(path).expect("the published file is valid"))
}

/// The tokenizer of SmolVLM 2.2B: the same base with other added tokens (spec smolvlm §5).
pub(crate) fn tokenizer_2b() -> Option<Tokenizer> {
    let path = shared("data/tokenizers/smolvlm-256m-instruct/tokenizer.json")?;
    let mut json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let added = json["added_tokens"].as_array_mut().unwrap();
    added.retain(|token| token["id"].as_u64() < Some(49_152));
    for (id, content) in
        [(49_152, "<fake_token_around_image>"), (49_153, "<image>"), (49_154, "<end_of_utterance>")]
    {
        let mut token = added[0].clone();
        token["id"] = id.into();
        token["content"] = content.into();
        added.push(token);
    }
    Some(Tokenizer::from_json(json.to_string(), "2.2B vocabulary").expect("still valid"))
}

pub(crate) fn ids_of(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Ids where a run is written as `[id, count]`.
pub(crate) fn ids_with_runs(value: &Value) -> Vec<u32> {
    let mut ids = Vec::new();
    for item in value.as_array().unwrap() {
        match item.as_array() {
            Some(run) => {
                let (id, count) = (run[0].as_u64().unwrap() as u32, run[1].as_u64().unwrap() as usize);
                ids.extend(std::iter::repeat_n(id, count));
            }
            None => ids.push(item.as_u64().unwrap() as u32),
        }
    }
    ids
}
