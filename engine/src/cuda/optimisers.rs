//! `adamw`, `adamw8bit` and `sgd`.

use super::launch::{Launch, address};
use super::view::View;
use super::{Cuda, CudaBuffer};
use crate::cpu::AdamWFactors;
use crate::ops::{AdamW, AdamW8bit, Sgd};
use crate::{Codebook, DType, Error, Input, Kernel, Op, Output, Result};

impl Launch<'_> {
    fn factors(&mut self, op: &AdamW) -> &mut Self {
        self.layout(&AdamWFactors::new(op).in_order().map(f32::to_bits))
    }
}

/// Entry by the types of parameter and gradient.
fn entry(op: &str, p: &Output<'_, Cuda>, g: &Input<'_, Cuda>) -> String {
    format!("{op}_{}_{}", p.dtype, g.dtype)
}

/// Element types of a parameter and its gradient.
const TYPES: [[DType; 2]; 4] = [
    [DType::F32, DType::F32],
    [DType::F32, DType::BF16],
    [DType::BF16, DType::F32],
    [DType::BF16, DType::BF16],
];

/// Elements of a block of `adamw_list`.
const LIST_ELEMENTS: usize = 4096;

/// A parameter's targets and its gradient.
type Parameter<'a, 'b, const N: usize> = (&'a [Output<'b, Cuda>; N], &'a Input<'b, Cuda>);

impl Cuda {
    /// The table of a list of parameters, in device memory: of each the pointers, then elements and first block.
    /// `None` if there is nothing to do; with it the number of entries and of blocks, `per_block` elements each.
    fn table<const N: usize>(
        &self,
        op: &'static str,
        list: &[Parameter<'_, '_, N>],
        per_block: usize,
    ) -> Result<Option<(CudaBuffer, [usize; 2])>> {
        let too_many = || Error::Device(format!("cuda: {op}: more elements than a kernel can count"));
        let mut words: Vec<u64> = Vec::with_capacity(list.len() * (N + 2));
        let mut blocks = 0;
        for (targets, g) in list.iter().filter(|(targets, _)| targets[0].layout.count() > 0) {
            words.extend(targets.iter().map(|t| address(t.buffer, t.layout, t.dtype)));
            words.push(address(g.buffer, g.layout, g.dtype));
            let count = targets[0].layout.count();
            let [low, high] = [count, blocks].map(u32::try_from);
            words.push(
                u64::from(low.map_err(|_| too_many())?) | u64::from(high.map_err(|_| too_many())?) << 32,
            );
            blocks += count.div_ceil(per_block);
        }
        if blocks == 0 {
            return Ok(None);
        }
        let bytes = bytemuck::cast_slice(&words);
        let buffer = self.temporary(op, bytes.len())?;
        self.stream.lock().unwrap().upload(&buffer, 0, bytes)?;
        Ok(Some((buffer, [words.len() / (N + 2), blocks])))
    }
}

impl Kernel<AdamW> for Cuda {
    fn run(&self, op: &AdamW, inputs: &[Input<'_, Self>], outputs: &mut [Output<'_, Self>]) -> Result<()> {
        let name = AdamW::NAME;
        let dense = |(targets, g): &Parameter<'_, '_, 3>| {
            g.layout.is_contiguous() && targets.iter().all(|t| t.layout.is_contiguous())
        };
        let all = || outputs.as_chunks::<3>().0.iter().zip(inputs);
        for (targets, g) in all().filter(|one| !dense(one)) {
            let count = targets[0].layout.count();
            let mut k = self.kernel(name, entry(name, &targets[0], g), name);
            for target in targets {
                k.target(target);
            }
            k.view(g).factors(op).word(count).run_elements(count)?;
        }
        for types in TYPES {
            let own = |(targets, g): &Parameter<'_, '_, 3>| [targets[0].dtype, g.dtype] == types;
            let list: Vec<_> = all().filter(|one| dense(one) && own(one)).collect();
            let Some((table, [entries, blocks])) = self.table(name, &list, LIST_ELEMENTS)? else { continue };
            let mut k = self.kernel(name, format!("adamw_list_{}_{}", types[0], types[1]), name);
            k.buffer(&table).factors(op).word(entries).run([blocks, 1, 1], [256, 1], 0)?;
        }
        Ok(())
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
        AdamW8bit::contiguous(inputs.iter().map(|g| g.layout), outputs.iter().map(|t| t.layout))?;
        let tables = self.constant_data((name, 0), || {
            let values = [Codebook::Dynamic, Codebook::DynamicUnsigned].map(Codebook::values).concat();
            bytemuck::cast_slice(&values).to_vec()
        })?;
        for types in TYPES {
            let own = |(targets, g): &Parameter<'_, '_, 5>| [targets[0].dtype, g.dtype] == types;
            let list: Vec<_> = outputs.as_chunks::<5>().0.iter().zip(inputs).filter(own).collect();
            let Some((table, [entries, blocks])) = self.table(name, &list, AdamW8bit::BLOCK)? else {
                continue;
            };
            let mut k = self.kernel(name, format!("{name}_{}_{}", types[0], types[1]), name);
            k.buffer(&table).buffer(&tables).factors(&op.0).word(entries).run_rows(blocks)?;
        }
        Ok(())
    }
}
