//! Elementwise functions of one tensor.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::Result;
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::{arity, float};

/// Which function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryKind {
    /// eˣ
    Exp,
    /// ln x
    Ln,
    /// √x
    Sqrt,
    /// tanh x
    Tanh,
    /// 1 / (1 + e⁻ˣ)
    Sigmoid,
    /// max(x, 0)
    Relu,
    /// 1 where x > 0, else 0; its gradient is zero
    Step,
}

/// `y = f(x)`, computed in f32.
#[derive(Clone, Debug)]
pub struct Unary {
    /// Which function.
    pub kind: UnaryKind,
}

impl Op for Unary {
    const NAME: &'static str = "unary";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        arity(Self::NAME, inputs, 1)?;
        float(Self::NAME, "the input", &inputs[0])?;
        Ok(vec![inputs[0]])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(inputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        match self.kind {
            UnaryKind::Ln => Saves::INPUTS,
            UnaryKind::Step => Saves::NOTHING,
            _ => Saves::OUTPUTS,
        }
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None]) };
        let dx = match self.kind {
            UnaryKind::Exp => g.mul(&ctx.output(0)?)?,
            UnaryKind::Ln => g.div(&ctx.input(0)?)?,
            UnaryKind::Sqrt => g.div(&ctx.output(0)?)?.affine(0.5, 0.0)?,
            UnaryKind::Tanh => {
                let y = ctx.output(0)?;
                g.mul(&y.mul(&y)?.affine(-1.0, 1.0)?)?
            }
            UnaryKind::Sigmoid => {
                let y = ctx.output(0)?;
                g.mul(&y.mul(&y.affine(-1.0, 1.0)?)?)?
            }
            UnaryKind::Relu => g.mul(&ctx.output(0)?.unary(UnaryKind::Step)?)?,
            UnaryKind::Step => return Ok(vec![None]),
        };
        Ok(vec![Some(dx)])
    }
}

impl Tensor {
    fn unary(&self, kind: UnaryKind) -> Result<Self> {
        apply_one(Unary { kind }, &[self])
    }

    /// eˣ
    pub fn exp(&self) -> Result<Self> {
        self.unary(UnaryKind::Exp)
    }

    /// Natural logarithm.
    pub fn ln(&self) -> Result<Self> {
        self.unary(UnaryKind::Ln)
    }

    /// Square root.
    pub fn sqrt(&self) -> Result<Self> {
        self.unary(UnaryKind::Sqrt)
    }

    /// Hyperbolic tangent.
    pub fn tanh(&self) -> Result<Self> {
        self.unary(UnaryKind::Tanh)
    }

    /// Logistic function.
    pub fn sigmoid(&self) -> Result<Self> {
        self.unary(UnaryKind::Sigmoid)
    }

    /// max(x, 0)
    pub fn relu(&self) -> Result<Self> {
        self.unary(UnaryKind::Relu)
    }
}
