//! Operations at the shapes of SmolLM2-135M and SmolVLM-256M, through `Tensor`, under Criterion:
//! `cargo bench --bench ops [-- FILTER]`. Throughput is the FLOPs or bytes that the operation itself declares.
//! Shares of the machine's peak are in the benches `gemm`, `attention`, `elementwise` and `memory_bound` of the
//! engine; whole models are in the bench `model`.

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use engine::ops::{Attention, GatedSilu, Gelu, GeluKind, LayerNorm, MatMul, RmsNorm, RopeKind};
use engine::{DType, Device, Op, Rng, Tensor, checkpoint, no_grad};

fn randn(dims: &[usize], dtype: DType) -> Tensor {
    Tensor::randn(dims, 1.0, dtype, &mut Rng::new(7), &Device::cpu()).unwrap()
}

/// Declared FLOPs of one application, or its bytes if they take longer on a machine with 16 FLOPs a byte.
fn throughput<O: Op>(op: &O, inputs: &[&Tensor]) -> Throughput {
    let specs: Vec<_> = inputs.iter().map(|t| t.spec()).collect();
    let cost = op.cost(&specs, &op.infer(&specs).unwrap());
    let bytes = cost.read + cost.written;
    if cost.flops > 16 * bytes { Throughput::Elements(cost.flops) } else { Throughput::Bytes(bytes) }
}

fn one<O: Op>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    op: &O,
    inputs: &[&Tensor],
    mut run: impl FnMut() -> Tensor,
) {
    group.throughput(throughput(op, inputs));
    group.bench_function(name, |b| b.iter(|| no_grad(&mut run)));
}

fn operations(c: &mut Criterion) {
    for dtype in [DType::F32, DType::BF16] {
        let mut group = c.benchmark_group(dtype.name());
        for (rows, inner, outer) in [(1, 576, 1536), (512, 576, 1536), (1024, 768, 3072)] {
            let (x, w) = (randn(&[rows, inner], dtype), randn(&[outer, inner], dtype));
            let wt = w.t().unwrap();
            one(
                &mut group,
                &format!("matmul {rows}x{inner} -> {outer}"),
                &MatMul { out: dtype },
                &[&x, &wt],
                || x.linear(&w, None).unwrap(),
            );
        }
        for (name, s, heads, causal) in
            [("vision 1024x12x64", 1024, 12, false), ("text 512x9x64", 512, 9, true)]
        {
            let q = randn(&[1, s, heads, 64], dtype);
            let op = Attention { scale: 0.125, causal };
            one(&mut group, &format!("attention {name}"), &op, &[&q, &q, &q], || {
                q.attention(&q, &q, None, 0.125, causal).unwrap()
            });
        }
        let (x, w) = (randn(&[1024, 768], dtype), randn(&[768], dtype));
        one(&mut group, "layer_norm 1024x768", &LayerNorm { eps: 1e-6 }, &[&x, &w, &w], || {
            x.layer_norm(&w, &w, 1e-6).unwrap()
        });
        one(&mut group, "rms_norm 1024x768", &RmsNorm { eps: 1e-5 }, &[&x, &w], || {
            x.rms_norm(&w, 1e-5).unwrap()
        });
        let x = randn(&[1024, 3072], dtype);
        one(&mut group, "gelu 1024x3072", &Gelu { kind: GeluKind::Tanh }, &[&x], || {
            x.gelu(GeluKind::Tanh).unwrap()
        });
        one(&mut group, "gated_silu 1024x3072", &GatedSilu, &[&x, &x], || x.gated_silu(&x).unwrap());
        let x = randn(&[1, 512, 9, 64], dtype);
        let positions: Vec<u32> = (0..512).collect();
        let positions = Tensor::from_slice(&positions, &[1, 512], &Device::cpu()).unwrap();
        group.throughput(Throughput::Bytes(2 * x.bytes() as u64));
        group
            .bench_function("rope 512x9x64", |b| b.iter(|| x.rope(&positions, 1e5, RopeKind::Half).unwrap()));
        let logits = randn(&[512, 49_152], dtype);
        let labels = Tensor::from_slice(&[1i32; 512], &[512], &Device::cpu()).unwrap();
        group.throughput(Throughput::Bytes(logits.bytes() as u64));
        group.bench_function("cross_entropy 512x49152", |b| {
            b.iter(|| no_grad(|| logits.cross_entropy(&labels, -100).unwrap()));
        });
        group.finish();
    }
}

/// Forward and backward through one gated feed-forward layer of SmolLM2-135M, kept and checkpointed.
fn training(c: &mut Criterion) {
    let mut group = c.benchmark_group("training step, feed-forward 512x576x1536");
    let (x, up, down) =
        (randn(&[512, 576], DType::F32), randn(&[1536, 576], DType::F32), randn(&[576, 1536], DType::F32));
    let (up, down) = (up.tracked(), down.tracked());
    // Forward, input gradient and weight gradient of three products.
    group.throughput(Throughput::Elements(3 * 3 * 2 * 512 * 576 * 1536));
    let layer = move |x: &Tensor| {
        let hidden = x.linear(&up, None)?.gated_silu(&x.linear(&up, None)?)?;
        hidden.linear(&down, None)
    };
    let kept = layer.clone();
    group.bench_function("kept", |b| {
        b.iter(|| kept(&x).unwrap().sum_squares().unwrap().backward().unwrap());
    });
    group.bench_function("checkpointed", |b| {
        b.iter(|| {
            let layer = layer.clone();
            let y = checkpoint(&[&x], move |x| layer(&x[0])).unwrap();
            y.sum_squares().unwrap().backward().unwrap()
        });
    });
    group.finish();
}

criterion_group!(benches, operations, training);
criterion_main!(benches);
