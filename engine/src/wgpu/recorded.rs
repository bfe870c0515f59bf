//! What launches needed made, kept for those that come again: WebGPU has no command buffers that run twice for compute,
//! but the next decode step launches the same kernels on the same buffers, and needs nothing new but parameters.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex};

use ::wgpu;

use super::pipelines::Built;

/// Launches of a generation; those of the one before are forgotten when one is full.
const GENERATION: usize = 4096;

/// What tells a launch from others: its kernel and variant, then its buffers and which parts of them it binds.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    words: Vec<u64>,
    /// Where the buffers' part begins: number, offset and size of each.
    buffers: usize,
}

impl Key {
    pub(super) fn new(launch: Vec<u64>) -> Self {
        Self { buffers: launch.len(), words: launch }
    }

    pub(super) fn buffer(&mut self, id: u64, offset: u64, size: u64) {
        self.words.extend([id, offset, size]);
    }

    /// Whether it binds one of these buffers, whose numbers are sorted.
    fn uses(&self, dead: &[u64]) -> bool {
        self.words[self.buffers..].chunks_exact(3).any(|part| dead.binary_search(&part[0]).is_ok())
    }
}

/// Folds words as rustc's own tables do: keys are numbers of our making, nobody chooses them to collide.
#[derive(Default)]
pub(super) struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

/// A launch's kernel, and its buffers bound.
#[derive(Clone)]
pub(super) struct Launched {
    pub(super) kernel: Arc<Built>,
    pub(super) group: wgpu::BindGroup,
}

type Launches = HashMap<Key, Launched, BuildHasherDefault<Fold>>;

#[derive(Default)]
struct Generations {
    young: Launches,
    old: Launches,
    made: u64,
}

/// Launches that were recorded. Bound buffers live as long as their groups do, so the pool says which ones die.
#[derive(Default)]
pub(super) struct Recorded(Mutex<Generations>);

impl Recorded {
    pub(super) fn find(&self, key: &Key) -> Option<Launched> {
        let mut all = self.0.lock().unwrap();
        if let Some(found) = all.young.get(key) {
            return Some(found.clone());
        }
        let (key, found) = all.old.remove_entry(key)?;
        all.young.insert(key, found.clone());
        Some(found)
    }

    pub(super) fn keep(&self, key: Key, launched: Launched) {
        let mut all = self.0.lock().unwrap();
        if all.young.len() >= GENERATION {
            all.old = std::mem::take(&mut all.young);
        }
        all.made += 1;
        all.young.insert(key, launched);
    }

    /// Lets go of launches that use these buffers.
    pub(super) fn forget(&self, mut dead: Vec<u64>) {
        if !dead.is_empty() {
            dead.sort_unstable();
            let mut all = self.0.lock().unwrap();
            all.young.retain(|key, _| !key.uses(&dead));
            all.old.retain(|key, _| !key.uses(&dead));
        }
    }

    /// Launches that were not found, since the device was opened.
    pub(super) fn made(&self) -> u64 {
        self.0.lock().unwrap().made
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn keys_differ_by_kernel_and_by_buffers() {
        let key = |words: &[u64], buffers: &[[u64; 3]]| {
            let mut key = Key::new(words.to_vec());
            for &[id, offset, size] in buffers {
                key.buffer(id, offset, size);
            }
            key
        };
        let one = key(&[1, 2], &[[7, 0, 64], [8, 0, 64]]);
        assert!(one == key(&[1, 2], &[[7, 0, 64], [8, 0, 64]]));
        for other in [
            key(&[1, 3], &[[7, 0, 64], [8, 0, 64]]),
            key(&[1, 2], &[[8, 0, 64], [7, 0, 64]]),
            key(&[1, 2], &[[7, 256, 64], [8, 0, 64]]),
            key(&[1, 2, 7, 0, 64], &[[8, 0, 64]]),
        ] {
            assert!(one != other);
            let hash = |k: &Key| BuildHasherDefault::<Fold>::default().hash_one(k);
            assert_ne!(hash(&one), hash(&other));
        }
        assert!(one.uses(&[8]) && one.uses(&[7, 9]) && !one.uses(&[0, 1, 2, 64]));
    }
}
