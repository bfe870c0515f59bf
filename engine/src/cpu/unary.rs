use super::math;
use super::multiversion::multiversion;
use super::threads::Scatter;
use super::walk::{Line, float_type, for_runs};
use crate::ops::{Unary, UnaryKind};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// A function of one element. A trait and not a closure, so that its body is sure to be inlined into the
/// loop of each instruction set.
pub(super) trait Map: Copy + Sync {
    fn at(self, x: f32) -> f32;
}

/// Gives a unit struct a function.
macro_rules! function {
    ($name:ident, |$($x:ident),+| $body:expr, $trait:ident) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl $trait for $name {
            #[inline(always)]
            fn at(self, $($x: f32),+) -> f32 {
                $body
            }
        }
    };
}
pub(super) use function;

multiversion! {
    fn map_line<T: Float, F: Map>(x: &[T], out: &mut [T], f: F) {
        for (y, x) in out.iter_mut().zip(x) {
            *y = T::from_f32(f.at(x.to_f32()));
        }
    }
}

/// `out = f(x)` in f32 over any strides.
pub(super) fn map<T: Float>(x: &Input<'_, Cpu>, out: &mut Output<'_, Cpu>, f: impl Map) -> Result<()> {
    let data = x.slice::<T>();
    let out = Scatter::new(out.slice_mut::<T>()?);
    for_runs(&x.layout.dims, [&x.layout.strides], |run| {
        let mut line = Line::new(data, &run, 0);
        for (start, len) in run.pieces() {
            // SAFETY: runs do not overlap.
            let out = unsafe { out.slice(run.start + start, len) };
            map_line(line.part(start, len), out, f);
        }
    });
    Ok(())
}

function!(Exp, |x| math::exp(x), Map);
function!(Ln, |x| x.ln(), Map);
function!(Sqrt, |x| x.sqrt(), Map);
function!(Tanh, |x| math::tanh(x), Map);
function!(Sigmoid, |x| math::sigmoid(x), Map);
// NaN stays.
function!(Relu, |x| if x < 0.0 { 0.0 } else { x }, Map);
function!(Step, |x| if x > 0.0 { 1.0 } else { 0.0 }, Map);

impl Kernel<Unary> for Cpu {
    fn run(&self, op: &Unary, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, out) = (&inputs[0], &mut outputs[0]);
        float_type!(x.dtype, T => match op.kind {
            UnaryKind::Exp => map::<T>(x, out, Exp),
            UnaryKind::Ln => map::<T>(x, out, Ln),
            UnaryKind::Sqrt => map::<T>(x, out, Sqrt),
            UnaryKind::Tanh => map::<T>(x, out, Tanh),
            UnaryKind::Sigmoid => map::<T>(x, out, Sigmoid),
            UnaryKind::Relu => map::<T>(x, out, Relu),
            UnaryKind::Step => map::<T>(x, out, Step),
        })
    }
}
