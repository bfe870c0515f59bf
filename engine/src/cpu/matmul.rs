use half::bf16;

use super::threads::{Scatter, parallel_for};
use crate::ops::MatMul;
use crate::{Cpu, DType, Float, Input, Kernel, Output, Result};

fn product<T: Float, O: Float>(inputs: &[Input<'_, Cpu>], out: &mut Output<'_, Cpu>) -> Result<()> {
    let (a, b) = (&inputs[0], &inputs[1]);
    let rank = a.layout.dims.len();
    let (m, k, n) = (a.layout.dims[rank - 2], a.layout.dims[rank - 1], b.layout.dims[rank - 1]);
    let (x, y) = (a.slice::<T>(), b.slice::<T>());
    let bias = inputs.get(2).map(|b| (b.slice::<T>(), b.layout.strides[0]));
    let dims = out.layout.dims;
    let out = Scatter::new(out.slice_mut::<O>()?);
    parallel_for(dims[..rank - 1].iter().product(), |row| {
        let (mut batch, i) = (row / m, row % m);
        let (mut at, mut bt) = (i * a.layout.strides[rank - 2], 0);
        for d in (0..rank - 2).rev() {
            at += batch % dims[d] * a.layout.strides[d];
            bt += batch % dims[d] * b.layout.strides[d];
            batch /= dims[d];
        }
        // SAFETY: one row a task.
        let out = unsafe { out.slice(row * n, n) };
        for (j, out) in out.iter_mut().enumerate() {
            let mut sum = 0.0;
            for l in 0..k {
                sum += x[at + l * a.layout.strides[rank - 1]].to_f32()
                    * y[bt + l * b.layout.strides[rank - 2] + j * b.layout.strides[rank - 1]].to_f32();
            }
            *out = O::from_f32(sum + bias.map_or(0.0, |(b, s)| b[j * s].to_f32()));
        }
    });
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
