//! Several linear layers over 4-bit weights that read the same input.

use crate::Tensor;
use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply, apply_one};
use crate::ops::LinearNf4Grad;
use crate::ops::dequantize_blockwise::quantized_inputs;
use crate::ops::linear_nf4::check_rows;
use crate::quantized::{BlockFormat, Quantized};

/// `yᵢ = x·Wᵢᵀ` for `x [rows, in]` (f32 or bf16) and quantised weights `Wᵢ [outᵢ, in]`, each as
/// [`LinearNf4`](crate::ops::LinearNf4) without bias and adapter computes it. For a single row the weights are one
/// walk through memory: q, k and v of a decode step, or gate and up.
///
/// Inputs: x, then of each weight codes, absmax, with nested scales their absmax and map. Outputs: `yᵢ [rows, outᵢ]`.
#[derive(Clone, Debug)]
pub struct LinearNf4Group {
    /// Layout and rows of each weight.
    pub weights: Vec<(BlockFormat, usize)>,
}

/// Tensors of a weight.
fn parts(format: &BlockFormat) -> usize {
    if format.nested.is_some() { 4 } else { 2 }
}

impl LinearNf4Group {
    /// Layout and rows of each weight, and its first input.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&BlockFormat, usize, usize)> {
        self.weights.iter().scan(1, |next, (format, outer)| {
            let at = *next;
            *next += parts(format);
            Some((format, *outer, at))
        })
    }
}

impl Op for LinearNf4Group {
    const NAME: &'static str = "linear_nf4_group";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        let all = 1 + self.weights.iter().map(|(format, _)| parts(format)).sum::<usize>();
        if inputs.len() != all || all > 32 || self.weights.is_empty() {
            return Err(rule!(
                Self::NAME,
                "takes {all} tensors for {} weights (at least one, and not more tensors than 32), got {}",
                self.weights.len(),
                inputs.len()
            ));
        }
        let x = &inputs[0];
        check_rows(Self::NAME, "x", x)?;
        self.places()
            .map(|(format, outer, at)| {
                if format.codebook.bits() != 4 {
                    return Err(rule!(Self::NAME, "a weight of {} codes", format.codebook.name()));
                }
                quantized_inputs(Self::NAME, format, outer * x.dims[1], &inputs[at..])?;
                Spec::new(&[x.dims[0], outer], x.dtype)
            })
            .collect()
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        let outer: usize = self.weights.iter().map(|(_, outer)| outer).sum();
        Cost::streaming(2 * inputs[0].dims[0] * inputs[0].dims[1] * outer, inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves { inputs: !1, outputs: 0 }
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let mut all = vec![None; ctx.inputs()];
        let inner = ctx.input_spec(0).dims[1];
        for ((format, _, at), dy) in self.places().zip(grads) {
            let Some(dy) = dy.as_ref().filter(|_| ctx.needs(0)) else { continue };
            let op = LinearNf4Grad { format: *format, inner, x: true, lora: None, factors: false };
            let weight = (at..at + parts(format)).map(|i| ctx.input(i)).collect::<Result<Vec<_>>>()?;
            let inputs: Vec<&Tensor> = [dy].into_iter().chain(&weight).collect();
            let dx = apply_one(op, &inputs)?;
            all[0] = Some(match all[0].take() {
                Some(sum) => dx.add(&sum)?,
                None => dx,
            });
        }
        Ok(all)
    }
}

impl Tensor {
    /// `self · weightᵀ` for each of `weights`, for `self [rows…, in]` in f32 or bf16: [`LinearNf4Group`].
    pub fn linear_nf4_group(&self, weights: &[&Quantized]) -> Result<Vec<Self>> {
        let dims = self.dims();
        let Some((&inner, lead)) = dims.split_last() else {
            return Err(rule!("linear_nf4_group", "the input [] is a scalar and has no rows"));
        };
        if let Some(weight) = weights.iter().find(|w| w.dims()[1] != inner) {
            return Err(rule!(
                "linear_nf4_group",
                "the input {dims:?} does not fit the weight {:?}",
                weight.dims()
            ));
        }
        let x = self.reshape(&[lead.iter().product(), inner])?;
        let op =
            LinearNf4Group { weights: weights.iter().map(|w| (w.parts().format, w.dims()[0])).collect() };
        let mut inputs = vec![&x];
        inputs.extend(weights.iter().flat_map(|w| w.tensors()));
        let ys = apply(op, &inputs)?.into_iter().zip(weights);
        ys.map(|(y, w)| y.reshape(&[lead, &[w.dims()[0]]].concat())).collect()
    }
}
