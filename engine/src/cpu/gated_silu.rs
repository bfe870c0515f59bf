use super::binary::{Zip, zip};
use super::math::sigmoid;
use super::multiversion::multiversion;
use super::threads::Scatter;
use super::unary::function;
use super::walk::{Line, float_type, for_runs};
use crate::ops::{GatedSilu, GatedSiluGrad};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

function!(SiluTimes, |gate, up| gate * sigmoid(gate) * up, Zip);

impl Kernel<GatedSilu> for Cpu {
    fn run(&self, _: &GatedSilu, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (gate, up, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        float_type!(gate.dtype, T => zip::<T>(gate, up, out, SiluTimes))
    }
}

multiversion! {
    fn grad_line<T: Float>(gate: &[T], up: &[T], g: &[T], dgate: &mut [T], dup: &mut [T]) {
        for ((((dx, du), x), u), g) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(g) {
            let (x, u, g) = (x.to_f32(), u.to_f32(), g.to_f32());
            let s = sigmoid(x);
            *dx = T::from_f32(g * u * (s + x * s * (1.0 - s)));
            *du = T::from_f32(g * (x * s));
        }
    }
}

fn backward<T: Float>(inputs: &[Input<'_, Cpu>], outputs: &mut [Output<'_, Cpu>]) -> Result<()> {
    let [gate, up, g] = inputs else { unreachable!("three inputs by the rule") };
    let [dgate, dup] = outputs else { unreachable!("two outputs by the rule") };
    let (x, u, dy) = (gate.slice::<T>(), up.slice::<T>(), g.slice::<T>());
    let dgate = Scatter::new(dgate.slice_mut::<T>()?);
    let dup = Scatter::new(dup.slice_mut::<T>()?);
    let strides = [&gate.layout.strides, &up.layout.strides, &g.layout.strides];
    for_runs(&gate.layout.dims, strides, |run| {
        let (mut x, mut u, mut dy) = (Line::new(x, &run, 0), Line::new(u, &run, 1), Line::new(dy, &run, 2));
        for (start, len) in run.pieces() {
            let at = run.start + start;
            // SAFETY: runs do not overlap.
            let (dgate, dup) = unsafe { (dgate.slice(at, len), dup.slice(at, len)) };
            grad_line(x.part(start, len), u.part(start, len), dy.part(start, len), dgate, dup);
        }
    });
    Ok(())
}

impl Kernel<GatedSiluGrad> for Cpu {
    fn run(
        &self,
        _: &GatedSiluGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        float_type!(inputs[0].dtype, T => backward::<T>(inputs, outputs))
    }
}
