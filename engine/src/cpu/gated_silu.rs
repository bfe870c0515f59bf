use super::binary::zip;
use super::threads::Scatter;
use super::walk::{float_type, for_runs};
use crate::ops::{GatedSilu, GatedSiluGrad};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

impl Kernel<GatedSilu> for Cpu {
    fn run(&self, _: &GatedSilu, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (gate, up, out) = (&inputs[0], &inputs[1], &mut outputs[0]);
        float_type!(gate.dtype, T => zip::<T>(gate, up, out, |x, u| x / (1.0 + (-x).exp()) * u))
    }
}

fn backward<T: Float>(inputs: &[Input<'_, Cpu>], outputs: &mut [Output<'_, Cpu>]) -> Result<()> {
    let [gate, up, g] = inputs else { unreachable!("three inputs by the rule") };
    let [dgate, dup] = outputs else { unreachable!("two outputs by the rule") };
    let (xs, us, gs) = (gate.slice::<T>(), up.slice::<T>(), g.slice::<T>());
    let dgate = Scatter::new(dgate.slice_mut::<T>()?);
    let dup = Scatter::new(dup.slice_mut::<T>()?);
    let strides = [&gate.layout.strides, &up.layout.strides, &g.layout.strides];
    for_runs(&gate.layout.dims, strides, |run| {
        // SAFETY: runs do not overlap.
        let (dgate, dup) = unsafe { (dgate.slice(run.start, run.len), dup.slice(run.start, run.len)) };
        for i in 0..run.len {
            let x = xs[run.at[0] + i * run.step[0]].to_f32();
            let u = us[run.at[1] + i * run.step[1]].to_f32();
            let g = gs[run.at[2] + i * run.step[2]].to_f32();
            let s = 1.0 / (1.0 + (-x).exp());
            dgate[i] = T::from_f32(g * u * s * (1.0 + x * (1.0 - s)));
            dup[i] = T::from_f32(g * x * s);
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
