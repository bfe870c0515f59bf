//! Values of block-wise codes.

use crate::error::{Result, rule};
use crate::layout::Dims;
use crate::op::{Cost, Op, Spec};
use crate::quantized::BlockFormat;
use crate::{DType, ops};

/// `table[code]·scale`, one f32 product, rounded once to `out`. Inputs: codes U8, absmax F32; or, with nested scales,
/// codes U8, absmax U8, their absmax F32 and map F32 `[256]`. (Spec qlora §1.3, §2.)
#[derive(Clone, Debug)]
pub struct DequantizeBlockwise {
    /// Layout of the codes.
    pub format: BlockFormat,
    /// Shape of the result.
    pub dims: Dims,
    /// Element type of the result.
    pub out: DType,
}

/// Checks the tensors of a quantised value of `n` elements; returns how many there are.
pub(crate) fn quantized_inputs(
    op: &'static str,
    format: &BlockFormat,
    n: usize,
    inputs: &[Spec],
) -> Result<usize> {
    let want = if format.nested.is_some() { 4 } else { 2 };
    if inputs.len() < want {
        return Err(rule!(op, "takes {want} tensors of a quantised value, got {}", inputs.len()));
    }
    if format.block < 2 || !format.block.is_multiple_of(2) || format.nested.is_some_and(|n| n.block == 0) {
        return Err(rule!(op, "{format:?} has no valid block"));
    }
    let bytes = if format.codebook.bits() == 4 { n.div_ceil(2) } else { n };
    let blocks = n.div_ceil(format.block);
    let mut wanted = vec![("codes", DType::U8, bytes)];
    match format.nested {
        None => wanted.push(("absmax", DType::F32, blocks)),
        Some(nested) => wanted.extend([
            ("absmax", DType::U8, blocks),
            ("nested absmax", DType::F32, blocks.div_ceil(nested.block)),
            ("nested map", DType::F32, 256),
        ]),
    }
    for ((what, dtype, count), spec) in wanted.iter().zip(inputs) {
        if spec.dtype != *dtype || *spec.dims != [*count] {
            return Err(rule!(op, "{what} is {} {:?}, expected {dtype} [{count}]", spec.dtype, spec.dims));
        }
    }
    Ok(want)
}

impl Op for DequantizeBlockwise {
    const NAME: &'static str = "dequantize_blockwise";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        let out = Spec { dims: self.dims, dtype: self.out };
        let n = quantized_inputs(Self::NAME, &self.format, self.dims.count(), inputs)?;
        ops::arity(Self::NAME, inputs, n)?;
        ops::float(Self::NAME, "the result", &out)?;
        Ok(vec![out])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        Cost::streaming(outputs[0].dims.count(), inputs, outputs)
    }
}
