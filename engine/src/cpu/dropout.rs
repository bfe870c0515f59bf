use super::multiversion::multiversion;
use super::threads::Scatter;
use super::walk::{Line, float_type, for_runs};
use crate::ops::Dropout;
use crate::{Cpu, Float, Input, Kernel, Output, Result};

multiversion! {
    /// `out = dropout(x)` for elements `first ..` of a tensor.
    pub(super) fn drop_line<T: Float>(op: &Dropout, first: usize, x: &[T], out: &mut [T]) {
        let (threshold, scale) = (op.threshold(), op.scale());
        for (i, (y, x)) in out.iter_mut().zip(x).enumerate() {
            let keep = op.hash((first + i) as u32) >= threshold;
            *y = T::from_f32(if keep { x.to_f32() * scale } else { 0.0 });
        }
    }
}

multiversion! {
    /// `out += dropout(x)`, a sum in f32.
    pub(super) fn add_dropped<T: Float>(op: &Dropout, first: usize, x: &[T], out: &mut [T]) {
        let (threshold, scale) = (op.threshold(), op.scale());
        for (i, (y, x)) in out.iter_mut().zip(x).enumerate() {
            let keep = op.hash((first + i) as u32) >= threshold;
            *y = T::from_f32(y.to_f32() + if keep { x.to_f32() * scale } else { 0.0 });
        }
    }
}

impl Kernel<Dropout> for Cpu {
    fn run(&self, op: &Dropout, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, out) = (&inputs[0], &mut outputs[0]);
        float_type!(x.dtype, T => {
            let data = x.slice::<T>();
            let out = Scatter::new(out.slice_mut::<T>()?);
            for_runs(&x.layout.dims, [&x.layout.strides], |run| {
                let mut line = Line::new(data, &run, 0);
                for (start, len) in run.pieces() {
                    // SAFETY: runs do not overlap.
                    let out = unsafe { out.slice(run.start + start, len) };
                    drop_line(op, run.start + start, line.part(start, len), out);
                }
            });
            Ok(())
        })
    }
}
