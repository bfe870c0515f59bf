//! A linear layer over a 4-bit weight, with its low-rank adapter.

use crate::autograd::GradContext;
use crate::error::{Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply};
use crate::ops::dequantize_blockwise::quantized_inputs;
use crate::ops::{Dropout, LinearNf4Grad, same_dtype, shape};
use crate::quantized::{BlockFormat, Quantized};
use crate::{DType, Tensor};

/// `y = x·Wᵀ (+ bias) (+ scale·(dropout(x)·Aᵀ)·Bᵀ)` for `x [rows, in]` (f32 or bf16), a quantised `W [out, in]`,
/// `bias [out]` of `x`'s type, `A [r, in]` and `B [out, r]` in f32 or `x`'s type (QLoRA, Dettmers et al. 2023).
///
/// `W` is expanded in registers and cache only, each value rounded once to `x`'s type (spec qlora §1.3, first row), in
/// prefill and decoding alike; sums are f32, rounded once. `A`, `scale·B` and the inner product `dropout(x)·Aᵀ` are
/// rounded to `x`'s type. Inputs: x, codes, absmax, with nested scales their absmax and map, bias, A, B. Outputs: y,
/// and with an adapter `dropout(x)·Aᵀ [rows, r]`, which the gradient of B reads.
#[derive(Clone, Copy, Debug)]
pub struct LinearNf4 {
    /// Layout of the weight.
    pub format: BlockFormat,
    /// Rows of the weight.
    pub outer: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// The adapter, if there is one.
    pub lora: Option<LoraTerm>,
}

/// The low-rank term of a layer (Hu et al. 2021, arXiv 2106.09685).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoraTerm {
    /// Factor of the term: α/r, or α/√r.
    pub scale: f32,
    /// Dropout of its input.
    pub dropout: Option<Dropout>,
}

/// Where the inputs of a [`LinearNf4`] stand.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    /// Tensors of the weight, from 1 on.
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
    pub(crate) a: Option<usize>,
    pub(crate) all: usize,
}

impl LinearNf4 {
    pub(crate) fn places(&self) -> Places {
        let weight = if self.format.nested.is_some() { 4 } else { 2 };
        let bias = self.bias.then_some(1 + weight);
        let after = 1 + weight + usize::from(self.bias);
        let a = self.lora.map(|_| after);
        Places { weight, bias, a, all: after + if self.lora.is_some() { 2 } else { 0 } }
    }
}

/// Checks adapter factors against `x [rows, in]` and `out`; returns the rank.
pub(crate) fn check_lora(
    op: &'static str,
    term: &LoraTerm,
    [a, b]: [&Spec; 2],
    x: &Spec,
    outer: usize,
) -> Result<usize> {
    for (what, factor) in [("A", a), ("B", b)] {
        if factor.dtype != DType::F32 && factor.dtype != x.dtype {
            return Err(rule!(op, "{what} is {}, expected f32 or {}", factor.dtype, x.dtype));
        }
    }
    let r = a.dims.first().copied().unwrap_or(0);
    if r == 0 {
        return Err(rule!(op, "A {:?} has no rows", a.dims));
    }
    shape(op, "A", a, &[r, x.dims[1]])?;
    shape(op, "B", b, &[outer, r])?;
    if !term.scale.is_finite() {
        return Err(rule!(op, "the adapter's scale is {}", term.scale));
    }
    term.dropout.map_or(Ok(()), |d| d.check(op))?;
    Ok(r)
}

/// Checks `x [rows, in]` of a type that products take.
pub(crate) fn check_rows(op: &'static str, what: &str, x: &Spec) -> Result<()> {
    if x.dims.len() != 2 || !matches!(x.dtype, DType::F32 | DType::BF16) {
        return Err(rule!(op, "{what} is {} {:?}, expected f32 or bf16 [rows, n]", x.dtype, x.dims));
    }
    Ok(())
}

impl Op for LinearNf4 {
    const NAME: &'static str = "linear_nf4";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        let places = self.places();
        if inputs.len() != places.all {
            return Err(rule!(Self::NAME, "takes {} tensors, got {}", places.all, inputs.len()));
        }
        let x = &inputs[0];
        check_rows(Self::NAME, "x", x)?;
        if self.format.codebook.bits() != 4 {
            return Err(rule!(Self::NAME, "a weight of {} codes", self.format.codebook.name()));
        }
        quantized_inputs(Self::NAME, &self.format, self.outer * x.dims[1], &inputs[1..])?;
        if let Some(bias) = places.bias {
            same_dtype(Self::NAME, ["bias", "x"], &inputs[bias], x)?;
            shape(Self::NAME, "bias", &inputs[bias], &[self.outer])?;
        }
        let rows = x.dims[0];
        let mut outputs = vec![Spec::new(&[rows, self.outer], x.dtype)?];
        if let (Some(term), Some(a)) = (&self.lora, places.a) {
            let r = check_lora(Self::NAME, term, [&inputs[a], &inputs[a + 1]], x, self.outer)?;
            outputs.push(Spec::new(&[rows, r], x.dtype)?);
        }
        Ok(outputs)
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        let (rows, inner) = (inputs[0].dims[0], inputs[0].dims[1]);
        let r = outputs.get(1).map_or(0, |h| h.dims[1]);
        Cost::streaming(2 * rows * (inner * self.outer + r * (inner + self.outer)), inputs, outputs)
    }

    fn saves(&self, needs: &[bool]) -> Saves {
        let places = self.places();
        // The weight for dx; for an adapter's gradients x, both factors, and the inner product.
        let mut inputs: u32 = (1..=places.weight).map(|i| 1 << i).sum();
        let mut outputs = 0;
        if let Some(a) = places.a {
            inputs |= 0b11 << a;
            if needs[a] || needs[a + 1] {
                inputs |= 1;
                outputs |= 0b10;
            }
        }
        Saves { inputs, outputs }
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        let places = self.places();
        let mut all = vec![None; places.all];
        let Some(dy) = &grads[0] else { return Ok(all) };
        let factors = places.a.is_some_and(|a| ctx.needs(a) || ctx.needs(a + 1));
        let op = LinearNf4Grad {
            format: self.format,
            inner: ctx.input_spec(0).dims[1],
            x: ctx.needs(0),
            lora: self.lora,
            factors,
        };
        let weight = (1..=places.weight).map(|i| ctx.input(i)).collect::<Result<Vec<_>>>()?;
        let mut inputs = vec![dy];
        inputs.extend(&weight);
        let lora = match places.a {
            Some(a) => vec![ctx.input(a)?, ctx.input(a + 1)?],
            None => Vec::new(),
        };
        inputs.extend(&lora);
        let saved = if factors { vec![ctx.input(0)?, ctx.output(1)?] } else { Vec::new() };
        inputs.extend(&saved);
        if op.x || op.factors {
            let mut outputs = apply(op, &inputs)?.into_iter();
            if op.x {
                all[0] = outputs.next();
            }
            if let (true, Some(a)) = (factors, places.a) {
                all[a] = outputs.next();
                all[a + 1] = outputs.next();
            }
        }
        if let Some(bias) = places.bias.filter(|&b| ctx.needs(b)) {
            all[bias] = Some(dy.sum(&[0])?);
        }
        Ok(all)
    }
}

/// A low-rank adapter of a linear layer, for [`Tensor::linear_nf4`].
#[derive(Clone, Copy)]
pub struct Lora<'a> {
    /// `[r, in]`
    pub a: &'a Tensor,
    /// `[out, r]`
    pub b: &'a Tensor,
    /// Factor and dropout.
    pub term: LoraTerm,
}

impl Tensor {
    /// `self · weightᵀ (+ bias) (+ adapter)` for `self [rows…, in]` in f32 or bf16 and a quantised weight `[out, in]`:
    /// [`LinearNf4`]. The bias is converted to the type of `self` where it differs.
    pub fn linear_nf4(
        &self,
        weight: &Quantized,
        bias: Option<&Self>,
        lora: Option<Lora<'_>>,
    ) -> Result<Self> {
        let dims = self.dims();
        let [outer, inner] = weight.dims();
        let Some((&last, lead)) = dims.split_last() else {
            return Err(rule!("linear_nf4", "the input [] is a scalar and has no rows"));
        };
        if last != inner {
            return Err(rule!(
                "linear_nf4",
                "the input {dims:?} does not fit the weight {:?}",
                weight.dims()
            ));
        }
        let rows: usize = lead.iter().product();
        let x = self.reshape(&[rows, inner])?;
        let bias = bias.map(|b| b.to_dtype(self.dtype())).transpose()?;
        let op = LinearNf4 {
            format: weight.parts().format,
            outer,
            bias: bias.is_some(),
            lora: lora.map(|lora| lora.term),
        };
        let mut inputs = vec![&x];
        inputs.extend(weight.tensors());
        inputs.extend(&bias);
        inputs.extend(lora.iter().flat_map(|lora| [lora.a, lora.b]));
        apply(op, &inputs)?.swap_remove(0).reshape(&[lead, &[outer]].concat())
    }
}
