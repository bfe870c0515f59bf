//! `attention` and its gradient.

use super::Cuda;
use super::cast::typed;
use super::view::Heads;
use crate::ops::{Attention, AttentionGrad};
use crate::{DType, Input, Kernel, Layout, Op, Output, Result};

/// Queries and keys of a flash kernel's block.
const TILE: usize = 64;
/// Head sizes that flash kernels are made for.
const FLASH: [usize; 3] = [64, 80, 128];
/// Most queries, and most elements of a head, for kernels that split the keys over blocks.
const DECODE_QUERIES: usize = 8;
const DECODE_WIDTH: usize = 256;
/// Fewest keys of a split.
const SPLIT: usize = 64;

/// `[B, Sq, Sk, Hq, Hkv, D]`
#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    sq: usize,
    sk: usize,
    hq: usize,
    hkv: usize,
    d: usize,
}

impl Sizes {
    fn of(q: &Layout, k: &Layout) -> Self {
        let (q, k) = (&q.dims, &k.dims);
        Self { b: q[0], sq: q[1], sk: k[1], hq: q[2], hkv: k[2], d: q[3] }
    }

    /// As kernels take them.
    fn words(&self, causal: bool) -> [usize; 6] {
        [self.sq, self.sk, self.hq, self.hkv, self.d, usize::from(causal)]
    }

    /// The flash kernel for heads of this size.
    fn flash(&self) -> Option<usize> {
        FLASH.into_iter().find(|&most| self.d <= most && self.d.is_multiple_of(8) && self.d > 0)
    }
}

/// Whether rows of heads can be read 16 bytes at a time.
fn wide(tensors: &[&Input<'_, Cuda>]) -> bool {
    tensors.iter().all(|x| {
        let at = super::launch::address(x.buffer, x.layout, x.dtype);
        at.is_multiple_of(16) && Heads::new(x.layout).multiples_of(8)
    })
}

impl Cuda {
    /// `q`, `k`, `v` (and `g`), each with its last dimension contiguous, handed to `f`.
    fn with_heads<R>(
        &self,
        op: &'static str,
        tensors: &[&Input<'_, Self>],
        f: &mut dyn FnMut(&[&Input<'_, Self>]) -> Result<R>,
    ) -> Result<R> {
        let Some(at) = tensors.iter().position(|x| x.layout.strides[3] != 1 && x.layout.dims[3] != 1) else {
            return f(tensors);
        };
        self.with_contiguous_rows(op, tensors[at], |copy| {
            let mut tensors = tensors.to_vec();
            tensors[at] = copy;
            self.with_heads(op, &tensors, f)
        })
    }

    /// Attention of few queries: keys in `splits` shares, whose results are merged.
    fn attention_decode(
        &self,
        op: &Attention,
        sizes: &Sizes,
        tensors: &[&Input<'_, Self>],
        mask: u64,
        outputs: &[Output<'_, Self>],
    ) -> Result<()> {
        let name = Attention::NAME;
        let Sizes { b, sq, sk, hq, d, .. } = *sizes;
        let lines = b * sq * hq;
        let enough = (2 * self.facts.multiprocessors.max(1) as usize).div_ceil(lines);
        let splits = enough.min(sk / SPLIT).max(1);
        let parts = self.temporary(name, lines * splits * d * 4)?;
        let stats = self.temporary(name, lines * splits * 8)?;
        let dtype = tensors[0].dtype;
        let mut k = self.kernel(name, typed("attention_decode", dtype), name);
        k.buffer(&parts).buffer(&stats);
        for x in tensors {
            k.heads(x);
        }
        k.at(mask).words(&sizes.words(op.causal)).word(splits).float(op.scale);
        k.run([splits, hq, b * sq], [128, 1], 4 * (4 * d + 8))?;
        let mut k = self.kernel(name, typed("attention_merge", dtype), name);
        k.output(&outputs[0]).output(&outputs[1]).buffer(&parts).buffer(&stats);
        k.words(&[b, sq, hq, d, splits]).run_warps(lines)
    }
}

impl Kernel<Attention> for Cuda {
    fn run(
        &self,
        op: &Attention,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = Attention::NAME;
        let sizes = Sizes::of(inputs[0].layout, inputs[1].layout);
        let Sizes { b, sq, hq, d, .. } = sizes;
        if b * sq * hq == 0 {
            return Ok(());
        }
        let mask = inputs.get(3).map(|mask| self.dense(name, mask)).transpose()?;
        let mask = mask.as_ref().map_or(0, |mask| mask.address);
        self.with_heads(name, &[&inputs[0], &inputs[1], &inputs[2]], &mut |tensors| {
            let dtype = tensors[0].dtype;
            let wide = wide(tensors) && d.is_multiple_of(8) && d > 0;
            if wide && sq <= DECODE_QUERIES && d <= DECODE_WIDTH {
                return self.attention_decode(op, &sizes, tensors, mask, outputs);
            }
            let flash = sizes.flash().filter(|_| wide && dtype == DType::BF16);
            let entry = match flash {
                Some(number) => format!("attention_flash_{number}"),
                None => typed("attention_warp", dtype),
            };
            let mut k = self.kernel(name, entry, name);
            k.output(&outputs[0]).output(&outputs[1]);
            for x in tensors {
                k.heads(x);
            }
            k.at(mask).words(&sizes.words(op.causal)).float(op.scale);
            match flash {
                Some(number) => k.run([sq.div_ceil(TILE), hq, b], [128, 1], 256 * (number + 8)),
                None => k.run([sq.div_ceil(4), hq, b], [128, 1], 32 * d),
            }
        })
    }
}

impl Kernel<AttentionGrad> for Cuda {
    fn run(
        &self,
        op: &AttentionGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = AttentionGrad::NAME;
        let sizes = Sizes::of(inputs[0].layout, inputs[1].layout);
        let Sizes { b, sq, sk, hq, hkv, d } = sizes;
        let [dq, dk, dv] = &*outputs else { unreachable!("three outputs by the rule") };
        let lse = self.dense(name, &inputs[4])?;
        let mask = inputs.get(6).map(|mask| self.dense(name, mask)).transpose()?;
        let mask = mask.as_ref().map_or(0, |mask| mask.address);
        let delta = self.temporary(name, b * hq * sq * 4)?;
        let dtype = inputs[0].dtype;
        let tensors = [&inputs[0], &inputs[1], &inputs[2], &inputs[5], &inputs[3]];
        self.with_heads(name, &tensors, &mut |tensors| {
            let [q, keys, v, g, out] = *tensors else { unreachable!("five were given") };
            let mut k = self.kernel(name, typed("attention_grad_delta", dtype), name);
            k.buffer(&delta).heads(out).heads(g).words(&[b, sq, hq, d]).run_warps(b * sq * hq)?;

            let flash = sizes.flash().filter(|_| dtype == DType::BF16 && wide(&[q, keys, v, g]));
            let entry = |what: &str| match flash {
                Some(number) => format!("attention_flash_grad_{what}_{number}"),
                None => typed(&format!("attention_grad_{what}"), dtype),
            };
            for (what, targets) in [("q", &[dq][..]), ("kv", &[dk, dv][..])] {
                let mut k = self.kernel(name, entry(what), name);
                for target in targets {
                    k.output(target);
                }
                for x in [q, keys, v, g] {
                    k.heads(x);
                }
                k.at(mask).at(lse.address).buffer(&delta).words(&sizes.words(op.causal)).float(op.scale);
                let (places, heads) = if what == "q" { (sq, hq) } else { (sk, hkv) };
                let (tile, shared) = match (flash, what) {
                    (Some(number), "q") => (TILE, 512 * (number + 8)),
                    (Some(number), _) => (TILE, 512 * (number + 8) + 512),
                    (None, "q") => (4, 48 * d),
                    (None, _) => (4, 64 * d),
                };
                k.run([places.div_ceil(tile), heads, b], [128, 1], shared)?;
            }
            Ok(())
        })
    }
}
