use super::cast::convert_run;
use super::rms_norm::row_offset;
use super::rope::{Angles, turn_head};
use super::rows::{copy_row, flat};
use super::threads::Scatter;
use super::walk::{float_type, for_row_blocks};
use crate::ops::RopeWrite;
use crate::{Cpu, Float, Input, Kernel, Layout, Output, Result};

/// A target and how it lies.
struct Target<'a, O> {
    data: Scatter<O>,
    layout: &'a Layout,
}

impl<O: Float> Target<'_, O> {
    /// Puts a head, converted.
    ///
    /// # Safety
    /// No two threads put the same row.
    unsafe fn put<T: Float>(&self, row: usize, head: &[T]) {
        let (at, step) = (row_offset(self.layout, row), self.layout.strides[3]);
        if step != 1 {
            for (i, x) in head.iter().enumerate() {
                // SAFETY: passed on; a target has no two elements at one place (checked by `apply_in_place`).
                convert_run(std::slice::from_ref(x), unsafe { self.data.slice(at + i * step, 1) });
            }
            return;
        }
        // SAFETY: as above.
        let out = unsafe { self.data.slice(at, head.len()) };
        if T::DTYPE == O::DTYPE {
            out.copy_from_slice(bytemuck::cast_slice(head));
        } else {
            convert_run(head, out);
        }
    }
}

fn rope_write<T: Float, O: Float>(
    op: &RopeWrite,
    inputs: &[Input<'_, Cpu>],
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let [b, s, _, d] = inputs[0].layout.dims[..] else { unreachable!("four dimensions by the rule") };
    let positions = flat::<u32>(&inputs[3]);
    let angles = Angles::new(op.theta, d, &positions, false);
    let mut targets = Vec::with_capacity(3);
    for out in outputs.iter_mut() {
        let layout = out.layout;
        targets.push(Target { data: Scatter::new(out.slice_mut::<O>()?), layout });
    }
    let heads: usize = inputs[..3].iter().map(|x| x.layout.dims[2]).sum();
    for_row_blocks(b * s, heads * d, |first, count| {
        let (mut cos, mut sin) = (vec![0.0f32; d / 2], vec![0.0f32; d / 2]);
        let (mut head, mut turned) = (vec![T::zeroed(); d], vec![T::zeroed(); d]);
        for r in first..first + count {
            angles.take::<T>(positions[r], &mut cos, &mut sin);
            for (i, (x, target)) in inputs.iter().zip(&targets).enumerate() {
                let (heads, data) = (x.layout.dims[2], x.slice::<T>());
                for row in r * heads..(r + 1) * heads {
                    copy_row(data, row_offset(x.layout, row), x.layout.strides[3], &mut head);
                    let values = i == 2;
                    if !values {
                        turn_head(op.kind, &head, &cos, &sin, &mut turned);
                    }
                    // SAFETY: each task has its own tokens.
                    unsafe { target.put(row, if values { &head } else { &turned }) };
                }
            }
        }
    });
    Ok(())
}

impl Kernel<RopeWrite> for Cpu {
    fn run(
        &self,
        op: &RopeWrite,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        if inputs[..3].iter().all(|x| x.layout.count() == 0) {
            return Ok(());
        }
        float_type!(inputs[0].dtype, T => float_type!(outputs[0].dtype, O => rope_write::<T, O>(op, inputs, outputs)))
    }
}
