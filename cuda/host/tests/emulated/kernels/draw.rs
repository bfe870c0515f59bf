//! Random operands, and applications of operations to them.

use engine::{Application, DType, Device, Rng, Tensor, capture};

/// Element types that carry gradients.
const FLOATS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// Draws the same for the same seed.
pub(crate) struct Draw {
    pub(crate) rng: Rng,
}

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed.wrapping_mul(0x1234_5678_9abc) + 7) }
    }

    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.rng.below(high - low + 1)
    }

    pub(crate) fn chance(&mut self) -> bool {
        self.rng.below(2) == 1
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.rng.below(choices.len())]
    }

    pub(crate) fn float(&mut self) -> DType {
        self.of(&FLOATS)
    }

    /// f32 or bf16, as parameters and products have.
    pub(crate) fn parameter(&mut self) -> DType {
        self.of(&FLOATS[..2])
    }

    pub(crate) fn dims(&mut self, rank: usize, most: usize) -> Vec<usize> {
        (0..rank).map(|_| self.between(1, most)).collect()
    }

    /// Standard normal values that lie anyhow in memory.
    pub(crate) fn normal(&mut self, dims: &[usize], dtype: DType) -> Tensor {
        self.placed(dims, dtype, |rng| f64::from(rng.normal()))
    }

    /// Contiguous standard normal values.
    pub(crate) fn dense(&mut self, dims: &[usize], dtype: DType) -> Tensor {
        let count = dims.iter().product();
        let values: Vec<f64> = (0..count).map(|_| f64::from(self.rng.normal())).collect();
        Tensor::from_f64(&values, dims, dtype, &Device::cpu()).unwrap()
    }

    /// Contiguous integers below `most`.
    pub(crate) fn below(&mut self, dims: &[usize], most: usize) -> Tensor {
        let count = dims.iter().product();
        let values: Vec<u32> = (0..count).map(|_| self.rng.below(most) as u32).collect();
        Tensor::from_slice(&values, dims, &Device::cpu()).unwrap()
    }

    /// Values from `f`: contiguous, with dimensions exchanged, a part of something bigger, or repeated by stride 0.
    pub(crate) fn placed(&mut self, dims: &[usize], dtype: DType, f: impl Fn(&mut Rng) -> f64) -> Tensor {
        let mut stored = dims.to_vec();
        let kind = if dims.is_empty() { 0 } else { self.rng.below(5) };
        let (a, b) = (self.rng.below(dims.len().max(1)), self.rng.below(dims.len().max(1)));
        let (before, after) = (self.rng.below(3), self.rng.below(3));
        match kind {
            1 => stored.swap(a, b),
            2 => stored[a] += before + after,
            3 => stored[a] = 1,
            _ => {}
        }
        let values: Vec<f64> = (0..stored.iter().product()).map(|_| f(&mut self.rng)).collect();
        let tensor = Tensor::from_f64(&values, &stored, dtype, &Device::cpu()).unwrap();
        let viewed = match kind {
            1 => tensor.transpose(a, b),
            2 => tensor.narrow(a, before, dims[a]),
            3 => tensor.expand(dims),
            _ => Ok(tensor),
        };
        viewed.unwrap()
    }
}

/// The last application of the operation `name` in `f`.
pub(crate) fn captured<R>(name: &str, f: impl FnOnce() -> engine::Result<R>) -> Application {
    let (result, kept) = capture(f);
    result.unwrap_or_else(|e| panic!("{name}: {e}"));
    let found = kept.into_iter().rfind(|application| application.name() == name);
    found.unwrap_or_else(|| panic!("no {name} was applied"))
}
