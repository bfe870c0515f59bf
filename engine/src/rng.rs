//! Random numbers that are the same on every machine and can be saved with a checkpoint.

use crate::cpu::threads::{Scatter, parallel_for};

/// Draws of [`Rng::bits`] that one [`Rng::normal`] takes.
const DRAWS: u64 = 2;

/// `SplitMix64` (Steele, Lea, Flood 2014): the whole state is one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A stream for `seed`. Equal seeds give equal streams.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The state, to continue from later with [`Self::new`].
    pub const fn state(&self) -> u64 {
        self.state
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.skip(1);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Leaves out the next `n` draws of 64 bits.
    fn skip(&mut self, n: u64) {
        self.state = self.state.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }

    /// Uniform in [0, 1), 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..n` (`n` > 0), without bias worth naming (64-bit multiply-shift).
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Standard normal (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        (radius * (std::f64::consts::TAU * self.uniform()).cos()) as f32
    }

    /// What as many calls of [`Self::normal`] give, on all threads.
    pub(crate) fn normals(&mut self, values: &mut [f32]) {
        const PART: usize = 1 << 14;
        let start = *self;
        let count = values.len();
        let parts = Scatter::new(values);
        parallel_for(count.div_ceil(PART), |part| {
            let at = part * PART;
            let mut rng = start;
            rng.skip(DRAWS * at as u64);
            // SAFETY: parts are disjoint.
            for value in unsafe { parts.slice(at, PART.min(count - at)) } {
                *value = rng.normal();
            }
        });
        self.skip(DRAWS * count as u64);
    }

    /// Fisher–Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_normals_are_those_of_many_calls() {
        let (mut one, mut all) = (Rng::new(5), Rng::new(5));
        let mut values = vec![0.0; 40_001];
        all.normals(&mut values);
        assert!(values.iter().all(|&v| v == one.normal()));
        assert_eq!(one, all);
    }
}
