//! `cuda/attention.cu` and `cuda/attention_grad.cu`.

use engine::ops::{Attention, AttentionGrad};
use engine::{Application, DType, Device, Op, Tensor, apply};

use super::call::{Call, On};
use super::draw::{Draw, captured};
use super::hold;
use crate::session::Session;

#[derive(Clone, Copy, Debug)]
struct Case {
    batch: usize,
    sq: usize,
    sk: usize,
    hq: usize,
    hkv: usize,
    d: usize,
    causal: bool,
    masked: bool,
}

impl Case {
    /// Queries, keys and values that lie contiguous, or with tokens and heads exchanged; and a mask.
    fn tensors(self, dtype: DType) -> Vec<Tensor> {
        let d = &mut Draw::new((self.sq * 100 + self.sk + self.d) as u64);
        let one = |d: &mut Draw, tokens: usize, heads: usize| {
            if d.chance() {
                d.dense(&[self.batch, heads, tokens, self.d], dtype).transpose(1, 2).unwrap()
            } else {
                d.dense(&[self.batch, tokens, heads, self.d], dtype)
            }
        };
        let (q, k, v) = (one(d, self.sq, self.hq), one(d, self.sk, self.hkv), one(d, self.sk, self.hkv));
        let mut all = vec![q, k, v];
        if self.masked {
            let mask: Vec<u8> = (0..self.batch * self.sk).map(|i| u8::from(i % 3 != 1)).collect();
            all.push(Tensor::from_slice(&mask, &[self.batch, self.sk], &Device::cpu()).unwrap());
        }
        all
    }

    fn scale(self) -> f32 {
        1.0 / (self.d as f32).sqrt()
    }

    fn application(self, dtype: DType) -> Application {
        let inputs = self.tensors(dtype);
        let inputs: Vec<&Tensor> = inputs.iter().collect();
        let op = Attention { scale: self.scale(), causal: self.causal };
        captured(Attention::NAME, || apply(op, &inputs))
    }

    fn gradient(self, dtype: DType) -> Application {
        let inputs = self.tensors(dtype);
        let (scale, causal) = (self.scale(), self.causal);
        let all: Vec<&Tensor> = inputs.iter().collect();
        let outputs = apply(Attention { scale, causal }, &all).unwrap();
        let g = Draw::new(self.sk as u64).dense(&[self.batch, self.sq, self.hq, self.d], dtype);
        let mut all = vec![&inputs[0], &inputs[1], &inputs[2], &outputs[0], &outputs[1], &g];
        all.extend(inputs.get(3));
        captured(AttentionGrad::NAME, || apply(AttentionGrad { scale, causal }, &all))
    }

    fn sizes(self, call: Call<'_>) -> Call<'_> {
        call.sizes(&[self.sq, self.sk, self.hq, self.hkv, self.d]).word(u32::from(self.causal))
    }
}

/// A rung: a warp a query, splits of the keys, or tensor cores for heads padded to so much.
#[derive(Clone, Copy, Debug)]
enum Rung {
    Warp,
    Decode(usize),
    Flash(usize),
}

fn forward(session: &Session, case: Case, application: &Application, rung: Rung) -> Vec<Tensor> {
    let (inputs, outputs): (Vec<On>, _) =
        (application.inputs().iter().map(|t| session.on(t)).collect(), session.outputs(application));
    let [q, k, v] = [&inputs[0], &inputs[1], &inputs[2]];
    let Case { batch, sq, hq, d, .. } = case;
    let t = q.name();
    let begin = |name: String, out: [&On; 2]| {
        let call = session.call(name).pointers(&[out[0], out[1], q, k, v]).optional(inputs.get(3));
        case.sizes(call.heads(q).heads(k).heads(v))
    };
    let out = [&outputs[0], &outputs[1]];
    match rung {
        Rung::Warp => {
            let call = begin(format!("attention_warp_{t}"), out).float(case.scale());
            call.launch([sq.div_ceil(4), hq, batch], [128, 1], 32 * d);
        }
        Rung::Flash(padded) => {
            let call = begin(format!("attention_flash_{padded}"), out).float(case.scale());
            call.launch([sq.div_ceil(64), hq, batch], [128, 1], 256 * (padded + 8));
        }
        Rung::Decode(splits) => {
            let parts = session.output(&[batch * sq * hq, splits, d], DType::F32);
            let stats = session.output(&[batch * sq * hq, splits, 2], DType::F32);
            let call =
                begin(format!("attention_decode_{t}"), [&parts, &stats]).size(splits).float(case.scale());
            call.launch([splits, hq, batch * sq], [128, 1], 4 * (4 * d + 8));
            let call =
                session.call(format!("attention_merge_{t}")).pointers(&[out[0], out[1], &parts, &stats]);
            call.sizes(&[batch, sq, hq, d, splits]).per_warp(batch * sq * hq);
        }
    }
    session.back_all(&outputs)
}

fn backward(session: &Session, case: Case, application: &Application, rung: Rung) -> Vec<Tensor> {
    let (inputs, outputs): (Vec<On>, _) =
        (application.inputs().iter().map(|t| session.on(t)).collect(), session.outputs(application));
    let [q, k, v, out, lse, g] = [0, 1, 2, 3, 4, 5].map(|i| &inputs[i]);
    let Case { batch, sq, sk, hq, hkv, d, .. } = case;
    let t = q.name();
    let delta = session.output(&[batch, hq, sq], DType::F32);
    let call = session.call(format!("attention_grad_delta_{t}")).pointers(&[&delta, out, g]);
    call.heads(out).heads(g).sizes(&[batch, sq, hq, d]).per_warp(batch * sq * hq);
    let begin = |name: String, outputs: &[&On]| {
        let call = session.call(name).pointers(outputs).pointers(&[q, k, v, g]).optional(inputs.get(6));
        let call = call.pointers(&[lse, &delta]).heads(q).heads(k).heads(v).heads(g);
        case.sizes(call).float(case.scale())
    };
    let (dq, dkv) = ([&outputs[0]], [&outputs[1], &outputs[2]]);
    if let Rung::Flash(padded) = rung {
        let shared = 512 * (padded + 8);
        let call = begin(format!("attention_flash_grad_q_{padded}"), &dq);
        call.launch([sq.div_ceil(64), hq, batch], [128, 1], shared);
        let call = begin(format!("attention_flash_grad_kv_{padded}"), &dkv);
        call.launch([sk.div_ceil(64), hkv, batch], [128, 1], shared + 512);
    } else {
        begin(format!("attention_grad_q_{t}"), &dq).launch([sq.div_ceil(4), hq, batch], [128, 1], 48 * d);
        begin(format!("attention_grad_kv_{t}"), &dkv).launch([sk.div_ceil(4), hkv, batch], [128, 1], 64 * d);
    }
    session.back_all(&outputs)
}

const PLAIN: Case = Case { batch: 1, sq: 5, sk: 9, hq: 2, hkv: 2, d: 64, causal: false, masked: false };
const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

type Run = fn(&Session, Case, &Application, Rung) -> Vec<Tensor>;

fn all(cases: &[(Case, Rung)], dtypes: &[DType], make: fn(Case, DType) -> Application, run: Run) {
    let made =
        |&(case, rung): &(Case, Rung)| dtypes.iter().map(move |&dtype| (make(case, dtype), (case, rung)));
    let cases: Vec<_> = cases.iter().flat_map(made).collect();
    hold(&cases, |session, application, &(case, rung)| run(session, case, application, rung));
}

/// Few tokens, in all ways of seeing each other.
fn small() -> Vec<(Case, Rung)> {
    let cases = [
        PLAIN,
        Case { causal: true, hq: 4, d: 72, ..PLAIN },
        // More queries than keys: the first see nothing.
        Case { batch: 2, sq: 6, sk: 3, causal: true, masked: true, d: 128, ..PLAIN },
        Case { sq: 1, sk: 1, hq: 1, hkv: 1, d: 1, ..PLAIN },
        Case { d: 33, masked: true, ..PLAIN },
        Case { sq: 2, sk: 3, d: 136, ..PLAIN },
    ];
    cases.map(|case| (case, Rung::Warp)).to_vec()
}

/// More tokens than a tile has, and heads that fill none.
fn tiles() -> Vec<(Case, Rung)> {
    let plain = Case { sq: 70, sk: 130, hq: 1, hkv: 1, ..PLAIN };
    vec![
        (plain, Rung::Flash(64)),
        (Case { causal: true, hq: 2, d: 72, ..plain }, Rung::Flash(80)),
        // The first queries see nothing; whole tiles of keys are out of sight.
        (Case { batch: 2, sq: 150, sk: 65, causal: true, masked: true, d: 128, ..plain }, Rung::Flash(128)),
        (Case { sq: 1, sk: 1, d: 8, ..plain }, Rung::Flash(64)),
    ]
}

#[test]
fn a_warp_per_query() {
    all(&small(), &DTYPES, Case::application, forward);
}

#[test]
fn decoding() {
    let cases = [
        (Case { sq: 1, sk: 150, hq: 4, ..PLAIN }, Rung::Decode(3)),
        (Case { sq: 2, sk: 90, causal: true, d: 72, ..PLAIN }, Rung::Decode(2)),
        (Case { batch: 2, sq: 1, sk: 70, masked: true, d: 128, ..PLAIN }, Rung::Decode(1)),
        // Splits without a key that is seen.
        (Case { sq: 3, sk: 2, causal: true, d: 256, ..PLAIN }, Rung::Decode(4)),
        (Case { sq: 1, sk: 5, d: 8, ..PLAIN }, Rung::Decode(2)),
    ];
    all(&cases, &DTYPES, Case::application, forward);
}

#[test]
fn tensor_cores() {
    all(&tiles(), &[DType::BF16], Case::application, forward);
}

#[test]
fn gradients() {
    all(&small(), &DTYPES, Case::gradient, backward);
}

#[test]
fn gradients_on_tensor_cores() {
    all(&tiles(), &[DType::BF16], Case::gradient, backward);
}
