//! `adamw`, `adamw8bit` and `sgd`.

use super::Wgpu;
use super::launch::Launch;
use super::source::Access;
use super::view::View;
use crate::cpu::AdamWFactors;
use crate::ops::{AdamW, AdamW8bit, Sgd};
use crate::{Codebook, DType, Input, Kernel, Op, Output, Result};

/// Elements of a target that lie in one word that holds nothing else: a word's worth, or 1.
fn together(target: &Output<'_, Wgpu>) -> usize {
    if View::new(target.layout).word_aligned(target.lanes() as u32) { target.lanes() } else { 1 }
}

impl Launch<'_> {
    fn factors(&mut self, op: &AdamW) -> &mut Self {
        for factor in AdamWFactors::new(op).in_order() {
            self.float(factor);
        }
        self
    }
}

impl Kernel<AdamW> for Wgpu {
    fn run(&self, op: &AdamW, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        // A launch a parameter: WebGPU binds eight buffers, and has no pointers.
        for ([w, m, v], g) in outputs.as_chunks().0.iter().zip(inputs) {
            let (count, together) = (w.layout.count(), together(w));
            let mut k = self.kernel(AdamW::NAME, AdamW::NAME);
            k.constant("TOGETHER", together as u32);
            k.target("w", w)?.target("m", m)?.target("v", v)?.input("g", g)?.factors(op).word(count)?;
            k.run_elements(count, together)?;
        }
        Ok(())
    }
}

impl Kernel<Sgd> for Wgpu {
    fn run(&self, op: &Sgd, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let w = &outputs[0];
        let (count, together) = (w.layout.count(), together(w));
        let mut k = self.kernel(Sgd::NAME, Sgd::NAME);
        k.constant("TOGETHER", together as u32).target("w", w)?;
        match outputs.get(1) {
            Some(b) => k.target("b", b)?,
            // Nobody looks at it.
            None => k.view(&View::new(w.layout)),
        };
        k.input("g", &inputs[0])?.word(count)?;
        k.float(op.grad_scale).float(op.weight_decay as f32).float(op.momentum as f32).float(-op.lr as f32);
        k.run_elements(count, together)
    }
}

impl Kernel<AdamW8bit> for Wgpu {
    fn run(
        &self,
        op: &AdamW8bit,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        AdamW8bit::contiguous(inputs.iter().map(|g| g.layout), outputs.iter().map(|t| t.layout))?;
        let tables = self.constant_data(("adamw8bit", 0), || {
            let values = [Codebook::Dynamic, Codebook::DynamicUnsigned].map(Codebook::values).concat();
            bytemuck::cast_slice(&values).to_vec()
        })?;
        for (targets, g) in outputs.as_chunks::<5>().0.iter().zip(inputs) {
            let count = targets[0].layout.count();
            let mut k = self.kernel(AdamW8bit::NAME, AdamW8bit::NAME);
            for (name, target) in ["w", "m", "v", "absmax_m", "absmax_v"].into_iter().zip(targets) {
                k.target(name, target)?;
            }
            k.input("g", g)?.scratch("tables", &tables, DType::F32, Access::Read)?;
            k.factors(&op.0).word(count)?;
            k.run_linear(count, AdamW8bit::BLOCK)?;
        }
        Ok(())
    }
}
