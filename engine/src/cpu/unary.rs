use super::threads::Scatter;
use super::walk::{float_type, for_runs};
use crate::ops::{Unary, UnaryKind};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// `out = f(x)` in f32 over any strides.
pub(super) fn map<T: Float>(
    x: &Input<'_, Cpu>,
    out: &mut Output<'_, Cpu>,
    f: impl Fn(f32) -> f32 + Sync,
) -> Result<()> {
    let data = x.slice::<T>();
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_runs(&x.layout.dims, [&x.layout.strides], |run| {
        // SAFETY: runs do not overlap.
        let out = unsafe { out.slice(run.start, run.len) };
        if run.step[0] == 1 {
            for (y, x) in out.iter_mut().zip(&data[run.at[0]..run.at[0] + run.len]) {
                *y = T::from_f32(f(x.to_f32()));
            }
        } else {
            for (i, y) in out.iter_mut().enumerate() {
                *y = T::from_f32(f(data[run.at[0] + i * run.step[0]].to_f32()));
            }
        }
    });
    Ok(())
}

impl Kernel<Unary> for Cpu {
    fn run(&self, op: &Unary, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, out) = (&inputs[0], &mut outputs[0]);
        float_type!(x.dtype, T => match op.kind {
            UnaryKind::Exp => map::<T>(x, out, f32::exp),
            UnaryKind::Ln => map::<T>(x, out, f32::ln),
            UnaryKind::Sqrt => map::<T>(x, out, f32::sqrt),
            UnaryKind::Tanh => map::<T>(x, out, f32::tanh),
            UnaryKind::Sigmoid => map::<T>(x, out, |x| 1.0 / (1.0 + (-x).exp())),
            UnaryKind::Relu => map::<T>(x, out, |x| if x > 0.0 || x.is_nan() { x } else { 0.0 }),
            UnaryKind::Step => map::<T>(x, out, |x| f32::from(u8::from(x > 0.0))),
        })
    }
}
