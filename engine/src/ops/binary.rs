//! Elementwise arithmetic of two tensors.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::layout::Dims;
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::{arity, float, same_dtype, shape};

/// Which arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryKind {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
    /// a / b
    Div,
}

/// `y = a ∘ b` for equal shapes (the `Tensor` methods broadcast by [`Tensor::expand`]), in f32.
#[derive(Clone, Debug)]
pub struct Binary {
    /// Which arithmetic.
    pub kind: BinaryKind,
}

impl Op for Binary {
    const NAME: &'static str = "binary";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 2)?;
        float(Self::NAME, "a", &inputs[0])?;
        same_dtype(Self::NAME, ["a", "b"], &inputs[0], &inputs[1])?;
        shape(Self::NAME, "b", &inputs[1], &inputs[0].dims)?;
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(inputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, needs: &[bool]) -> Saves {
        match self.kind {
            BinaryKind::Add | BinaryKind::Sub => Saves::NOTHING,
            BinaryKind::Mul => Saves { inputs: u32::from(needs[1]) | u32::from(needs[0]) << 1, outputs: 0 },
            BinaryKind::Div => Saves { inputs: 2, outputs: u32::from(needs[1]) },
        }
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None, None]) };
        let when = |i: usize, f: &dyn Fn() -> Result<Tensor>| ctx.needs(i).then(f).transpose();
        Ok(match self.kind {
            BinaryKind::Add => vec![Some(g.clone()), Some(g.clone())],
            BinaryKind::Sub => vec![Some(g.clone()), when(1, &|| g.neg())?],
            BinaryKind::Mul => vec![when(0, &|| g.mul(&ctx.input(1)?))?, when(1, &|| g.mul(&ctx.input(0)?))?],
            BinaryKind::Div => {
                let da = g.div(&ctx.input(1)?)?;
                let db = when(1, &|| da.mul(&ctx.output(0)?)?.neg())?;
                vec![Some(da), db]
            }
        })
    }
}

/// The shape that two shapes broadcast to.
pub(crate) fn broadcast(a: &Dims, b: &Dims) -> Result<Dims> {
    let rank = a.len().max(b.len());
    let size = |d: &Dims, i: usize| (i + d.len()).checked_sub(rank).map_or(1, |j| d[j]);
    let dims: Option<Vec<usize>> = (0..rank)
        .map(|i| match (size(a, i), size(b, i)) {
            (m, n) if m == n || n == 1 => Some(m),
            (1, n) => Some(n),
            _ => None,
        })
        .collect();
    Dims::new(&dims.ok_or_else(|| rule!("binary", "{a:?} and {b:?} do not broadcast"))?)
}

impl Tensor {
    fn binary(&self, other: &Self, kind: BinaryKind) -> Result<Self> {
        let dims = broadcast(&self.dims(), &other.dims())?;
        apply_one(Binary { kind }, &[&self.expand(&dims)?, &other.expand(&dims)?])
    }

    /// Elementwise sum, broadcasting.
    pub fn add(&self, other: &Self) -> Result<Self> {
        self.binary(other, BinaryKind::Add)
    }

    /// Elementwise difference, broadcasting.
    pub fn sub(&self, other: &Self) -> Result<Self> {
        self.binary(other, BinaryKind::Sub)
    }

    /// Elementwise product, broadcasting.
    pub fn mul(&self, other: &Self) -> Result<Self> {
        self.binary(other, BinaryKind::Mul)
    }

    /// Elementwise quotient, broadcasting.
    pub fn div(&self, other: &Self) -> Result<Self> {
        self.binary(other, BinaryKind::Div)
    }
}
