use super::multiversion::multiversion;
use super::packed::{Packed, Scales};
use super::threads::{Scatter, parallel_for};
use super::walk::float_type;
use crate::ops::DequantizeBlockwise;
use crate::quantized::BlockFormat;
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// Elements of one task.
const GRAIN: usize = 1 << 15;

/// Scales of a quantised value: the inputs after its codes.
pub(super) fn scales<'a>(format: &BlockFormat, inputs: &[Input<'a, Cpu>]) -> Scales<'a> {
    match format.nested {
        None => Scales::Plain(inputs[0].slice()),
        Some(nested) => Scales::Nested {
            codes: inputs[0].slice(),
            absmax: inputs[1].slice(),
            map: inputs[2].slice().try_into().expect("256 values by the rule"),
            block: nested.block,
            offset: nested.offset,
        },
    }
}

/// The 4-bit weight `[rows, cols]` whose tensors are `inputs`; they are contiguous by the rule of `Quantized`.
pub(super) fn packed<'a>(
    format: &BlockFormat,
    inputs: &[Input<'a, Cpu>],
    rows: usize,
    cols: usize,
) -> Packed<'a> {
    Packed {
        codes: inputs[0].slice(),
        scales: scales(format, &inputs[1..]),
        block: format.block,
        table: format.codebook.values().try_into().expect("16 values of a 4-bit table"),
        rows,
        cols,
    }
}

multiversion! {
    fn expand<T: Float>(weight: &Packed<'_>, start: usize, out: &mut [T]) {
        weight.one_by_one(start, out);
    }
}

fn bytes<T: Float>(op: &DequantizeBlockwise, inputs: &[Input<'_, Cpu>], start: usize, out: &mut [T]) {
    let (codes, scales) = (inputs[0].slice::<u8>(), scales(&op.format, &inputs[1..]));
    let values = op.format.codebook.values();
    for (at, out) in (start..).zip(out) {
        *out = T::from_f32(values[usize::from(codes[at])] * scales.of(at / op.format.block));
    }
}

fn dequantize<T: Float>(
    op: &DequantizeBlockwise,
    inputs: &[Input<'_, Cpu>],
    out: &mut Output<'_, Cpu>,
) -> Result<()> {
    let n = op.dims.count();
    let out = Scatter::new(out.slice_mut::<T>()?);
    let four = (op.format.codebook.bits() == 4).then(|| packed(&op.format, inputs, 1, n));
    parallel_for(n.div_ceil(GRAIN), |task| {
        let start = task * GRAIN;
        // SAFETY: tasks have parts of their own.
        let out = unsafe { out.slice(start, GRAIN.min(n - start)) };
        match &four {
            Some(weight) => expand(weight, start, out),
            None => bytes(op, inputs, start, out),
        }
    });
    Ok(())
}

impl Kernel<DequantizeBlockwise> for Cpu {
    fn run(
        &self,
        op: &DequantizeBlockwise,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(op.out, T => dequantize::<T>(op, inputs, &mut outputs[0]))
    }
}
