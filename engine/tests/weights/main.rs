//! Weight files: what is read equals what the reference packages wrote, and no damaged file gets past.

mod damaged;
mod gguf;
mod hostile;
mod safetensors;
mod sharded;

use std::path::{Path, PathBuf};

use engine::weights::Weights;

/// Fixtures of the project.
fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures")).join(name)
}

/// The folder of shared data, where this machine has one.
fn shared() -> Option<PathBuf> {
    let folder = std::env::var_os("ROENTGEN_SHARED")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").into(), PathBuf::from);
    let there = folder.is_dir();
    if !there {
        println!("SKIP: no shared data (set ROENTGEN_SHARED to its folder)");
    }
    there.then_some(folder)
}

/// Opens `bytes` as a file of that name, and gives the error's text.
fn refusal(name: &str, bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    let text = Weights::open(&path).expect_err("a hostile file was opened").to_string();
    assert!(text.starts_with(path.to_str().unwrap()), "the file is not named: {text}");
    text
}

/// What holds of every file that opens: ranges inside the file, of the right length, without overlap.
fn check_consistent(weights: &Weights) {
    for entry in weights.entries() {
        let range = entry.range();
        assert!(range.start <= range.end && range.end <= entry.mapping().bytes().len());
        assert_eq!(entry.numel(), entry.shape().iter().product::<usize>());
        assert_eq!(Some(range.len()), entry.dtype().byte_len(entry.numel()));
        assert_eq!(entry.bytes().len(), range.len());
        assert_eq!(weights.get(entry.name()).unwrap().range(), range);
        if entry.dtype().is_float() {
            assert_eq!(entry.to_f32().unwrap().len(), entry.numel());
        } else {
            assert!(entry.to_f32().is_err());
        }
    }
    for pair in weights.entries().windows(2) {
        assert!(pair[0].path() != pair[1].path() || pair[0].range().end <= pair[1].range().start);
    }
}
