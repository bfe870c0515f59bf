use std::borrow::Cow;

use super::flash::{self, Params, View};
use super::rows::flat;
use super::walk::float_type;
use crate::ops::{Attention, AttentionGrad};
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// `[B, S, H, D]` with contiguous rows: the tensor itself, or a copy that `room` holds.
fn view<'a, T: Float>(x: &Input<'a, Cpu>, room: &'a mut Cow<'a, [T]>) -> View<'a, T> {
    let ([b, s, h, d], [to_b, to_s, to_h, step]) = (&x.layout.dims[..], &x.layout.strides[..]) else {
        unreachable!("four dimensions by the rule")
    };
    let shape = [*b, *s, *h, *d];
    if *step == 1 {
        return View::new(x.slice(), shape, [*to_b, *to_s, *to_h]);
    }
    *room = flat(x);
    View::contiguous(room, shape)
}

fn forward<T: Float>(
    params: Params,
    inputs: &[Input<'_, Cpu>],
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let mut room = [const { Cow::Borrowed(&[] as &[T]) }; 3];
    let [q, k, v] = &mut room;
    let (q, k, v) = (view(&inputs[0], q), view(&inputs[1], k), view(&inputs[2], v));
    let mask = inputs.get(3).map(flat::<u8>);
    let [out, lse] = outputs else { unreachable!("two outputs by the rule") };
    flash::forward(params, q, k, v, mask.as_deref(), out.slice_mut::<T>()?, lse.slice_mut::<f32>()?);
    Ok(())
}

impl Kernel<Attention> for Cpu {
    fn run(
        &self,
        op: &Attention,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let params = Params { scale: op.scale, causal: op.causal };
        float_type!(inputs[0].dtype, T => forward::<T>(params, inputs, outputs))
    }
}

fn backward<T: Float>(
    params: Params,
    inputs: &[Input<'_, Cpu>],
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let mut room = [const { Cow::Borrowed(&[] as &[T]) }; 4];
    let [q, k, v, g] = &mut room;
    let (q, k, v, g) = (view(&inputs[0], q), view(&inputs[1], k), view(&inputs[2], v), view(&inputs[5], g));
    let (out, lse) = (flat::<T>(&inputs[3]), flat::<f32>(&inputs[4]));
    let mask = inputs.get(6).map(flat::<u8>);
    let [dq, dk, dv] = outputs else { unreachable!("three outputs by the rule") };
    let (dq, dk, dv) = (dq.slice_mut()?, dk.slice_mut()?, dv.slice_mut()?);
    flash::backward(params, q, k, v, mask.as_deref(), &out, &lse, g, dq, dk, dv);
    Ok(())
}

impl Kernel<AttentionGrad> for Cpu {
    fn run(
        &self,
        op: &AttentionGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let params = Params { scale: op.scale, causal: op.causal };
        float_type!(inputs[0].dtype, T => backward::<T>(params, inputs, outputs))
    }
}
