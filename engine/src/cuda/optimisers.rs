//! `adamw`, `adamw8bit` and `sgd`.

use super::Cuda;
use super::launch::Launch;
use super::view::View;
use crate::cpu::AdamWFactors;
use crate::error::rule;
use crate::ops::{AdamW, AdamW8bit, Sgd};
use crate::{Codebook, Input, Kernel, Op, Output, Result};

impl Launch<'_> {
    fn factors(&mut self, op: &AdamW) -> &mut Self {
        self.layout(&AdamWFactors::new(op).in_order().map(f32::to_bits))
    }
}

/// Entry by the types of parameter and gradient.
fn entry(op: &str, p: &Output<'_, Cuda>, g: &Input<'_, Cuda>) -> String {
    format!("{op}_{}_{}", p.dtype, g.dtype)
}

impl Kernel<AdamW> for Cuda {
    fn run(&self, op: &AdamW, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (p, g) = (&outputs[0], &inputs[0]);
        let count = p.layout.count();
        let mut k = self.kernel(AdamW::NAME, entry(AdamW::NAME, p, g), AdamW::NAME);
        for target in &*outputs {
            k.target(target);
        }
        k.view(g).factors(op).word(count).run_elements(count)
    }
}

impl Kernel<Sgd> for Cuda {
    fn run(&self, op: &Sgd, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let (p, g) = (&outputs[0], &inputs[0]);
        let count = p.layout.count();
        let mut k = self.kernel(Sgd::NAME, entry(Sgd::NAME, p, g), Sgd::NAME);
        k.target(p);
        match outputs.get(1) {
            Some(b) => k.target(b),
            // Nobody looks at it.
            None => k.null().layout(&View::new(p.layout).words()),
        };
        k.view(g).word(count).float(op.grad_scale).float(op.weight_decay as f32);
        k.float(op.momentum as f32).float(-op.lr as f32).run_elements(count)
    }
}

impl Kernel<AdamW8bit> for Cuda {
    fn run(
        &self,
        op: &AdamW8bit,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = AdamW8bit::NAME;
        let names = ["p", "m", "v", "absmax_m", "absmax_v", "g"];
        let layouts = outputs.iter().map(|o| o.layout).chain([inputs[0].layout]);
        if let Some((what, layout)) = names.iter().zip(layouts).find(|(_, layout)| !layout.is_contiguous()) {
            return Err(rule!(
                name,
                "{what} {:?} has strides {:?}; blocks are of elements that lie side by side",
                layout.dims,
                layout.strides
            ));
        }
        let tables = self.constant_data((name, 0), || {
            let values = [Codebook::Dynamic, Codebook::DynamicUnsigned].map(Codebook::values).concat();
            bytemuck::cast_slice(&values).to_vec()
        })?;
        let (p, g) = (&outputs[0], &inputs[0]);
        let count = p.layout.count();
        let mut k = self.kernel(name, entry(name, p, g), name);
        for target in &*outputs {
            k.output(target);
        }
        k.dense(g).buffer(&tables).factors(&op.0).word(count).run_rows(count.div_ceil(AdamW8bit::BLOCK))
    }
}
