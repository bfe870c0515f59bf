//! Matrix product.

use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::layout::Dims;
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::binary::broadcast;
use crate::ops::{arity, same_dtype, shape};
use crate::{DType, Tensor};

/// `C = A·B (+ bias)` for `A [batch…, M, K]`, `B [batch…, K, N]` with equal batch dimensions, and
/// `bias [N]`. f32 or bf16, accumulated in f32, rounded once to `out`. Transposed operands are views
/// ([`Tensor::t`]); kernels read any strides.
#[derive(Clone, Debug)]
pub struct MatMul {
    /// Element type of the result.
    pub out: DType,
}

impl Op for MatMul {
    const NAME: &'static str = "matmul";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        if inputs.len() != 3 {
            arity(Self::NAME, inputs, 2)?;
        }
        let (a, b) = (&inputs[0], &inputs[1]);
        same_dtype(Self::NAME, ["A", "B"], a, b)?;
        for (what, dtype) in [("the inputs are", a.dtype), ("the output is", self.out)] {
            if !matches!(dtype, DType::F32 | DType::BF16) {
                return Err(rule!(Self::NAME, "{what} {dtype}; f32 and bf16 are supported"));
            }
        }
        let rank = a.dims.len();
        if rank < 2 || b.dims.len() != rank || a.dims[..rank - 2] != b.dims[..rank - 2] {
            return Err(rule!(
                Self::NAME,
                "A {:?} and B {:?} are not stacks of as many matrices",
                a.dims,
                b.dims
            ));
        }
        if a.dims[rank - 1] != b.dims[rank - 2] {
            return Err(rule!(Self::NAME, "inner sizes differ: A {:?}, B {:?}", a.dims, b.dims));
        }
        let n = b.dims[rank - 1];
        if let Some(bias) = inputs.get(2) {
            same_dtype(Self::NAME, ["bias", "A"], bias, a)?;
            shape(Self::NAME, "bias", bias, &[n])?;
        }
        let mut dims = a.dims;
        dims[rank - 1] = n;
        Ok(vec![Spec { dims: Dims::new(&dims)?, dtype: self.out }])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        let k = inputs[0].dims.last().copied().unwrap_or(0);
        Cost::streaming(2 * k * outputs[0].dims.count(), inputs, outputs)
    }

    fn saves(&self, needs: &[bool]) -> Saves {
        // dA reads B, dB reads A: a frozen weight costs no saved activation.
        Saves { inputs: u32::from(needs[1]) | u32::from(needs[0]) << 1, outputs: 0 }
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None; ctx.inputs()]) };
        let (a, b) = (ctx.input_spec(0), ctx.input_spec(1));
        let g = g.to_dtype(a.dtype)?;
        let product = |x: &Tensor, y: &Tensor, out| apply_one(Self { out }, &[x, y]);
        let da = if ctx.needs(0) { Some(product(&g, &ctx.input(1)?.t()?, a.dtype)?) } else { None };
        let db = if ctx.needs(1) { Some(product(&ctx.input(0)?.t()?, &g, b.dtype)?) } else { None };
        let mut all = vec![da, db];
        if ctx.inputs() == 3 {
            let rows: Vec<usize> = (0..g.rank() - 1).collect();
            all.push(if ctx.needs(2) { Some(g.sum(&rows)?) } else { None });
        }
        Ok(all)
    }
}

impl Tensor {
    /// `self · other` for stacks of matrices; leading dimensions broadcast. The result has their dtype.
    pub fn matmul(&self, other: &Self) -> Result<Self> {
        let (a, b) = (self.dims(), other.dims());
        if a.len() < 2 || b.len() < 2 {
            return Err(rule!("matmul", "A {a:?} and B {b:?} must both be matrices or stacks of them"));
        }
        // A stack of matrices times one matrix is one tall product.
        if b.len() == 2 && a.len() > 2 {
            let rows = a[..a.len() - 1].iter().product();
            let flat = self.reshape(&[rows, a[a.len() - 1]])?.matmul(other)?;
            let mut dims = a;
            dims[a.len() - 1] = b[1];
            return flat.reshape(&dims);
        }
        let batch = broadcast(&Dims::new(&a[..a.len() - 2])?, &Dims::new(&b[..b.len() - 2])?)?;
        let with = |d: &Dims| [&batch[..], &d[d.len() - 2..]].concat();
        apply_one(MatMul { out: self.dtype() }, &[&self.expand(&with(&a))?, &other.expand(&with(&b))?])
    }

    /// `self · weightᵀ (+ bias)` for `self [rows…, in]`, `weight [out, in]`, `bias [out]`: a linear layer in
    /// the layout of checkpoints. Weight and bias are converted to the dtype of `self` where they differ.
    pub fn linear(&self, weight: &Self, bias: Option<&Self>) -> Result<Self> {
        let dims = self.dims();
        let Some((&inner, lead)) = dims.split_last() else {
            return Err(rule!("linear", "the input [] is a scalar and has no rows"));
        };
        let (&[out, k], bias_dims) = (&*weight.dims(), bias.map(Self::dims)) else {
            return Err(rule!("linear", "the weight {:?} is no [out, in] matrix", weight.dims()));
        };
        if k != inner {
            return Err(rule!("linear", "the input {dims:?} does not fit the weight {:?}", weight.dims()));
        }
        if let Some(b) = bias_dims.filter(|b| **b != [out]) {
            return Err(rule!("linear", "the bias {b:?} does not fit the weight {:?}", weight.dims()));
        }
        let rows: usize = lead.iter().product();
        let x = self.reshape(&[rows, inner])?;
        let w = weight.to_dtype(self.dtype())?.t()?;
        let op = MatMul { out: self.dtype() };
        let y = match bias {
            Some(bias) => apply_one(op, &[&x, &w, &bias.to_dtype(self.dtype())?])?,
            None => apply_one(op, &[&x, &w])?,
        };
        y.reshape(&[lead, &[out]].concat())
    }
}
