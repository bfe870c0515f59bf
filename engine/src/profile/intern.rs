//! Names and definitions as small numbers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::profile::Operation;

/// Folds bytes into a hash, eight at a time. For names of this program's own, not against an adversary.
pub(super) fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut step = |x: u64| {
        hash = (hash ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash ^= hash >> 32;
    };
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        step(u64::from_le_bytes(*word));
    }
    let tail = rest.iter().fold(rest.len() as u64, |tail, &byte| tail << 8 | u64::from(byte));
    step(tail);
    hash
}

/// [`mix`] for maps.
#[derive(Default)]
pub(super) struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = mix(self.0, bytes);
    }
    /// Keys that are hashes already.
    fn write_u64(&mut self, x: u64) {
        self.0 ^= x;
    }
    /// Ends a text; its length is in the hash.
    fn write_u8(&mut self, _: u8) {}
    fn finish(&self) -> u64 {
        self.0
    }
}

pub(super) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Mixer>>;

/// Texts by number. Number 0 is the empty text.
pub(super) struct Texts {
    texts: Vec<String>,
    numbers: Map<String, u32>,
    most: usize,
}

impl Texts {
    /// Up to `most` of them.
    pub(super) fn new(most: usize) -> Self {
        Self { texts: vec![String::new()], numbers: Map::default(), most }
    }

    /// The number of `text`; 0 when there are too many.
    pub(super) fn number(&mut self, text: &str) -> u32 {
        if let Some(&number) = self.numbers.get(text) {
            return number;
        }
        if text.is_empty() || self.texts.len() >= self.most {
            return 0;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.to_owned());
        self.numbers.insert(text.to_owned(), number);
        number
    }

    pub(super) fn get(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", String::as_str)
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.texts.clone()
    }
}

/// Everything that spans refer to by number.
pub(super) struct Tables {
    pub(super) operations: Vec<Operation>,
    pub(super) operation_numbers: Map<u64, u32>,
    pub(super) modules: Texts,
    pub(super) phases: Texts,
    /// Tags and devices of memory.
    pub(super) names: Texts,
}

impl Tables {
    pub(super) fn new(most_modules: usize, most_phases: usize) -> Self {
        Self {
            operations: Vec::new(),
            operation_numbers: Map::default(),
            modules: Texts::new(most_modules),
            phases: Texts::new(most_phases),
            names: Texts::new(usize::MAX),
        }
    }
}
