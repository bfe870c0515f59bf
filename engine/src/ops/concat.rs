//! Tensors joined along a dimension.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::layout::Dims;
use crate::op::{Cost, Op, Saves, Spec, apply_one};
use crate::ops::same_dtype;

/// The inputs one after the other along `axis`. They have one dtype, any, and agree in all other sizes.
#[derive(Clone, Debug)]
pub struct Concat {
    /// The dimension that grows.
    pub axis: usize,
}

impl Op for Concat {
    const NAME: &'static str = "concat";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        let (first, rest) =
            inputs.split_first().ok_or_else(|| rule!(Self::NAME, "takes at least 1 tensor, got 0"))?;
        if self.axis >= first.dims.len() {
            return Err(rule!(Self::NAME, "no dimension {} in {:?}", self.axis, first.dims));
        }
        let mut out = *first;
        for (i, part) in rest.iter().enumerate() {
            let what = format!("input {}", i + 1);
            same_dtype(Self::NAME, [&what, "input 0"], part, first)?;
            let mut like = first.dims;
            if part.dims.len() == like.len() {
                like[self.axis] = part.dims[self.axis];
            }
            if part.dims != like {
                return Err(rule!(
                    Self::NAME,
                    "{what} has shape {:?}, which differs from {:?} outside dimension {}",
                    part.dims,
                    first.dims,
                    self.axis
                ));
            }
            out.dims[self.axis] += part.dims[self.axis];
        }
        out.dims = Dims::new(&out.dims)?;
        Ok(vec![out])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(0, inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::NOTHING
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let Some(g) = &grads[0] else { return Ok(vec![None; ctx.inputs()]) };
        let mut start = 0;
        (0..ctx.inputs())
            .map(|i| {
                let len = ctx.input_spec(i).dims[self.axis];
                start += len;
                ctx.needs(i).then(|| g.narrow(self.axis, start - len, len)).transpose()
            })
            .collect()
    }
}

impl Tensor {
    /// `parts` one after the other along dimension `axis`.
    pub fn concat(parts: &[&Self], axis: usize) -> Result<Self> {
        apply_one(Concat { axis }, parts)
    }
}
