use half::bf16;

use super::gemm::{BatchDim, GemmInput, Init, MatMut, MatRef, gemm_batched};
use super::rows::flat;
use crate::ops::MatMul;
use crate::{Cpu, DType, Float, Input, Kernel, Output, Result};

/// The last two dimensions as a matrix whose slice reaches over the whole stack.
fn matrix<'a, T: GemmInput>(x: &Input<'a, Cpu>) -> MatRef<'a, T> {
    let rank = x.layout.dims.len();
    let (dims, strides) = (&x.layout.dims[rank - 2..], &x.layout.strides[rank - 2..]);
    MatRef { data: x.slice(), rows: dims[0], cols: dims[1], rs: strides[0], cs: strides[1] }
}

fn product<T: GemmInput, O: Float>(inputs: &[Input<'_, Cpu>], out: &mut Output<'_, Cpu>) -> Result<()> {
    let bias = inputs.get(2).map(flat::<T>);
    let init = bias.as_deref().map_or(Init::Zero, Init::Bias);
    let lead = out.layout.dims.len() - 2;
    let mut batch: Vec<BatchDim> = (0..lead)
        .map(|d| BatchDim {
            count: out.layout.dims[d],
            a: inputs[0].layout.strides[d],
            b: inputs[1].layout.strides[d],
            c: out.layout.strides[d],
        })
        .filter(|dim| dim.count != 1)
        .collect();
    let mut a = matrix::<T>(&inputs[0]);
    // Matrices A that continue each other, all against one B, are one tall matrix.
    while let Some(dim) = batch.pop_if(|dim| dim.b == 0 && dim.a == a.rows * a.rs) {
        a.rows *= dim.count;
    }
    let (rows, cols) = (a.rows, out.layout.dims[lead + 1]);
    let c = MatMut::new(out.slice_mut::<O>()?, rows, cols);
    gemm_batched(a, matrix(&inputs[1]), c, init, &batch);
    Ok(())
}

impl Kernel<MatMul> for Cpu {
    fn run(&self, _: &MatMul, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let out = &mut outputs[0];
        match (inputs[0].dtype, out.dtype) {
            (DType::F32, DType::F32) => product::<f32, f32>(inputs, out),
            (DType::F32, DType::BF16) => product::<f32, bf16>(inputs, out),
            (DType::BF16, DType::F32) => product::<bf16, f32>(inputs, out),
            (DType::BF16, DType::BF16) => product::<bf16, bf16>(inputs, out),
            (a, c) => unreachable!("the operation's rule lets no {a} to {c} through"),
        }
    }
}
