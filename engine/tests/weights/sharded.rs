//! Folders in Hugging Face layout.

use std::collections::BTreeMap;
use std::path::Path;

use engine::weights::{FileDType, Weights, write_safetensors};
use tempfile::TempDir;

use crate::check_consistent;

const INDEX: &str = "model.safetensors.index.json";
const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

fn shard(folder: &Path, name: &str, tensors: &[(&str, u8)]) {
    let bytes: Vec<_> = tensors.iter().map(|&(_, b)| [b; 6]).collect();
    let tensors = tensors.iter().zip(&bytes).map(|((n, _), b)| (*n, FileDType::U8, &[2, 3][..], &b[..]));
    let metadata = BTreeMap::from([("format".into(), "pt".into()), (name.into(), "here".into())]);
    write_safetensors(folder.join(name), tensors, &metadata).unwrap();
}

fn model(weight_map: &str, one: &[(&str, u8)], two: &[(&str, u8)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    shard(folder.path(), ONE, one);
    shard(folder.path(), TWO, two);
    let index = format!("{{\"metadata\":{{\"total_size\":18}},\"weight_map\":{{{weight_map}}}}}");
    std::fs::write(folder.path().join(INDEX), index).unwrap();
    folder
}

fn map(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(t, f)| format!("\"{t}\":\"{f}\"")).collect::<Vec<_>>().join(",")
}

fn refused(folder: &TempDir, parts: &[&str]) {
    let text = Weights::open(folder.path()).unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{text}\nwithout {part}");
    }
}

#[test]
fn shards_are_one_model() {
    let listed = map(&[("a", ONE), ("b", ONE), ("c", TWO)]);
    let folder = model(&listed, &[("a", 1), ("b", 2)], &[("c", 3)]);
    for path in [folder.path().to_owned(), folder.path().join(INDEX)] {
        let weights = Weights::open(path).unwrap();
        check_consistent(&weights);
        assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(weights.total_bytes(), 18);
        for (name, byte, file) in [("a", 1, ONE), ("b", 2, ONE), ("c", 3, TWO)] {
            let entry = weights.require(name).unwrap();
            assert_eq!((entry.bytes(), entry.path()), (&[byte; 6][..], &*folder.path().join(file)));
        }
        assert_eq!(weights.metadata().len(), 3);
    }
}

#[test]
fn index_and_shards_must_agree() {
    let both = map(&[("a", ONE), ("b", ONE), ("c", TWO)]);
    let missing = model(&both, &[("a", 1)], &[("c", 3)]);
    refused(&missing, &[INDEX, "tensor \"b\": the index puts it into", ONE, "which does not hold it"]);
    let unlisted = model(&both, &[("a", 1), ("b", 2)], &[("c", 3), ("d", 4)]);
    refused(&unlisted, &[TWO, "tensor \"d\": it is in the shard but not in the index"]);
    let doubled = model(&both, &[("a", 1), ("b", 2)], &[("b", 2), ("c", 3)]);
    refused(&doubled, &[TWO, "tensor \"b\": it is here, but the index puts it into", ONE]);
    let twice = format!("{},{}", map(&[("a", ONE)]), map(&[("a", TWO)]));
    refused(&model(&twice, &[("a", 1)], &[("a", 1)]), &[INDEX, "\"a\" stands twice, first as", ONE]);

    let absent = model(&map(&[("a", "gone.safetensors")]), &[], &[]);
    refused(&absent, &["gone.safetensors: cannot open"]);
    for escape in ["../other.safetensors", "/etc/passwd", "", ".", "..", "sub/x.safetensors"] {
        let folder = model(&map(&[("a", escape)]), &[], &[]);
        refused(
            &folder,
            &[INDEX, "tensor \"a\": the index puts it into", "not the name of a file beside it"],
        );
    }
    for bad in ["", "{}", "[]", "{\"weight_map\":[]}", "{\"weight_map\":{\"a\":1}}", "\u{0}"] {
        let folder = model("", &[], &[]);
        std::fs::write(folder.path().join(INDEX), bad).unwrap();
        refused(&folder, &[INDEX, "the index is not valid"]);
    }
}

#[test]
fn folders_without_weights() {
    let folder = tempfile::tempdir().unwrap();
    refused(&folder, &["the folder holds neither model.safetensors nor model.safetensors.index.json"]);
    std::fs::write(folder.path().join("pytorch_model.bin"), b"").unwrap();
    refused(&folder, &["converted to safetensors first (here are pytorch_model.bin)"]);
    let text = Weights::open(folder.path().join("absent")).unwrap_err().to_string();
    assert!(text.contains("absent: cannot open"), "{text}");
    shard(folder.path(), "model.safetensors", &[("w", 9)]);
    assert_eq!(Weights::open(folder.path()).unwrap().require("w").unwrap().bytes(), [9; 6]);
}
