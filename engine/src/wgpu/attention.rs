use super::launch::Launch;
use super::source::Access;
use super::{Wgpu, WgpuBuffer};
use crate::ops::{Attention, AttentionGrad};
use crate::{DType, Input, Kernel, Layout, Op, Output, Result};

/// Queries and keys of a tile, elements of a chunk of a head.
const TILE: usize = 32;
/// Most queries, and most elements of a head, of the kernel that takes queries one by one.
const DECODE_QUERIES: usize = 4;
const DECODE_WIDTH: usize = 256;

/// `[B, Sq, Sk, Hq, Hkv, D]`
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
}

/// Binds the tensors and pushes the parameters of `shaders/common/attention.wgsl`.
fn prepare<'a>(
    launch: &mut Launch<'a>,
    sizes: &Sizes,
    (scale, causal): (f32, bool),
    tensors: [Option<(&'static str, &Input<'a, Wgpu>)>; 4],
    mask: Option<&Input<'a, Wgpu>>,
) -> Result<()> {
    launch.constant("CAUSAL", causal).constant("CHUNKS", sizes.d.div_ceil(TILE).max(1) as u32);
    for tensor in tensors {
        let Some((name, x)) = tensor else {
            for _ in 0..8 {
                launch.word(0)?;
            }
            continue;
        };
        let layout = launch.read(name, x)?;
        launch.word(layout.offset)?;
        for &stride in layout.strides.iter().chain(&[0; 3]) {
            launch.word(stride)?;
        }
    }
    let mask = match mask {
        None => [0; 3],
        Some(mask) => {
            let layout = launch.read("mask", mask)?;
            [layout.offset, layout.strides[0], layout.strides[1]]
        }
    };
    for word in mask.into_iter().chain([sizes.sq, sizes.sk, sizes.hq, sizes.hq / sizes.hkv, sizes.d]) {
        launch.word(word)?;
    }
    launch.float(scale).work(4 * sizes.b * sizes.hq * sizes.sq * sizes.sk * sizes.d);
    Ok(())
}

impl Kernel<Attention> for Wgpu {
    fn run(
        &self,
        op: &Attention,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let sizes = Sizes::of(inputs[0].layout, inputs[1].layout);
        let (y, lse) = (&outputs[0], &outputs[1]);
        let few = sizes.sq <= DECODE_QUERIES && sizes.d <= DECODE_WIDTH;
        let mut k = self.kernel(if few { "attention_decode" } else { Attention::NAME }, Attention::NAME);
        let [q, key, v] = [0, 1, 2].map(|i| Some((["q", "k", "v"][i], &inputs[i])));
        prepare(&mut k, &sizes, (op.scale, op.causal), [q, key, v, None], inputs.get(3))?;
        k.output_by_rows("y", y, sizes.d.is_multiple_of(y.lanes()))?.output("lse", lse)?;
        let queries = if few { sizes.sq } else { sizes.sq.div_ceil(TILE) };
        k.run([queries as u32, sizes.hq as u32, sizes.b as u32])
    }
}

impl Wgpu {
    /// The logarithm of each query's sum beside `Σ g·out`.
    fn attention_stats(&self, sizes: &Sizes, inputs: &[Input<'_, Self>]) -> Result<WgpuBuffer> {
        let name = AttentionGrad::NAME;
        let count = sizes.b * sizes.hq * sizes.sq;
        let stats = self.temporary(name, count * 8)?;
        let mut k = self.kernel("attention_grad_delta", name);
        k.input("out", &inputs[3])?.input("g", &inputs[5])?.input("lse", &inputs[4])?;
        k.scratch("stats", &stats, DType::F32, Access::Whole)?;
        k.word(count)?.word(sizes.sq)?.word(sizes.hq)?.word(sizes.d)?.work(2 * count * sizes.d);
        k.run_elements(count, 1)?;
        drop(k);
        Ok(stats)
    }
}

impl Kernel<AttentionGrad> for Wgpu {
    fn run(
        &self,
        op: &AttentionGrad,
        inputs: &[Input<'_, Self>],
        outputs: &mut [Output<'_, Self>],
    ) -> Result<()> {
        let name = AttentionGrad::NAME;
        let sizes = Sizes::of(inputs[0].layout, inputs[1].layout);
        let stats = self.attention_stats(&sizes, inputs)?;
        let tensors = [("q", &inputs[0]), ("k", &inputs[1]), ("v", &inputs[2]), ("g", &inputs[5])].map(Some);
        let params = (op.scale, op.causal);
        let [dq, dk, dv] = &*outputs else { unreachable!("three outputs by the rule") };
        let aligned = sizes.d.is_multiple_of(dq.lanes());
        let heads = |count: usize, heads: usize| [count.div_ceil(TILE) as u32, heads as u32, sizes.b as u32];

        let mut k = self.kernel("attention_grad_q", name);
        prepare(&mut k, &sizes, params, tensors, inputs.get(6))?;
        k.scratch("stats", &stats, DType::F32, Access::Read)?.output_by_rows("y", dq, aligned)?;
        k.run(heads(sizes.sq, sizes.hq))?;

        let mut k = self.kernel("attention_grad_kv", name);
        prepare(&mut k, &sizes, params, tensors, inputs.get(6))?;
        k.scratch("stats", &stats, DType::F32, Access::Read)?;
        k.output_by_rows("dk", dk, aligned)?.output_by_rows("dv", dv, aligned)?;
        k.run(heads(sizes.sk, sizes.hkv))
    }
}
