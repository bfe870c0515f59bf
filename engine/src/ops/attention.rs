//! Scaled dot-product attention.

use crate::autograd::GradContext;
use crate::error::{Error, Result, rule};
use crate::op::{Cost, Op, Saves, Spec, apply};
use crate::ops::{AttentionGrad, arity, float, same_dtype, shape};
use crate::{DType, Tensor};

/// `softmax(scale·Q·Kᵀ + mask)·V` without a score matrix in memory (Dao 2023, arXiv 2307.08691).
///
/// Inputs `q [B, Sq, Hq, D]`, `k` and `v [B, Sk, Hkv, D]` of one dtype and, if given, a key mask u8 `[B, Sk]`
/// of which 0 hides a key. `Hkv` divides `Hq`: query head `h` reads key head `h / (Hq/Hkv)`. Outputs `out`
/// like `q` and the logarithm of each row's sum, `lse` f32 `[B, Hq, Sq]`. A query that sees no key gives 0,
/// and −∞ in `lse`.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Multiplies the scores; usually `D^(−1/2)`.
    pub scale: f32,
    /// Query `i` sees the keys up to `i + Sk − Sq`: the last query sees all.
    pub causal: bool,
}

/// The rule that attention and its gradient share, on `q`, `k`, `v`. Returns `[B, Sq, Sk, Hq]`.
pub(super) fn check(op: &'static str, q: &Spec, k: &Spec, v: &Spec) -> Result<[usize; 4]> {
    float(op, "q", q)?;
    same_dtype(op, ["k", "q"], k, q)?;
    same_dtype(op, ["v", "q"], v, q)?;
    let ([b, sq, hq, d], [_, sk, hkv, _]) = (&q.dims[..], &k.dims[..]) else {
        return Err(rule!(
            op,
            "q {:?} and k {:?}; expected [B, Sq, Hq, D] and [B, Sk, Hkv, D]",
            q.dims,
            k.dims
        ));
    };
    if *hkv == 0 || !hq.is_multiple_of(*hkv) {
        return Err(rule!(op, "{hq} query heads (q {:?}) over {hkv} key heads (k {:?})", q.dims, k.dims));
    }
    shape(op, "k", k, &[*b, *sk, *hkv, *d])?;
    shape(op, "v", v, &k.dims)?;
    if u32::try_from(*sk).is_err() {
        return Err(rule!(op, "{sk} keys are more than a u32 can count"));
    }
    Ok([*b, *sq, *sk, *hq])
}

/// The rule of the key mask.
pub(super) fn check_mask(op: &'static str, mask: &Spec, b: usize, sk: usize) -> Result<()> {
    if mask.dtype != DType::U8 {
        return Err(rule!(op, "the key mask is {}, expected u8", mask.dtype));
    }
    shape(op, "the key mask", mask, &[b, sk])
}

/// Pairs of a query and a key that it sees, over all heads, times `D`; keys that a mask hides count.
pub(super) fn pairs(q: &Spec, k: &Spec, causal: bool) -> usize {
    let (&[b, sq, hq, d], sk) = (&q.dims[..], k.dims[1]) else { return 0 };
    let seen = match (causal, sq.checked_sub(sk)) {
        (false, _) => sq * sk,
        (true, None | Some(0)) => sq * (sk - sq) + sq * (sq + 1) / 2,
        // The first queries see nothing.
        (true, Some(_)) => sk * (sk + 1) / 2,
    };
    b * hq * seen * d
}

impl Op for Attention {
    const NAME: &'static str = "attention";

    fn infer(&self, inputs: &[Spec]) -> Result<Vec<Spec>> {
        if inputs.len() != 4 {
            arity(Self::NAME, inputs, 3)?;
        }
        let q = inputs[0];
        let [b, sq, sk, hq] = check(Self::NAME, &q, &inputs[1], &inputs[2])?;
        if let Some(mask) = inputs.get(3) {
            check_mask(Self::NAME, mask, b, sk)?;
        }
        Ok(vec![q, Spec::new(&[b, hq, sq], DType::F32)?])
    }

    fn cost(&self, inputs: &[Spec], outputs: &[Spec]) -> Cost {
        // Two products.
        Cost::streaming(4 * pairs(&inputs[0], &inputs[1], self.causal), inputs, outputs)
    }

    fn saves(&self, _: &[bool]) -> Saves {
        Saves::ALL
    }

    fn grad(&self, ctx: &GradContext<'_>, grads: &[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> {
        if grads[1].is_some() {
            return Err(Error::Autograd("the log-sum-exp of attention has no gradient; detach it".into()));
        }
        let Some(g) = &grads[0] else { return Ok(vec![None; ctx.inputs()]) };
        let op = AttentionGrad { scale: self.scale, causal: self.causal };
        let inputs = (0..ctx.inputs()).map(|i| ctx.input(i)).collect::<Result<Vec<_>>>()?;
        let (out, lse) = (ctx.output(0)?, ctx.output(1)?);
        let mut all = vec![&inputs[0], &inputs[1], &inputs[2], &out, &lse, g];
        all.extend(inputs.get(3));
        let mut grads: Vec<_> = apply(op, &all)?.into_iter().map(Some).collect();
        grads.resize(ctx.inputs(), None);
        Ok(grads)
    }
}

impl Tensor {
    /// Attention of these queries `[B, Sq, Hq, D]` over `k` and `v [B, Sk, Hkv, D]`; `key_mask` u8 `[B, Sk]`
    /// hides keys where it is 0. Any strides; only those whose last dimension is not contiguous are copied.
    /// The result is contiguous, like `self`.
    pub fn attention(
        &self,
        k: &Self,
        v: &Self,
        key_mask: Option<&Self>,
        scale: f32,
        causal: bool,
    ) -> Result<Self> {
        let mut inputs = vec![self, k, v];
        inputs.extend(key_mask);
        Ok(apply(Attention { scale, causal }, &inputs)?.swap_remove(0))
    }
}
