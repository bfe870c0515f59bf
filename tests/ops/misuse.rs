//! Whatever the arguments, a call returns an error that says what and why, or works; it never panics.

use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::ops::{
    AdamW, AdamW8bit, AddRmsNorm, Attention, AttentionGrad, Binary, BinaryKind, Burst, Cast, Concat,
    CrossEntropy, CrossEntropyGrad, Embedding, EmbeddingGrad, GatedSilu, GatedSiluGrad, Gelu, GeluGrad,
    GeluKind, LayerNorm, LayerNormGrad, MatMul, Moments8bit, Reduce, ReduceKind, RmsNorm, RmsNormGrad, Rope,
    RopeKind, RopeWrite, ScatterRows, Sgd, Unary, UnaryKind, Write,
};
use engine::{DType, Device, Op, Result, Rng, Tensor, apply, apply_in_place};
use proptest::prelude::*;

use crate::harness::{cases, devices, seed};

/// A call on three random tensors; numbers come from the generator.
type Call = fn(&[Tensor; 3], &mut Rng) -> Result<Vec<Tensor>>;

fn small(rng: &mut Rng) -> usize {
    match rng.below(12) {
        0 => usize::MAX,
        1 => usize::MAX / 2 + 1,
        n => n % 5,
    }
}

fn list(rng: &mut Rng) -> Vec<usize> {
    (0..rng.below(8)).map(|_| small(rng)).collect()
}

fn dtype(rng: &mut Rng) -> DType {
    DType::ALL[rng.below(DType::ALL.len())]
}

fn one(result: Result<Tensor>) -> Result<Vec<Tensor>> {
    result.map(|t| vec![t])
}

/// The raw operation on none to three of the tensors.
fn raw<O: Op>(op: O, t: &[Tensor; 3], rng: &mut Rng) -> Result<Vec<Tensor>>
where
    engine::Compiled: engine::Offers<O>,
{
    apply(op, &t.iter().take(rng.below(4)).collect::<Vec<_>>())
}

fn adamw(step: u32) -> AdamW {
    AdamW { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 0.0, weight_decay: 0.1, step, grad_scale: 0.5 }
}

/// Every `Tensor` method and every operation that can be misused.
const CALLS: &[(&str, Call)] = &[
    ("add", |t, _| one(t[0].add(&t[1]))),
    ("div", |t, _| one(t[0].div(&t[1]))),
    ("affine", |t, _| one(t[0].affine(2.0, 1.0))),
    ("burst", |t, rng| {
        let kinds = [
            Burst::MultiplyAdds { rounds: 16 },
            Burst::Products { rounds: 16 },
            Burst::Read { sums: rng.below(3) },
            Burst::Triad,
        ];
        raw(kinds[rng.below(4)], t, rng)
    }),
    ("exp", |t, _| one(t[0].exp())),
    ("matmul", |t, _| one(t[0].matmul(&t[1]))),
    ("linear", |t, _| one(t[0].linear(&t[1], None))),
    ("linear+bias", |t, _| one(t[0].linear(&t[1], Some(&t[2])))),
    ("rms_norm", |t, _| one(t[0].rms_norm(&t[1], 1e-5))),
    ("add_rms_norm", |t, _| t[0].add_rms_norm(&t[1], &t[2], 1e-5).map(|(sum, normed)| vec![sum, normed])),
    ("rope_write", |t, rng| {
        let op = RopeWrite { theta: small(rng) as f32, kind: RopeKind::Half };
        let (x, cache) = (t[0].detach(), [t[rng.below(2)].copy()?, t[0].copy()?]);
        one(Tensor::rope_write([&x, &x, &x], &t[2], [&cache[0].detach(), &cache[1].detach()], &op))
    }),
    ("layer_norm", |t, _| one(t[0].layer_norm(&t[1], &t[2], 1e-5))),
    ("gelu", |t, _| one(t[0].gelu(GeluKind::Erf))),
    ("gated_silu", |t, _| one(t[0].gated_silu(&t[1]))),
    ("sum", |t, rng| one(t[0].sum(&list(rng)))),
    ("sum_keep", |t, rng| one(t[0].sum_keep(&list(rng)))),
    ("mean", |t, rng| one(t[0].mean(&list(rng)))),
    ("max", |t, rng| one(t[0].max(&list(rng)))),
    ("sum_squares", |t, _| one(t[0].sum_squares())),
    ("to_dtype", |t, rng| one(t[0].to_dtype(dtype(rng)))),
    ("reshape", |t, rng| one(t[0].reshape(&list(rng)))),
    ("permute", |t, rng| one(t[0].permute(&list(rng)))),
    ("transpose", |t, rng| one(t[0].transpose(small(rng), small(rng)))),
    ("t", |t, _| one(t[0].t())),
    ("narrow", |t, rng| one(t[0].narrow(small(rng), small(rng), small(rng)))),
    ("select", |t, rng| one(t[0].select(small(rng), small(rng)))),
    ("expand", |t, rng| one(t[0].expand(&list(rng)))),
    ("expand to another", |t, _| one(t[0].expand(&t[1].dims()))),
    ("unsqueeze", |t, rng| one(t[0].unsqueeze(small(rng)))),
    ("write", |t, _| t[0].detach().write(&t[1]).map(|()| vec![])),
    ("dim", |t, rng| t[0].dim(small(rng)).map(|_| vec![])),
    ("item", |t, _| t[0].item().map(|_| vec![])),
    ("to_vec", |t, _| t[0].to_vec::<f32>().map(|_| vec![])),
    ("display", |t, _| Ok(vec![]).inspect(|_: &Vec<Tensor>| drop(format!("{} {:?}", t[0], t[1])))),
    ("from_slice", |t, rng| one(Tensor::from_slice(&[1f32, 2.0], &list(rng), t[0].device()))),
    ("from_bytes", |t, rng| one(Tensor::from_bytes(&[1, 2, 3, 4], &list(rng), dtype(rng), t[0].device()))),
    ("rope", |t, rng| one(t[0].rope(&t[1], small(rng) as f32, RopeKind::Half))),
    ("embedding", |t, _| one(t[0].embedding(&t[1]))),
    ("scatter_rows", |t, _| one(t[0].scatter_rows(&t[1], &t[2]))),
    ("concat", |t, rng| one(Tensor::concat(&t.iter().take(rng.below(4)).collect::<Vec<_>>(), small(rng)))),
    ("cross_entropy", |t, rng| one(t[0].cross_entropy(&t[1], small(rng) as i32))),
    ("adamw", |t, rng| {
        let op = adamw(small(rng) as u32);
        Tensor::adamw_step(&t[0], &t[1], &t[2], &t[rng.below(3)].copy()?, &op).map(|()| vec![])
    }),
    ("adamw8bit", |t, rng| {
        let codes = |t: &Tensor| Tensor::zeros(&t.dims(), DType::U8, t.device());
        let blocks = |t: &Tensor| Tensor::zeros(&[t.count().div_ceil(256)], DType::F32, t.device());
        let state = Moments8bit {
            m: codes(&t[0])?,
            v: codes(&t[rng.below(2)])?,
            absmax_m: blocks(&t[0])?,
            absmax_v: blocks(&t[rng.below(2)])?,
        };
        let g = t[rng.below(3)].copy()?;
        Tensor::adamw8bit_step(&t[0], &state, &g, &adamw(small(rng) as u32)).map(|()| vec![])
    }),
    ("raw adamw8bit", |t, _| {
        apply_in_place(AdamW8bit(adamw(1)), &[&t[0], &t[1], &t[2], &t[1], &t[2]], &[&t[0]]).map(|()| vec![])
    }),
    ("sgd", |t, rng| {
        let op = Sgd { lr: 0.1, momentum: [0.0, 0.9][rng.below(2)], weight_decay: 0.1, grad_scale: 1.0 };
        let buffer = Some(&t[1]).filter(|_| rng.below(2) == 0);
        Tensor::sgd_step(&t[0], buffer, &t[2], &op).map(|()| vec![])
    }),
    ("argmax", |t, _| one(t[0].argmax())),
    ("top_k", |t, rng| t[0].top_k(small(rng)).map(|(values, places)| vec![values, places])),
    ("patch_conv", |t, _| one(t[0].patch_conv(&t[1], Some(&t[2])))),
    ("attention", |t, rng| one(t[0].attention(&t[1], &t[rng.below(3)], None, 1.0, rng.below(2) == 0))),
    ("raw rope", |t, rng| raw(Rope { theta: -1.0, kind: RopeKind::Interleaved, inverse: true }, t, rng)),
    ("raw embedding", |t, rng| raw(Embedding, t, rng)),
    ("raw embedding_grad", |t, rng| raw(EmbeddingGrad { rows: small(rng) }, t, rng)),
    ("raw scatter_rows", |t, rng| raw(ScatterRows, t, rng)),
    ("raw concat", |t, rng| raw(Concat { axis: small(rng) }, t, rng)),
    ("raw cross_entropy", |t, rng| raw(CrossEntropy { ignore: -1 }, t, rng)),
    ("raw cross_entropy_grad", |t, _| apply(CrossEntropyGrad { ignore: 0 }, &[&t[0], &t[1], &t[2], &t[2]])),
    ("raw attention", |t, rng| {
        let with_mask = [&t[0], &t[0], &t[1], &t[2]];
        apply(Attention { scale: 1.0, causal: true }, &with_mask[..rng.below(5)])
    }),
    ("raw attention_grad", |t, rng| {
        let all = [&t[0], &t[1], &t[1], &t[0], &t[2], &t[0], &t[2]];
        apply(AttentionGrad { scale: 1.0, causal: true }, &all[..rng.below(8)])
    }),
    ("raw binary", |t, rng| raw(Binary { kind: BinaryKind::Mul }, t, rng)),
    ("raw unary", |t, rng| raw(Unary { kind: UnaryKind::Sigmoid }, t, rng)),
    ("raw cast", |t, rng| raw(Cast { to: dtype(rng) }, t, rng)),
    ("raw matmul", |t, rng| raw(MatMul { out: dtype(rng) }, t, rng)),
    ("raw reduce", |t, rng| raw(Reduce { kind: ReduceKind::SumSquares, axes: rng.bits() as u32 }, t, rng)),
    ("raw add_rms_norm", |t, rng| raw(AddRmsNorm { eps: 0.0 }, t, rng)),
    ("raw rms_norm", |t, rng| raw(RmsNorm { eps: 0.0 }, t, rng)),
    ("raw rms_norm_grad", |t, rng| raw(RmsNormGrad { eps: 0.0 }, t, rng)),
    ("raw layer_norm", |t, rng| raw(LayerNorm { eps: 0.0 }, t, rng)),
    ("raw layer_norm_grad", |t, rng| raw(LayerNormGrad { eps: 0.0 }, t, rng)),
    ("raw gelu", |t, rng| raw(Gelu { kind: GeluKind::Tanh }, t, rng)),
    ("raw gelu_grad", |t, rng| raw(GeluGrad { kind: GeluKind::Tanh }, t, rng)),
    ("raw gated_silu", |t, rng| raw(GatedSilu, t, rng)),
    ("raw gated_silu_grad", |t, rng| raw(GatedSiluGrad, t, rng)),
    ("raw write", |t, rng| raw(Write, t, rng)),
];

/// Small tensors of random shape and type; often of one shape or type with each other, so that calls get
/// past the first check.
fn tensors(rng: &mut Rng, device: &Device) -> [Tensor; 3] {
    let (mut dims, mut kind) = (vec![], DType::F32);
    std::array::from_fn(|_| {
        if rng.below(2) == 0 {
            dims = (0..rng.below(5)).map(|_| rng.below(4)).collect();
        }
        if rng.below(4) == 0 {
            kind = dtype(rng);
        }
        let cut = if rng.below(3) == 0 { dims.len().saturating_sub(1) } else { 0 };
        let mut t = Tensor::full(&dims[cut..], 1.0, kind, device).unwrap();
        if t.rank() > 1 && rng.below(3) == 0 {
            t = t.t().unwrap();
        }
        if rng.below(2) == 0 { t.tracked() } else { t }
    })
}

proptest! {
    #![proptest_config(cases(4000))]

    #[test]
    fn nothing_panics(which in 0..CALLS.len(), seed in seed()) {
        let (name, call) = CALLS[which];
        for device in devices() {
        let mut rng = Rng::new(seed);
        let t = tensors(&mut rng, &device);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let outputs = call(&t, &mut rng)?;
            for y in outputs.iter().filter(|y| y.count() < 1 << 16) {
                drop(y.to_f64_vec()?);
                drop(y.backward_from(&y.detach()));
            }
            Ok(())
        }));
        let result: Result<()> = outcome.map_err(|_| TestCaseError::fail(format!("{name} panics on {device} of {t:?}")))?;
        if let Err(error) = result {
            let text = error.to_string();
            // Names a shape, a type, or how many tensors or bytes there should be.
            let tells = text.contains('[') || text.bytes().any(|b| b.is_ascii_digit());
            prop_assert!(tells && text.len() > 12, "{} says too little: {}", name, text);
        }
        }
    }
}
