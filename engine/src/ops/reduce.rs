//! Reductions over dimensions.

use crate::autograd::GradContext;
use crate::error::{Error, Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::{arity, float};
use crate::{DType, Tensor};

/// What is computed over the reduced dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceKind {
    /// Sum, accumulated in f32, rounded once to the input's dtype.
    Sum,
    /// Sum divided by the number of terms before it is rounded; NaN over nothing.
    Mean,
    /// Sum of squares, in f32 whatever the input.
    SumSquares,
    /// Largest; −∞ over nothing; NaN if there is one. Differentiating it is an error.
    Max,
}

/// Reduces the dimensions in `axes` (a bit set) to size 1.
#[derive(Clone, Debug)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// Bit `i`: dimension `i` is reduced.
    pub axes: u32,
}

impl Op for Reduce {
    const NAME: &'static str = "reduce";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 1)?;
        float(Self::NAME, "the input", &inputs[0])?;
        let mut out = inputs[0];
        for i in 0..out.dims.len() {
            if self.axes & (1 << i) != 0 {
                out.dims[i] = 1;
            }
        }
        if self.kind == ReduceKind::SumSquares {
            out.dtype = DType::F32;
        }
        Ok(vec![out])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        let per_element = if self.kind == ReduceKind::SumSquares { 2 } else { 1 };
        Cost::streaming(per_element * inputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        if self.kind == ReduceKind::SumSquares { Saves::INPUTS } else { Saves::NOTHING }
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None]) };
        let wide = g.expand(&ctx.input_spec(0).dims)?;
        Ok(vec![match self.kind {
            ReduceKind::Sum => Some(wide),
            ReduceKind::Mean => {
                let terms = wide.count().max(1) / g.count().max(1);
                Some(g.affine(1.0 / terms as f32, 0.0)?.expand(&wide.dims())?)
            }
            ReduceKind::SumSquares => {
                let x = ctx.input(0)?;
                Some(wide.to_dtype(x.dtype())?.mul(&x.affine(2.0, 0.0)?)?)
            }
            ReduceKind::Max => {
                return Err(Error::Autograd("reduce: the maximum has no gradient; detach its input".into()));
            }
        }])
    }
}

impl Tensor {
    fn reduce_keep(&self, kind: ReduceKind, axes: &[usize]) -> Result<Self> {
        if let Some(axis) = axes.iter().find(|&&a| a >= self.rank()) {
            return Err(rule!("reduce", "no dimension {axis} in {:?}", self.dims()));
        }
        let axes = axes.iter().fold(0, |set, a| set | 1 << a);
        apply_one(Reduce { kind, axes }, &[self])
    }

    fn reduce(&self, kind: ReduceKind, axes: &[usize]) -> Result<Self> {
        let kept: Vec<usize> =
            self.dims().iter().enumerate().filter(|(i, _)| !axes.contains(i)).map(|(_, &d)| d).collect();
        self.reduce_keep(kind, axes)?.reshape(&kept)
    }

    /// Sum over `axes`, which go away.
    pub fn sum(&self, axes: &[usize]) -> Result<Self> {
        self.reduce(ReduceKind::Sum, axes)
    }

    /// Sum over `axes`, which stay with size 1.
    pub fn sum_keep(&self, axes: &[usize]) -> Result<Self> {
        self.reduce_keep(ReduceKind::Sum, axes)
    }

    /// Mean over `axes`, which go away.
    pub fn mean(&self, axes: &[usize]) -> Result<Self> {
        self.reduce(ReduceKind::Mean, axes)
    }

    /// Largest element over `axes`, which go away.
    pub fn max(&self, axes: &[usize]) -> Result<Self> {
        self.reduce(ReduceKind::Max, axes)
    }

    /// Sum of the squares of all elements, an f32 scalar.
    pub fn sum_squares(&self) -> Result<Self> {
        self.reduce(ReduceKind::SumSquares, &(0..self.rank()).collect::<Vec<_>>())
    }
}
