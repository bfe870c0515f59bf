use super::multiversion::multiversion;
use super::threads::Scatter;
use super::unary::function;
use super::walk::{Line, float_type, for_runs};
use crate::ops::{Binary, BinaryKind};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// A function of two elements; a trait for the reason that [`Map`](super::unary::Map) is one.
pub(super) trait Zip: Copy + Sync {
    fn at(self, a: f32, b: f32) -> f32;
}

multiversion! {
    fn zip_line<T: Float, F: Zip>(a: &[T], b: &[T], out: &mut [T], f: F) {
        for ((y, a), b) in out.iter_mut().zip(a).zip(b) {
            *y = T::from_f32(f.at(a.to_f32(), b.to_f32()));
        }
    }
}

/// `out = f(a, b)` in f32 over any strides.
pub(super) fn zip<T: Float>(
    a: &Input<'_, Cpu>,
    b: &Input<'_, Cpu>,
    out: &mut Output<'_, Cpu>,
    f: impl Zip,
) -> Result<()> {
    let (x, y) = (a.slice::<T>(), b.slice::<T>());
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_runs(&a.layout.dims, [&a.layout.strides, &b.layout.strides], |run| {
        let (mut x, mut y) = (Line::new(x, &run, 0), Line::new(y, &run, 1));
        for (start, len) in run.pieces() {
            // SAFETY: runs do not overlap.
            let out = unsafe { out.slice(run.start + start, len) };
            zip_line(x.part(start, len), y.part(start, len), out, f);
        }
    });
    Ok(())
}

function!(Add, |a, b| a + b, Zip);
function!(Sub, |a, b| a - b, Zip);
function!(Mul, |a, b| a * b, Zip);
function!(Div, |a, b| a / b, Zip);

impl Kernel<Binary> for Cpu {
    fn run(&self, op: &Binary, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (a, b, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        float_type!(a.dtype, T => match op.kind {
            BinaryKind::Add => zip::<T>(a, b, out, Add),
            BinaryKind::Sub => zip::<T>(a, b, out, Sub),
            BinaryKind::Mul => zip::<T>(a, b, out, Mul),
            BinaryKind::Div => zip::<T>(a, b, out, Div),
        })
    }
}
