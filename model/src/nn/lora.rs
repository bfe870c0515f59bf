//! The low-rank term of a linear layer (Hu et al. 2021, arXiv 2106.09685), with a learned magnitude of the rows if
//! wanted (DoRA, Liu et al. 2024, arXiv 2402.09353). Rules: spec qlora §8.

use std::sync::Arc;

use engine::ops::{self, Dropout, LoraTerm};
use engine::{DType, Tensor, no_grad};

use crate::nn::dropout::salt;
use crate::nn::{DropoutState, Weight};

/// `s·B·A` beside a weight `[out, in]`.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `[r, in]`, f32
    pub a: Tensor,
    /// `[out, r]`, f32
    pub b: Tensor,
    /// α/r, or α/√r.
    pub scale: f32,
    /// Probability of dropping an element of the term's input, while `state` has a seed.
    pub dropout: f32,
    /// Seed of the masks.
    pub state: Arc<DropoutState>,
    /// Magnitude of the rows.
    pub dora: Option<Dora>,
    salt: u64,
}

/// The magnitude of a layer's rows.
#[derive(Clone, Debug)]
pub struct Dora {
    /// `[out]`, f32
    pub magnitude: Tensor,
    /// ‖W‖² of each row of the base weight in its own type, `[out]`, f32.
    squares: Tensor,
    /// magnitude / ‖W + s·B·A‖ where nothing of it is trained, so that decoding need not compute it again.
    fixed: Option<Tensor>,
}

impl Lora {
    /// A term of the module `path`. Tracked factors are trained.
    pub fn new(path: &str, [a, b]: [Tensor; 2], scale: f32, dropout: f32, state: &Arc<DropoutState>) -> Self {
        Self { a, b, scale, dropout, state: state.clone(), dora: None, salt: salt(path) }
    }

    /// Adds the magnitude of the rows, tracked if it is to be trained; without one, that of `weight` with this term.
    pub fn with_magnitude(
        mut self,
        weight: &Weight,
        magnitude: Option<Tensor>,
        trained: bool,
    ) -> engine::Result<Self> {
        let squares = no_grad(|| {
            let w = weight.to_dense(weight.dtype())?.to_dtype(DType::F32)?;
            w.mul(&w)?.sum(&[1])
        })?;
        let norm = self.norm(weight, &squares)?;
        let magnitude = magnitude.unwrap_or_else(|| norm.clone());
        let magnitude = if trained { magnitude.tracked() } else { magnitude };
        let trained = trained || self.a.is_tracked() || self.b.is_tracked();
        let fixed = if trained { None } else { Some(magnitude.div(&norm)?) };
        self.dora = Some(Dora { magnitude, squares, fixed });
        Ok(self)
    }

    /// Rank.
    pub fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// `x·Wᵀ (+ bias)` with this term, in the type of `x`.
    pub(crate) fn forward(
        &self,
        weight: &Weight,
        bias: Option<&Tensor>,
        x: &Tensor,
    ) -> engine::Result<Tensor> {
        let seed = if self.dropout > 0.0 { self.state.mask(self.salt) } else { None };
        let dropout = seed.map(|seed| Dropout { p: self.dropout, seed });
        let lora =
            |dropout| ops::Lora { a: &self.a, b: &self.b, term: LoraTerm { scale: self.scale, dropout } };
        let Some(factor) = self.magnitude_factor(weight)? else {
            return weight.apply_lora(x, bias, lora(dropout));
        };
        // In f32: eight bits of a factor near 1 are too few.
        let scaled = |y: Tensor| y.to_dtype(DType::F32)?.mul(&factor)?.to_dtype(x.dtype());
        match dropout {
            None => {
                let y = scaled(weight.apply_lora(x, None, lora(None))?)?;
                bias.map_or_else(|| Ok(y.clone()), |bias| y.add(&bias.to_dtype(x.dtype())?))
            }
            // PEFT: base(x) + (m/n − 1)·base(x̃) + (m/n)·s·B·A·x̃ with dropped-out x̃; base(x) − base(x̃) is one product.
            Some(Dropout { p, seed }) => {
                let dropped = x.dropout(p, seed)?;
                let rest = weight.apply(&x.sub(&dropped)?, bias)?;
                rest.add(&scaled(weight.apply_lora(&dropped, None, lora(None))?)?)
            }
        }
    }

    /// What the rows are multiplied with, f32 `[out]`; `None` without a magnitude.
    pub(crate) fn magnitude_factor(&self, weight: &Weight) -> engine::Result<Option<Tensor>> {
        Ok(match &self.dora {
            None => None,
            Some(Dora { fixed: Some(factor), .. }) => Some(factor.clone()),
            Some(dora) => Some(dora.magnitude.div(&self.norm(weight, &dora.squares)?)?),
        })
    }

    /// ‖W + s·B·A‖ of each row, `[out]`, without a gradient, and without the sum in memory:
    /// ‖w‖² + 2s·w·(A·b) + s²·b·(A·Aᵀ)·b for a row w and its b.
    fn norm(&self, weight: &Weight, squares: &Tensor) -> engine::Result<Tensor> {
        no_grad(|| {
            let (a, b, s) = (self.a.detach(), self.b.detach(), self.scale);
            let (a, b) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
            let cross = weight.apply(&a, None)?.t()?.mul(&b)?.sum(&[1])?;
            let own = b.matmul(&a.matmul(&a.t()?)?)?.mul(&b)?.sum(&[1])?;
            squares.add(&cross.affine(2.0 * s, 0.0)?)?.add(&own.affine(s * s, 0.0)?)?.sqrt()
        })
    }
}
