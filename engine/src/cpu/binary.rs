use super::threads::Scatter;
use super::walk::{Run, float_type, for_runs};
use crate::ops::{Binary, BinaryKind};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// `out = f(a, b)` in f32 over any strides.
pub(super) fn zip<T: Float>(
    a: &Input<'_, Cpu>,
    b: &Input<'_, Cpu>,
    out: &mut Output<'_, Cpu>,
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Result<()> {
    let (x, y) = (a.slice::<T>(), b.slice::<T>());
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_runs(&a.layout.dims, [&a.layout.strides, &b.layout.strides], |run| {
        let Run { start, len, at, step } = run;
        // SAFETY: runs do not overlap.
        let out = unsafe { out.slice(start, len) };
        match step {
            [1, 1] => {
                for ((z, x), y) in out.iter_mut().zip(&x[at[0]..at[0] + len]).zip(&y[at[1]..at[1] + len]) {
                    *z = T::from_f32(f(x.to_f32(), y.to_f32()));
                }
            }
            [1, 0] => {
                let y = y[at[1]].to_f32();
                for (z, x) in out.iter_mut().zip(&x[at[0]..at[0] + len]) {
                    *z = T::from_f32(f(x.to_f32(), y));
                }
            }
            _ => {
                for (i, z) in out.iter_mut().enumerate() {
                    *z = T::from_f32(f(x[at[0] + i * step[0]].to_f32(), y[at[1] + i * step[1]].to_f32()));
                }
            }
        }
    });
    Ok(())
}

impl Kernel<Binary> for Cpu {
    fn run(&self, op: &Binary, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (a, b, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        float_type!(a.dtype, T => match op.kind {
            BinaryKind::Add => zip::<T>(a, b, out, |x, y| x + y),
            BinaryKind::Sub => zip::<T>(a, b, out, |x, y| x - y),
            BinaryKind::Mul => zip::<T>(a, b, out, |x, y| x * y),
            BinaryKind::Div => zip::<T>(a, b, out, |x, y| x / y),
        })
    }
}
