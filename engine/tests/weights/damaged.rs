//! Valid files, damaged at random: nothing panics, and what opens is consistent.

use std::path::Path;
use std::sync::LazyLock;

use engine::weights::Weights;
use engine::weights::gguf::Metadata;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::{check_consistent, fixture};

fn read(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

static FILES: LazyLock<[(&str, Vec<u8>); 3]> = LazyLock::new(|| {
    [
        ("m.gguf", read("gguf/blocks.gguf")),
        ("m.gguf", read("gguf/metadata.gguf")),
        ("m.safetensors", read("gguf/blocks.expected.safetensors")),
    ]
});

/// One blow at a file.
#[derive(Clone, Debug)]
enum Damage {
    Byte(Index, u8),
    Bit(Index, u8),
    /// Lengths, counts and offsets are 8-byte words.
    Word(Index, u64),
    /// Digits are what a JSON header's numbers are made of.
    Digit(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Repeat(Index, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let word = prop_oneof![
        any::<u64>(),
        0u64..100,
        (0u32..64).prop_map(|s| 1 << s),
        (0u64..100).prop_map(|d| u64::MAX - d)
    ];
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(i, b)| Damage::Byte(i, b)),
        (any::<Index>(), 0u8..8).prop_map(|(i, b)| Damage::Bit(i, b)),
        (any::<Index>(), word).prop_map(|(i, w)| Damage::Word(i, w)),
        (any::<Index>(), 0u8..10).prop_map(|(i, d)| Damage::Digit(i, d)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), 1usize..40).prop_map(|(i, n)| Damage::Remove(i, n)),
        (any::<Index>(), 1usize..40).prop_map(|(i, n)| Damage::Repeat(i, n)),
    ]
}

impl Damage {
    /// `header` bounds the place, so that blows fall where the format is and not only on weights.
    fn strike(&self, bytes: &mut Vec<u8>, header: usize) {
        let n = bytes.len().min(header);
        if n == 0 {
            return;
        }
        match self {
            Self::Byte(i, b) => bytes[i.index(n)] = *b,
            Self::Bit(i, b) => bytes[i.index(n)] ^= 1 << b,
            Self::Word(i, w) => {
                let at = i.index(n);
                let end = bytes.len().min(at + 8);
                bytes[at..end].copy_from_slice(&w.to_le_bytes()[..end - at]);
            }
            Self::Digit(i, d) => {
                let digits: Vec<_> = (0..n).filter(|&i| bytes[i].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    bytes[digits[i.index(digits.len())]] = b'0' + d;
                }
            }
            Self::Cut(i) => bytes.truncate(i.index(bytes.len())),
            Self::Remove(i, k) => {
                let at = i.index(n);
                bytes.drain(at..bytes.len().min(at + k));
            }
            Self::Repeat(i, k) => {
                let at = i.index(n);
                let piece = bytes[at..bytes.len().min(at + k)].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// `Ok` where the file opened and is consistent, else the message. Panics are the failure looked for.
fn open(path: &Path) -> Result<(), String> {
    match Weights::open(path) {
        Ok(weights) => {
            check_consistent(&weights);
            if let Some(Err(error)) = weights.gguf().map(Metadata::tokenizer) {
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            }
            Ok(())
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            assert!(text.len() < 1000, "a message of {} bytes", text.len());
            Err(text)
        }
    }
}

fn open_bytes(name: &str, bytes: &[u8]) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    open(&path)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn random_damage(file in 0usize..3, blows in prop::collection::vec(damage(), 1..4)) {
        let (name, bytes) = &FILES[file];
        let mut bytes = bytes.clone();
        for blow in &blows {
            blow.strike(&mut bytes, 1700);
        }
        let _ = open_bytes(name, &bytes);
    }

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), start in 0usize..4) {
        let starts: [&[u8]; 4] = [b"", b"GGUF\x03\0\0\0", b"GGUF\x02\0\0\0\0\0\0\0\0\0\0\0", b"\x40\0\0\0\0\0\0\0{\""];
        let _ = open_bytes("m", &[starts[start], &bytes].concat());
    }
}

/// A cut is never overlooked: the last tensor ends with the file.
#[test]
fn every_truncation_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in FILES.iter() {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        open(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for n in (0..bytes.len()).rev() {
            // No map of the file is alive here.
            file.set_len(n as u64).unwrap();
            match open(&path) {
                Err(text) => {
                    assert!(["cut short", "too few", "is empty"].iter().any(|t| text.contains(t)), "{text}");
                }
                // The padding behind the last tensor or value carries nothing.
                Ok(()) => {
                    assert!(bytes[n..].iter().all(|&b| b == 0) && bytes.len() - n < 64, "{name} cut at {n}");
                }
            }
        }
    }
}
