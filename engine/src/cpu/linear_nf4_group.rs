use super::dequantize_blockwise::packed;
use super::gemm::{GemmInput, MatMut, MatRef, gemm_group};
use crate::ops::LinearNf4Group;
use crate::{Cpu, DType, Input, Kernel, Output, Result};

fn forward<T: GemmInput>(
    op: &LinearNf4Group,
    inputs: &[Input<'_, Cpu>],
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let x = &inputs[0];
    let (rows, inner, strides) = (x.layout.dims[0], x.layout.dims[1], &x.layout.strides);
    let a = MatRef { data: x.slice::<T>(), rows, cols: inner, rs: strides[0], cs: strides[1] };
    let weights: Vec<_> =
        op.places().map(|(format, outer, at)| packed(format, &inputs[at..], outer, inner)).collect();
    let outs = outputs.iter_mut().zip(&weights);
    let outs = outs.map(|(out, w)| Ok(MatMut::new(out.slice_mut::<T>()?, rows, w.rows)));
    gemm_group(a, &weights, outs.collect::<Result<_>>()?);
    Ok(())
}

impl Kernel<LinearNf4Group> for Cpu {
    fn run(
        &self,
        op: &LinearNf4Group,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        match inputs[0].dtype {
            DType::BF16 => forward::<half::bf16>(op, inputs, outputs),
            _ => forward::<f32>(op, inputs, outputs),
        }
    }
}
