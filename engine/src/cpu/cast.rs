use half::bf16;

use super::multiversion::multiversion;
use super::threads::Scatter;
use super::walk::{Line, any_type, for_runs};
use crate::ops::Cast;
use crate::{Cpu, DType, Element, Float, Input, Kernel, Output, Result};

/// Conversion of one element. Floats go by way of f32 (every float type here fits in it), integers by way
/// of f64, which holds all of them exactly.
#[inline(always)]
fn convert<A: Element, B: Element>(x: A) -> B {
    B::from_f64(x.to_f64())
}

fn cast<A: Element, B: Element>(x: &Input<'_, Cpu>, out: &mut Output<'_, Cpu>) -> Result<()> {
    let data = x.slice::<A>();
    let out = Scatter::new(out.slice_mut::<B>()?);
    for_runs(&x.layout.dims, [&x.layout.strides], |run| {
        // SAFETY: runs do not overlap.
        let out = unsafe { out.slice(run.start, run.len) };
        let (at, step) = (run.at[0], run.step[0]);
        if A::DTYPE == B::DTYPE && step == 1 {
            out.copy_from_slice(bytemuck::cast_slice(&data[at..at + run.len]));
        } else if step == 1 {
            convert_run(&data[at..at + run.len], out);
        } else if A::DTYPE == B::DTYPE {
            for (i, y) in out.iter_mut().enumerate() {
                *y = bytemuck::cast(data[at + i * step]);
            }
        } else {
            let mut line = Line::new(data, &run, 0);
            for (start, len) in run.pieces() {
                convert_run(line.part(start, len), &mut out[start..start + len]);
            }
        }
    });
    Ok(())
}

multiversion! {
    fn narrow(x: &[f32], out: &mut [bf16]) {
        out.iter_mut().zip(x).for_each(|(y, &x)| *y = Float::from_f32(x));
    }
}

multiversion! {
    fn widen(x: &[bf16], out: &mut [f32]) {
        out.iter_mut().zip(x).for_each(|(y, &x)| *y = Float::to_f32(x));
    }
}

multiversion! {
    fn convert_line<A: Element, B: Element>(x: &[A], out: &mut [B]) {
        out.iter_mut().zip(x).for_each(|(y, &x)| *y = convert(x));
    }
}

/// Contiguous conversion; f32 to bf16 and back are the hot pairs and do without f64.
pub(super) fn convert_run<A: Element, B: Element>(x: &[A], out: &mut [B]) {
    match (A::DTYPE, B::DTYPE) {
        (DType::F32, DType::BF16) => narrow(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(out)),
        (DType::BF16, DType::F32) => widen(bytemuck::cast_slice(x), bytemuck::cast_slice_mut(out)),
        _ => convert_line(x, out),
    }
}

impl Kernel<Cast> for Cpu {
    fn run(&self, _: &Cast, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, out) = (&inputs[0], &mut outputs[0]);
        any_type!(x.dtype, A => any_type!(out.dtype, B => cast::<A, B>(x, out)))
    }
}
