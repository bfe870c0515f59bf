use super::adamw::Factors;
use super::dynamic::{Dynamic, SIGNED, UNSIGNED, absmax};
use super::multiversion::multiversion;
use super::threads::{Scatter, parallel_for};
use super::walk::GRAIN;
use crate::ops::AdamW8bit;
use crate::{Cpu, Float, Input, Kernel, Output, Result};
use half::bf16;

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

/// A parameter with its state.
struct Parameter<'a, P, G> {
    p: Scatter<P>,
    m: Scatter<u8>,
    v: Scatter<u8>,
    absmax_m: Scatter<f32>,
    absmax_v: Scatter<f32>,
    g: &'a [G],
}

/// All parameters of these types, cut into tasks together.
fn update<P: Float, G: Float>(
    factors: &Factors,
    inputs: &[Input<'_, Cpu>],
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let maps = Maps { m: &SIGNED, v: &UNSIGNED };
    let mut all = Vec::new();
    for (targets, g) in outputs.as_chunks_mut::<5>().0.iter_mut().zip(inputs) {
        if targets[0].dtype != P::DTYPE || g.dtype != G::DTYPE {
            continue;
        }
        let [p, m, v, absmax_m, absmax_v] = targets;
        all.push(Parameter {
            p: Scatter::new(p.slice_mut::<P>()?),
            m: Scatter::new(m.slice_mut::<u8>()?),
            v: Scatter::new(v.slice_mut::<u8>()?),
            absmax_m: Scatter::new(absmax_m.slice_mut::<f32>()?),
            absmax_v: Scatter::new(absmax_v.slice_mut::<f32>()?),
            g: g.slice::<G>(),
        });
    }
    // A multiple of a block.
    let parts = |(i, one): (usize, &Parameter<P, G>)| (0..one.g.len()).step_by(GRAIN).map(move |at| (i, at));
    let tasks: Vec<(usize, usize)> = all.iter().enumerate().flat_map(parts).collect();
    parallel_for(tasks.len(), |task| {
        let (i, at) = tasks[task];
        let Parameter { p, m, v, absmax_m, absmax_v, g } = &all[i];
        let len = GRAIN.min(g.len() - at);
        let (first, blocks) = (at / BLOCK, len.div_ceil(BLOCK));
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
        step_blocks(p, &mut state, &g[at..at + len], factors, maps);
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
        AdamW8bit::contiguous(inputs.iter().map(|g| g.layout), outputs.iter().map(|t| t.layout))?;
        let factors = Factors::new(&op.0);
        update::<f32, f32>(&factors, inputs, outputs)?;
        update::<f32, bf16>(&factors, inputs, outputs)?;
        update::<bf16, f32>(&factors, inputs, outputs)?;
        update::<bf16, bf16>(&factors, inputs, outputs)
    }
}
