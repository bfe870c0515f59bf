use super::adamw::Factors;
use super::dynamic::{Dynamic, SIGNED, UNSIGNED, absmax};
use super::multiversion::multiversion;
use super::threads::Scatter;
use super::walk::{for_row_blocks, parameter_type};
use crate::error::rule;
use crate::ops::AdamW8bit;
use crate::{Cpu, Float, Input, Kernel, Op, Output, Result};

const BLOCK: usize = AdamW8bit::BLOCK;

/// Moments of neighbouring blocks.
struct State<'a> {
    m: &'a mut [u8],
    v: &'a mut [u8],
    absmax_m: &'a mut [f32],
    absmax_v: &'a mut [f32],
}

/// The maps of both moments.
#[derive(Clone, Copy)]
struct Maps {
    m: &'static Dynamic,
    v: &'static Dynamic,
}

/// Codes of a block; returns its largest magnitude.
#[inline(always)]
fn encode(map: &Dynamic, values: &mut [f32], codes: &mut [u8]) -> f32 {
    let absmax = absmax(values);
    // A block of zeros is 0 whatever it is divided by.
    let by = if absmax > 0.0 { absmax } else { 1.0 };
    for x in values.iter_mut() {
        *x /= by;
    }
    map.nearest(values, codes);
    absmax
}

multiversion! {
    fn step_blocks<P: Float, G: Float>(
        p: &mut [P], state: &mut State<'_>, g: &[G], factors: &Factors, maps: Maps,
    ) {
        let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
        let codes = state.m.chunks_mut(BLOCK).zip(state.v.chunks_mut(BLOCK));
        let largest = state.absmax_m.iter_mut().zip(state.absmax_v.iter_mut());
        for (((p, g), (codes_m, codes_v)), (absmax_m, absmax_v)) in
            p.chunks_mut(BLOCK).zip(g.chunks(BLOCK)).zip(codes).zip(largest)
        {
            let (m, v) = (&mut m[..p.len()], &mut v[..p.len()]);
            maps.m.decode(codes_m, *absmax_m, m);
            maps.v.decode(codes_v, *absmax_v, v);
            for (((p, m), v), g) in p.iter_mut().zip(&mut *m).zip(&mut *v).zip(g) {
                let g = factors.scaled(g.to_f32());
                let (mut new_m, mut new_v) = (*m, *v);
                let new_p = P::from_f32(factors.step(p.to_f32(), &mut new_m, &mut new_v, g));
                let sound = (g * g).is_finite();
                *p = if sound { new_p } else { *p };
                *m = if sound { new_m } else { 0.0 };
                *v = if sound { new_v } else { 0.0 };
            }
            *absmax_m = encode(maps.m, m, codes_m);
            *absmax_v = encode(maps.v, v, codes_v);
        }
    }
}

fn update<P: Float, G: Float>(
    op: &AdamW8bit,
    g: &Input<'_, Cpu>,
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let factors = Factors::new(&op.0);
    let maps = Maps { m: &SIGNED, v: &UNSIGNED };
    let [p, m, v, absmax_m, absmax_v] = outputs else { unreachable!("five targets by the rule") };
    let (p, g) = (p.slice_mut::<P>()?, g.slice::<G>());
    let count = p.len();
    let p = Scatter::new(p);
    let (m, v) = (Scatter::new(m.slice_mut::<u8>()?), Scatter::new(v.slice_mut::<u8>()?));
    let absmax_m = Scatter::new(absmax_m.slice_mut::<f32>()?);
    let absmax_v = Scatter::new(absmax_v.slice_mut::<f32>()?);
    for_row_blocks(count.div_ceil(BLOCK), BLOCK, |first, blocks| {
        let at = first * BLOCK;
        let len = (blocks * BLOCK).min(count - at);
        // SAFETY: every task has blocks of its own.
        let (p, mut state) = unsafe {
            let state = State {
                m: m.slice(at, len),
                v: v.slice(at, len),
                absmax_m: absmax_m.slice(first, blocks),
                absmax_v: absmax_v.slice(first, blocks),
            };
            (p.slice(at, len), state)
        };
        step_blocks(p, &mut state, &g[at..at + len], &factors, maps);
    });
    Ok(())
}

impl Kernel<AdamW8bit> for Cpu {
    fn run(
        &self,
        op: &AdamW8bit,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let g = &inputs[0];
        let names = ["p", "m", "v", "absmax_m", "absmax_v", "g"];
        let layouts = outputs.iter().map(|o| o.layout).chain([g.layout]);
        if let Some((name, layout)) = names.iter().zip(layouts).find(|(_, layout)| !layout.is_contiguous()) {
            return Err(rule!(
                AdamW8bit::NAME,
                "{name} {:?} has strides {:?}; blocks are of elements that lie side by side",
                layout.dims,
                layout.strides
            ));
        }
        parameter_type!(outputs[0].dtype, P => parameter_type!(g.dtype, G => update::<P, G>(op, g, outputs)))
    }
}
