use super::multiversion::multiversion;
use super::threads::Scatter;
use super::walk::{for_runs, parameter_type};
use crate::ops::Sgd;
use crate::{Cpu, Float, Input, Kernel, Output, Result};

/// What the update multiplies with, rounded once.
#[derive(Clone, Copy)]
struct Factors {
    grad_scale: f32,
    weight_decay: f32,
    momentum: f32,
    minus_lr: f32,
}

impl Factors {
    #[inline(always)]
    fn gradient(&self, p: f32, g: f32) -> f32 {
        g * self.grad_scale + self.weight_decay * p
    }
}

multiversion! {
    fn plain_run<P: Float, G: Float>(p: &mut [P], g: &[G], f: Factors) {
        for (p, g) in p.iter_mut().zip(g) {
            let old = p.to_f32();
            *p = P::from_f32(old + f.minus_lr * f.gradient(old, g.to_f32()));
        }
    }
}

multiversion! {
    fn momentum_run<P: Float, G: Float>(p: &mut [P], b: &mut [f32], g: &[G], f: Factors) {
        for ((p, b), g) in p.iter_mut().zip(b).zip(g) {
            let old = p.to_f32();
            *b = f.momentum * *b + f.gradient(old, g.to_f32());
            *p = P::from_f32(old + f.minus_lr * *b);
        }
    }
}

fn update<P: Float, G: Float>(op: &Sgd, g: &Input<'_, Cpu>, outputs: &mut [Output<'_, Cpu>]) -> Result<()> {
    let factors = Factors {
        grad_scale: op.grad_scale,
        weight_decay: op.weight_decay as f32,
        momentum: op.momentum as f32,
        minus_lr: -op.lr as f32,
    };
    let (p, buffer) = outputs.split_first_mut().expect("a target by the rule");
    let dims = g.layout.dims;
    // The targets' strides are walked as if they were inputs; without a buffer the parameter's stand for its.
    let strides =
        [p.layout.strides, buffer.first().map_or(p.layout.strides, |b| b.layout.strides), g.layout.strides];
    let p = Scatter::new(p.slice_mut::<P>()?);
    let buffer = buffer.first_mut().map(|b| b.slice_mut::<f32>()).transpose()?.map(Scatter::new);
    let g = g.slice::<G>();
    for_runs(&dims, strides.each_ref(), |run| {
        let ([ip, ib, ig], [sp, sb, sg]) = (run.at, run.step);
        let (len, times) = if run.step == [1; 3] { (run.len, 1) } else { (1, run.len) };
        for i in 0..times {
            let at = ig + i * sg;
            let g = &g[at..at + len];
            // SAFETY: a target has no two elements at one place (checked by `apply_in_place`), and runs do not
            // overlap.
            let (p, b) =
                unsafe { (p.slice(ip + i * sp, len), buffer.as_ref().map(|b| b.slice(ib + i * sb, len))) };
            match b {
                Some(b) => momentum_run(p, b, g, factors),
                None => plain_run(p, g, factors),
            }
        }
    });
    Ok(())
}

impl Kernel<Sgd> for Cpu {
    fn run(&self, op: &Sgd, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let g = &inputs[0];
        parameter_type!(outputs[0].dtype, P => parameter_type!(g.dtype, G => update::<P, G>(op, g, outputs)))
    }
}
