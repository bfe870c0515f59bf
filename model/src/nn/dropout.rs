//! The seed that all dropouts of a network share during a micro-batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::Rng;

/// Chooses the dropout masks of a micro-batch; between [`Active`] times there is no dropout (evaluation).
///
/// A mask is a function of this seed, the module and the element alone. Backward passes, and blocks that
/// [`engine::checkpoint`] computes again in them, therefore see the masks of the forward pass as long as the seed
/// stays: keep the [`Active`] until the backward pass is done.
#[derive(Debug, Default)]
pub struct DropoutState(AtomicU64);

/// Dropout is on while this lives.
#[must_use = "dropout ends when this is dropped"]
#[derive(Debug)]
pub struct Active<'a>(&'a DropoutState);

impl DropoutState {
    /// Without dropout, to be shared.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Dropout with the masks of `seed`, which is best made of the run's seed, the step and the micro-batch.
    pub fn during(&self, seed: u64) -> Active<'_> {
        // 0 stands for none.
        self.0.store(seed.max(1), Ordering::Relaxed);
        Active(self)
    }

    /// The seed of a module's mask; `None` if there is no dropout now. `salt` tells modules apart.
    pub fn mask(&self, salt: u64) -> Option<u64> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            // Mixed twice: neighbouring seeds and salts must not give related masks.
            seed => Some(Rng::new(Rng::new(seed).bits() ^ salt).bits()),
        }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.0.store(0, Ordering::Relaxed);
    }
}

/// A number for a module path that is the same in every run: FNV-1a, 64 bits.
pub(crate) fn salt(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}
