//! Encoders: the real all-MiniLM-L6-v2 against an independent f64 forward pass, token ids against the reference
//! library's, and what must hold for any weights. `ROENTGEN_MINILM` names the folder of the real model.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{fixture_json, ids_of, shared};
use engine::weights::{FileDType, write_safetensors};
use engine::{Device, Rng, Tensor};
use model::bert::{BertConfig, BertEncoder, BertKind};
use model::tokenizer::PieceTokenizer;
use serde_json::{Value, json};

/// The golden numbers are rounded to five decimals of unit vectors, and computed in f64.
const TOLERANCE: f64 = 2e-5;
/// Vectors after the last norm are of magnitude 1; f32 sums in another order.
const TOLERANCE_F32: f32 = 2e-5;

fn minilm() -> Option<PathBuf> {
    let path = std::env::var_os("ROENTGEN_MINILM").map(PathBuf::from);
    if path.is_none() {
        println!("SKIP: ROENTGEN_MINILM does not name a folder with all-MiniLM-L6-v2");
    }
    path
}

/// Mean of the token vectors, scaled to length 1, as sentence embeddings are made.
fn pooled(vectors: &[f32], width: usize) -> Vec<f64> {
    let tokens = (vectors.len() / width) as f64;
    let mean: Vec<f64> = (0..width)
        .map(|c| vectors[c..].iter().step_by(width).map(|&v| f64::from(v)).sum::<f64>() / tokens)
        .collect();
    let norm = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
    mean.into_iter().map(|v| v / norm).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[track_caller]
fn near(found: impl IntoIterator<Item = f64>, wanted: &[f64], what: &str) {
    for (f, w) in found.into_iter().zip(wanted) {
        assert!((f - w).abs() < TOLERANCE, "{what}: {f} instead of {w}");
    }
}

#[test]
fn the_real_minilm_gives_the_golden_numbers() {
    let Some(folder) = minilm() else { return };
    let golden = fixture_json("minilm-l6/golden.json");
    let encoder = BertEncoder::open(&folder, None, &Device::cpu()).unwrap();
    let ids: Vec<Vec<u32>> = golden["sentences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| encoder.tokenizer.encode(text.as_str().unwrap()).unwrap())
        .collect();
    for (found, wanted) in ids.iter().zip(golden["ids"].as_array().unwrap()) {
        assert_eq!(*found, ids_of(wanted));
    }
    // One batch: the shorter sentences are padded.
    let texts: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let vectors = encoder.encode(&texts).unwrap();
    let width = encoder.config.hidden_size;
    let sentences: Vec<Vec<f64>> = vectors.iter().map(|v| pooled(v, width)).collect();
    for (i, (vectors, sentence)) in vectors.iter().zip(&sentences).enumerate() {
        near(sentence[..8].iter().copied(), &floats(&golden["first8_of_embedding"][i]), "embedding");
        near(vectors[..4].iter().map(|&v| f64::from(v)), &floats(&golden["first_token_first4"][i]), "token");
        let cosine = |other: &Vec<f64>| sentence.iter().zip(other).map(|(a, b)| a * b).sum::<f64>();
        near(sentences.iter().map(cosine), &floats(&golden["cosine"][i]), "cosine");
    }
}

#[test]
fn word_pieces_are_the_reference_librarys() {
    let Some(folder) = shared("data/tokenizers/bert-base-uncased") else { return };
    let whole = PieceTokenizer::from_folder(&folder, BertKind::Bert).unwrap();
    // The same from the vocabulary alone.
    let bare = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("vocab.txt"), bare.path().join("vocab.txt")).unwrap();
    let bare = PieceTokenizer::from_folder(bare.path(), BertKind::Bert).unwrap();
    let cases = cases(&folder);
    assert!(cases.len() >= 6);
    for (text, ids) in cases {
        assert_eq!(whole.encode(&text).unwrap(), ids, "{text}");
        assert_eq!(bare.encode(&text).unwrap(), ids, "{text}");
    }
    assert_eq!(whole.encode("").unwrap(), [101, 102]);
    let short = whole.with_limit(5);
    assert_eq!(short.encode("The lungs are clear.").unwrap(), [101, 1996, 8948, 2024, 102]);
}

#[test]
fn roberta_pieces_are_the_reference_librarys_and_take_a_prefix_space() {
    let Some(folder) = shared("data/tokenizers/roberta") else { return };
    let open = |folder: &Path| PieceTokenizer::from_folder(folder, BertKind::Roberta).unwrap();
    let whole = open(&folder);
    let bare = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(folder.join(name), bare.path().join(name)).unwrap();
    }
    let bare = open(bare.path());
    // " The" and " lungs": the first word is spelled as inside a text.
    assert_eq!(whole.encode("The lungs").unwrap(), [0, 20, 19147, 2]);
    for tokenizer in [&whole, &bare] {
        assert_eq!(tokenizer.encode("").unwrap(), [0, 2]);
    }
    let plain = open(&folder).with_prefix_space(false);
    let cases = cases(&folder);
    assert!(cases.len() >= 6);
    for (text, ids) in cases {
        assert_eq!(plain.encode(&text).unwrap(), ids, "{text}");
        let text = text.trim();
        let spaced = plain.encode(&format!(" {text}")).unwrap();
        assert_eq!(whole.encode(text).unwrap(), spaced, "{text}");
        assert_eq!(bare.encode(text).unwrap(), spaced, "{text}");
    }
}

fn cases(folder: &Path) -> Vec<(String, Vec<u32>)> {
    let file: Value = serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap();
    cases.iter().map(|case| (case["text"].as_str().unwrap().to_owned(), ids_of(&case["ids"]))).collect()
}

/// A random encoder in a folder; `RoBERTa`'s position table is BERT's with two rows before it.
fn tiny(kind: BertKind, prefix: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let roberta = kind == BertKind::Roberta;
    let config = json!({
        "model_type": if roberta { "roberta" } else { "bert" },
        "vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 12, "max_position_embeddings": if roberta { 10 } else { 8 },
        "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu",
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    if roberta {
        let pieces = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "c", "d", "e", "f", "g", "Ġ"];
        let vocab: serde_json::Map<_, _> =
            pieces.iter().enumerate().map(|(i, p)| ((*p).to_owned(), json!(i))).collect();
        std::fs::write(folder.path().join("vocab.json"), Value::Object(vocab).to_string()).unwrap();
        std::fs::write(folder.path().join("merges.txt"), "#version: 0.2\n").unwrap();
    } else {
        let pieces = "[PAD]\n[CLS]\n[SEP]\n[UNK]\na\nb\nc\nd\ne\nf\ng\nh\n";
        std::fs::write(folder.path().join("vocab.txt"), pieces).unwrap();
    }

    let mut rng = Rng::new(7);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    let mut put = |name: &str, dims: &[usize]| {
        let mut values = Tensor::randn(dims, 0.7, engine::DType::F32, &mut rng, &Device::cpu())
            .unwrap()
            .to_f32_vec()
            .unwrap();
        let mut dims = dims.to_vec();
        if name.contains("position") && roberta {
            values.splice(0..0, [9.0; 16]);
            dims[0] += 2;
        }
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensors.insert(format!("{prefix}{name}"), (dims, bytes));
    };
    put("embeddings.word_embeddings.weight", &[12, 8]);
    put("embeddings.position_embeddings.weight", &[8, 8]);
    put("embeddings.token_type_embeddings.weight", &[2, 8]);
    let mut pair = |name: &str, dims: &[usize]| {
        put(&format!("{name}.weight"), dims);
        put(&format!("{name}.bias"), &dims[..1]);
    };
    pair("embeddings.LayerNorm", &[8]);
    for i in 0..2 {
        for (part, dims) in [
            ("attention.self.query", &[8, 8][..]),
            ("attention.self.key", &[8, 8]),
            ("attention.self.value", &[8, 8]),
            ("attention.output.dense", &[8, 8]),
            ("attention.output.LayerNorm", &[8]),
            ("intermediate.dense", &[12, 8]),
            ("output.dense", &[8, 12]),
            ("output.LayerNorm", &[8]),
        ] {
            pair(&format!("encoder.layer.{i}.{part}"), dims);
        }
    }
    let list =
        tensors.iter().map(|(name, (dims, bytes))| (name.as_str(), FileDType::F32, &dims[..], &bytes[..]));
    write_safetensors(folder.path().join("model.safetensors"), list, &BTreeMap::new()).unwrap();
    folder
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < TOLERANCE_F32)
}

#[test]
fn padding_prefixes_and_kinds_change_nothing() {
    let folder = tiny(BertKind::Bert, "");
    let bert = BertEncoder::open(folder.path(), None, &Device::cpu()).unwrap();
    let texts: [&[u32]; 3] = [&[1, 4, 5, 6, 2], &[1, 2], &[1, 9, 2]];
    let batch = bert.encode(&texts).unwrap();
    for (text, vectors) in texts.iter().zip(&batch) {
        assert!(close(&bert.encode(&[text]).unwrap()[0], vectors), "{text:?}");
    }
    // Positions matter: the same token twice has two vectors.
    let twice = &bert.encode(&[&[4, 4]]).unwrap()[0];
    assert!(!close(&twice[..8], &twice[8..]));

    let folder = tiny(BertKind::Bert, "bert.");
    let headed = BertEncoder::open(folder.path(), None, &Device::cpu()).unwrap();
    assert_eq!(headed.encode(&texts).unwrap(), batch);
    // RoBERTa reads its position table from row 2 on, where the same rows stand.
    let folder = tiny(BertKind::Roberta, "roberta.");
    let roberta = BertEncoder::open(folder.path(), None, &Device::cpu()).unwrap();
    assert_eq!(roberta.config.first_position(), 2);
    assert_eq!(roberta.encode(&texts).unwrap(), batch);
}

#[test]
fn layers_above_the_chosen_one_are_not_needed() {
    let folder = tiny(BertKind::Bert, "");
    let open = |layer| BertEncoder::open(folder.path(), layer, &Device::cpu());
    let ids: &[u32] = &[1, 4, 7, 2];
    let all: Vec<_> = (0..=2).map(|layer| open(Some(layer)).unwrap().encode(&[ids]).unwrap()).collect();
    assert!(all[0] != all[1] && all[1] != all[2]);
    assert_eq!(open(None).unwrap().encode(&[ids]).unwrap(), all[2]);
    // The embeddings alone: each token for itself.
    let alone = &open(Some(0)).unwrap().encode(&[&ids[..2]]).unwrap()[0];
    assert_eq!(alone[..], all[0][0][..16]);
    let said = open(Some(3)).err().unwrap().to_string();
    assert!(said.contains("layer 3") && said.contains("has 2"), "{said}");
}

#[test]
fn broken_folders_and_texts_are_refused_with_the_reason() {
    let folder = tiny(BertKind::Bert, "");
    let encoder = BertEncoder::open(folder.path(), None, &Device::cpu()).unwrap();
    for (ids, said) in
        [(&[1u32; 9][..], "positions for 8"), (&[12], "vocabulary of 12"), (&[], "without any id")]
    {
        let error = encoder.encode(&[ids]).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(encoder.encode(&[]).unwrap().is_empty());
    // Text is cut to what the encoder has positions for.
    assert_eq!(encoder.tokenizer.encode("a b c d e f g h a b c").unwrap().len(), 8);

    let path = folder.path().join("config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for (key, value, said) in [
        ("model_type", json!("gpt2"), "gpt2"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_attention_heads", json!(3), "multiple"),
        ("hidden_act", json!("relu"), "relu"),
        ("position_embedding_type", json!("relative_key"), "relative_key"),
        ("max_position_embeddings", json!(1), "max_position_embeddings"),
        ("hidden_size", json!(16), "shape"),
        ("num_hidden_layers", json!(3), "encoder.layer.2"),
        ("vocab_size", json!(11), "12 pieces"),
    ] {
        let mut changed = config.clone();
        changed[key] = value;
        std::fs::write(&path, changed.to_string()).unwrap();
        let error = BertEncoder::open(folder.path(), None, &Device::cpu()).err().unwrap().to_string();
        assert!(error.contains(said), "{key}: {error}");
    }
    let huge = json!({"model_type": "roberta", "pad_token_id": u32::MAX});
    assert!(BertConfig::from_json(&huge.to_string(), "x").is_err());
    std::fs::write(&path, config.to_string()).unwrap();
    std::fs::write(folder.path().join("vocab.txt"), "a\nb\n").unwrap();
    let error = BertEncoder::open(folder.path(), None, &Device::cpu()).err().unwrap().to_string();
    assert!(error.contains("[CLS]") || error.contains("[UNK]"), "{error}");
}
