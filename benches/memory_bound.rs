//! Speed of the operations that do little with much memory, against a copy probed in the same run.
//!
//! `cargo bench -p roentgen-engine --bench memory_bound [-- <filter>]`, where a filter is a part of a row's
//! name. Bytes are what the operation itself counts ([`Op::cost`]); the share is of the copy's read and
//! written bytes a second. Operands that fit in a cache may exceed it.

use std::hint::black_box;
use std::time::Instant;

use engine::cpu::threads::{self, Scatter, parallel_for};
use engine::ops::{
    AdamW, AdamW8bit, Argmax, CrossEntropy, CrossEntropyGrad, Embedding, EmbeddingGrad, Rope, RopeKind,
    ScatterRows, Sgd, TopK,
};
use engine::{Compiled, DType, Device, Offers, Op, Result, Rng, Spec, Tensor, apply, apply_in_place};

/// Best of repeats for about 0.4 s, at least five, after a warm-up.
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::INFINITY;
    let (start, mut repeats) = (Instant::now(), 0);
    while repeats < 5 || start.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
        repeats += 1;
    }
    best
}

/// Bytes read and written a second by a copy of 128 MB on all threads.
fn copy_bandwidth() -> f64 {
    const LEN: usize = 128 << 20;
    const PIECE: usize = 1 << 20;
    let from = vec![1u8; LEN];
    let mut to = vec![0u8; LEN];
    let out = Scatter::new(&mut to);
    let seconds = time(|| {
        parallel_for(LEN / PIECE, |i| {
            // SAFETY: each task has its own piece.
            unsafe { out.slice(i * PIECE, PIECE) }.copy_from_slice(black_box(&from[i * PIECE..][..PIECE]));
        });
    });
    2.0 * LEN as f64 / seconds
}

struct Table {
    filter: String,
    peak: f64,
}

impl Table {
    fn row<O: Op>(&self, what: &str, op: &O, targets: &[&Tensor], inputs: &[&Tensor]) -> Result<()>
    where
        Compiled: Offers<O>,
    {
        let name = format!("{} {what}", O::NAME);
        if !name.contains(&self.filter) {
            return Ok(());
        }
        let specs: Vec<Spec> = targets.iter().chain(inputs).map(|t| t.spec()).collect();
        let cost = op.cost(&specs, &op.infer(&specs)?);
        let run = || {
            if targets.is_empty() {
                apply(op.clone(), inputs).map(drop)
            } else {
                apply_in_place(op.clone(), targets, inputs)
            }
        };
        run()?;
        let seconds = time(|| run().expect("it ran before"));
        let rate = (cost.read + cost.written) as f64 / seconds;
        println!(
            "{name:<44} {:>9.1} us {:>7.1} GB/s {:>4.0} %",
            seconds * 1e6,
            rate / 1e9,
            100.0 * rate / self.peak
        );
        Ok(())
    }
}

fn main() -> Result<()> {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let table = Table { filter, peak: copy_bandwidth() };
    println!("{} threads, copy {:.1} GB/s", threads::threads(), table.peak / 1e9);
    let device = Device::cpu();
    let mut rng = Rng::new(1);
    let ids = |rng: &mut Rng, dims: &[usize], below: usize| {
        let n = dims.iter().product();
        let ids: Vec<u32> = (0..n).map(|_| rng.below(below) as u32).collect();
        Tensor::from_slice(&ids, dims, &device)
    };

    for dtype in [DType::BF16, DType::F32] {
        let (vocabulary, width, rows) = (49_152, 2048, 1024);
        let cut = Tensor::zeros(&[vocabulary, width], dtype, &device)?;
        let tokens = ids(&mut rng, &[rows], vocabulary)?;
        table.row(&format!("{dtype} {rows} of {vocabulary}x{width}"), &Embedding, &[], &[&cut, &tokens])?;
        let g = Tensor::randn(&[rows, width], 1.0, dtype, &mut rng, &device)?;
        let op = EmbeddingGrad { rows: vocabulary };
        table.row(&format!("{dtype} {rows} of {vocabulary}x{width}"), &op, &[], &[&tokens, &g])?;
        let places: Vec<u32> = (0..512).map(|i| 2 * i).collect();
        let places = Tensor::from_slice(&places, &[512], &device)?;
        let part = g.narrow(0, 0, 512)?;
        table.row(&format!("{dtype} 512 of {rows}x{width}"), &ScatterRows, &[], &[&g, &part, &places])?;

        for heads in [32, 5] {
            let x = Tensor::randn(&[1, 1024, heads, 64], 1.0, dtype, &mut rng, &device)?;
            let at = Tensor::from_slice(&(0..1024).collect::<Vec<u32>>(), &[1, 1024], &device)?;
            for kind in [RopeKind::Half, RopeKind::Interleaved] {
                let op = Rope { theta: 1e4, kind, inverse: false };
                table.row(&format!("{dtype} 1024x{heads}x64 {kind:?}"), &op, &[], &[&x, &at])?;
            }
        }

        let logits = Tensor::randn(&[512, vocabulary], 4.0, dtype, &mut rng, &device)?;
        let labels: Vec<i32> = (0..512).map(|_| rng.below(vocabulary) as i32).collect();
        let labels = Tensor::from_slice(&labels, &[512], &device)?;
        let what = format!("{dtype} 512x{vocabulary}");
        let op = CrossEntropy { ignore: -100 };
        table.row(&what, &op, &[], &[&logits, &labels])?;
        let out = apply(op, &[&logits, &labels])?;
        let op = CrossEntropyGrad { ignore: -100 };
        table.row(&what, &op, &[], &[&logits, &labels, &out[1], &out[0]])?;

        let one = logits.narrow(0, 0, 1)?;
        let what = format!("{dtype} 1x{vocabulary}");
        table.row(&what, &Argmax, &[], &[&one])?;
        for k in [1, 50] {
            table.row(&format!("{what} k={k}"), &TopK { k }, &[], &[&one])?;
        }

        // The adapters of the report model.
        let n = 10_536_960;
        let p = Tensor::randn(&[n], 1.0, dtype, &mut rng, &device)?;
        let g = Tensor::randn(&[n], 1.0, dtype, &mut rng, &device)?;
        let (m, v) = (Tensor::zeros(&[n], DType::F32, &device)?, Tensor::zeros(&[n], DType::F32, &device)?);
        let op = AdamW {
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            step: 1,
            grad_scale: 1.0,
        };
        table.row(&format!("{dtype} 10.5M"), &op, &[&p, &m, &v], &[&g])?;
        let codes = || Tensor::zeros(&[n], DType::U8, &device);
        let blocks = || Tensor::zeros(&[n.div_ceil(AdamW8bit::BLOCK)], DType::F32, &device);
        let (m8, v8, absmax_m, absmax_v) = (codes()?, codes()?, blocks()?, blocks()?);
        let op = AdamW8bit(op);
        table.row(&format!("{dtype} 10.5M"), &op, &[&p, &m8, &v8, &absmax_m, &absmax_v], &[&g])?;
        let op = Sgd { lr: 1e-4, momentum: 0.9, weight_decay: 0.01, grad_scale: 1.0 };
        table.row(&format!("{dtype} 10.5M"), &op, &[&p, &m], &[&g])?;
    }
    Ok(())
}
