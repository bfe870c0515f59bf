use super::cast::convert_run;
use super::threads::Scatter;
use super::walk::{any_type, for_runs};
use crate::ops::Write;
use crate::{Cpu, Element, Input, Kernel, Output, Result};

pub(super) fn write<A: Element, B: Element>(x: &Input<'_, Cpu>, out: &mut Output<'_, Cpu>) -> Result<()> {
    let data = x.slice::<A>();
    let (dims, strides) = (out.layout.dims, out.layout.strides);
    let out = Scatter::new(out.slice_mut::<B>()?);
    // The target's strides are walked as if it were a second input.
    for_runs(&dims, [&x.layout.strides, &strides], |run| {
        let [from, to] = run.at;
        match run.step {
            [1, 1] => {
                // SAFETY: a target has no two elements at one place (checked by `apply_in_place`).
                let out = unsafe { out.slice(to, run.len) };
                convert_run(&data[from..from + run.len], out);
            }
            [a, b] => {
                for i in 0..run.len {
                    // SAFETY: as above.
                    let y = unsafe { out.slice(to + i * b, 1) };
                    convert_run(&data[from + i * a..=from + i * a], y);
                }
            }
        }
    });
    Ok(())
}

impl Kernel<Write> for Cpu {
    fn run(&self, _: &Write, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (x, out) = (&inputs[0], &mut outputs[0]);
        any_type!(x.dtype, A => any_type!(out.dtype, B => write::<A, B>(x, out)))
    }
}
