//! Dropout.

use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::{arity, float};
use crate::{Rng, Tensor};

/// `y = x/(1 − p)` where element `i` is kept, else 0 (Srivastava et al. 2014, inverted scaling). Which elements are
/// kept is a function of the seed and `i` alone ([`Dropout::keeps`]), the same on every device, so a recomputed
/// forward pass and the backward pass draw the same mask and nothing is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability of dropping an element, in [0, 1).
    pub p: f32,
    /// Chooses the mask.
    pub seed: u64,
}

impl Dropout {
    /// Largest hash of an element that is dropped, plus one.
    #[inline(always)]
    pub fn threshold(&self) -> u32 {
        (f64::from(self.p) * 4_294_967_296.0) as u32
    }

    /// What kept elements are multiplied with.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }

    /// A 32-bit hash of `index` (row-major, modulo 2³²): two rounds of xor-shift and multiply (Mulvey's and Wellons'
    /// `lowbias32`), keyed before and between by the halves of a
    /// `SplitMix64` word of the seed.
    #[inline(always)]
    pub fn hash(&self, index: u32) -> u32 {
        // The same for all elements: compilers take it out of loops.
        let key = Rng::new(self.seed).bits();
        let (low, high) = (key as u32, (key >> 32) as u32);
        let mut x = index ^ low;
        x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
        x = (x ^ (x >> 15)).wrapping_add(high).wrapping_mul(0x846c_a68b);
        x ^ (x >> 16)
    }

    /// Whether element `index` is kept.
    #[inline(always)]
    pub fn keeps(&self, index: u32) -> bool {
        self.hash(index) >= self.threshold()
    }

    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        if (0.0..1.0).contains(&self.p) { Ok(()) } else { Err(rule!(op, "p is {}, expected [0, 1)", self.p)) }
    }
}

impl Op for Dropout {
    const NAME: &'static str = "dropout";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 1)?;
        float(Self::NAME, "x", &inputs[0])?;
        self.check(Self::NAME)?;
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(inputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::NOTHING
    }

    fn grad(&self, _: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        Ok(vec![grads[0].as_ref().map(|g| g.dropout(self.p, self.seed)).transpose()?])
    }
}

impl Tensor {
    /// Drops each element with probability `p` and scales the others by `1/(1 − p)`; the mask is that of `seed`.
    pub fn dropout(&self, p: f32, seed: u64) -> Result<Self> {
        let op = Dropout { p, seed };
        op.check(Dropout::NAME)?;
        if p == 0.0 { Ok(self.clone()) } else { apply_one(op, &[self]) }
    }
}
