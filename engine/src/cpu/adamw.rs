use super::multiversion::multiversion;
use super::threads::{Scatter, parallel_for};
use super::walk::{GRAIN, for_runs};
use crate::ops::AdamW;
use crate::{Cpu, Float, Input, Kernel, Output, Result};
use half::bf16;

/// What the update multiplies with, computed in f64 and rounded once.
pub(crate) struct Factors {
    grad_scale: f32,
    keep: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    minus_step_size: f32,
    root_correction2: f32,
    eps: f32,
}

impl Factors {
    pub(crate) fn new(op: &AdamW) -> Self {
        let correction = |beta: f64| 1.0 - beta.powi(op.step.try_into().unwrap_or(i32::MAX));
        Self {
            grad_scale: op.grad_scale,
            keep: (1.0 - op.lr * op.weight_decay) as f32,
            one_minus_beta1: (1.0 - op.beta1) as f32,
            beta2: op.beta2 as f32,
            one_minus_beta2: (1.0 - op.beta2) as f32,
            minus_step_size: -(op.lr / correction(op.beta1)) as f32,
            root_correction2: correction(op.beta2).sqrt() as f32,
            eps: op.eps as f32,
        }
    }

    /// As other backends' kernels take them: in the order of the fields.
    pub(crate) fn in_order(&self) -> [f32; 8] {
        let Self { grad_scale, keep, one_minus_beta1, beta2, one_minus_beta2, .. } = *self;
        let Self { minus_step_size, root_correction2, eps, .. } = *self;
        [grad_scale, keep, one_minus_beta1, beta2, one_minus_beta2, minus_step_size, root_correction2, eps]
    }

    /// The gradient as the step sees it.
    #[inline(always)]
    pub(super) fn scaled(&self, g: f32) -> f32 {
        g * self.grad_scale
    }

    /// One element with a scaled gradient, operation by operation as torch does it.
    #[inline(always)]
    pub(super) fn step(&self, p: f32, m: &mut f32, v: &mut f32, g: f32) -> f32 {
        let p = p * self.keep;
        *m += self.one_minus_beta1 * (g - *m);
        *v = *v * self.beta2 + self.one_minus_beta2 * g * g;
        let denominator = v.sqrt() / self.root_correction2 + self.eps;
        p + self.minus_step_size * *m / denominator
    }
}

multiversion! {
    fn step_run<P: Float, G: Float>(p: &mut [P], m: &mut [f32], v: &mut [f32], g: &[G], factors: &Factors) {
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            *p = P::from_f32(factors.step(p.to_f32(), m, v, factors.scaled(g.to_f32())));
        }
    }
}

/// A contiguous parameter with its state.
struct Dense<'a, P, G> {
    p: Scatter<P>,
    m: Scatter<f32>,
    v: Scatter<f32>,
    g: &'a [G],
}

/// All parameters of these types. The contiguous ones are cut into tasks together: an adapter's are small.
fn update<P: Float, G: Float>(
    factors: &Factors,
    inputs: &[Input<'_, Cpu>],
    outputs: &mut [Output<'_, Cpu>],
) -> Result<()> {
    let mut dense = Vec::new();
    for (targets, g) in outputs.as_chunks_mut::<3>().0.iter_mut().zip(inputs) {
        if targets[0].dtype != P::DTYPE || g.dtype != G::DTYPE {
            continue;
        }
        if !g.layout.is_contiguous() || targets.iter().any(|t| !t.layout.is_contiguous()) {
            update_view::<P, G>(factors, g, targets)?;
            continue;
        }
        let [p, m, v] = targets;
        let (p, m, v) = (p.slice_mut::<P>()?, m.slice_mut::<f32>()?, v.slice_mut::<f32>()?);
        let (p, m, v) = (Scatter::new(p), Scatter::new(m), Scatter::new(v));
        dense.push(Dense { p, m, v, g: g.slice::<G>() });
    }
    let parts = |(i, one): (usize, &Dense<P, G>)| (0..one.g.len()).step_by(GRAIN).map(move |at| (i, at));
    let tasks: Vec<(usize, usize)> = dense.iter().enumerate().flat_map(parts).collect();
    parallel_for(tasks.len(), |task| {
        let (i, at) = tasks[task];
        let Dense { p, m, v, g } = &dense[i];
        let len = GRAIN.min(g.len() - at);
        // SAFETY: tasks do not overlap.
        let (p, m, v) = unsafe { (p.slice(at, len), m.slice(at, len), v.slice(at, len)) };
        step_run(p, m, v, &g[at..at + len], factors);
    });
    Ok(())
}

/// A parameter that lies anyhow.
fn update_view<P: Float, G: Float>(
    factors: &Factors,
    g: &Input<'_, Cpu>,
    [p, m, v]: &mut [Output<'_, Cpu>; 3],
) -> Result<()> {
    let dims = g.layout.dims;
    // The targets' strides are walked as if they were inputs.
    let strides = [p.layout.strides, m.layout.strides, v.layout.strides, g.layout.strides];
    let p = Scatter::new(p.slice_mut::<P>()?);
    let (m, v) = (Scatter::new(m.slice_mut::<f32>()?), Scatter::new(v.slice_mut::<f32>()?));
    let g = g.slice::<G>();
    for_runs(&dims, strides.each_ref(), |run| {
        let ([ip, im, iv, ig], [sp, sm, sv, sg]) = (run.at, run.step);
        let (len, times) = if run.step == [1; 4] { (run.len, 1) } else { (1, run.len) };
        for i in 0..times {
            // SAFETY: a target has no two elements at one place (checked by `apply_in_place`), and runs do not
            // overlap.
            let (p, m, v) =
                unsafe { (p.slice(ip + i * sp, len), m.slice(im + i * sm, len), v.slice(iv + i * sv, len)) };
            let at = ig + i * sg;
            step_run(p, m, v, &g[at..at + len], factors);
        }
    });
    Ok(())
}

impl Kernel<AdamW> for Cpu {
    fn run(&self, op: &AdamW, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let factors = Factors::new(op);
        update::<f32, f32>(&factors, inputs, outputs)?;
        update::<f32, bf16>(&factors, inputs, outputs)?;
        update::<bf16, f32>(&factors, inputs, outputs)?;
        update::<bf16, bf16>(&factors, inputs, outputs)
    }
}
