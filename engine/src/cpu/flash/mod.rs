//! Scaled dot-product attention without a score matrix in memory.
//!
//! FlashAttention-2 (Dao 2023, arXiv 2307.08691) on CPU vectors: blocks of 64 queries by 64 keys, an
//! online softmax in f32, and a backward pass that recomputes the probabilities from the log-sum-exp of
//! each row. [`forward`] with up to [`DECODE_QUERIES`] queries takes a path of its own, bound by the
//! memory that holds K and V.
//!
//! **Numbers.** Every sum is f32 and the softmax is f32 with an exponential within 1.5 ulp. On
//! [`Isa::Avx512Bf16`] with bf16 tensors the products run on `vdpbf16ps`: as on GPUs, P and dS are rounded
//! to bf16 for the product they enter. All other paths multiply in f32.
//!
//! **Determinism.** Work is cut into tasks from shapes and mask alone and partial sums are added in order,
//! so the number of threads changes no bit. Different instruction sets differ by rounding.
//!
//! **Rows without a visible key** give output 0, log-sum-exp −∞ and gradient 0.

// Register tiles are arrays walked by constant counts, several in step.
#![allow(clippy::needless_range_loop)]

mod backward;
mod decode;
mod decode_kernels;
mod forward;
mod kernels;
mod pack;
mod reference;
mod scratch;
mod simd;
#[cfg(test)]
mod tests;

use super::isa::{self, Isa};
use crate::{DType, Float};
use simd::Simd;

/// Most queries per head for which [`forward`] takes the decode path.
pub const DECODE_QUERIES: usize = 4;

/// A read-only tensor `[batch, sequence, heads, dim]` whose last axis is contiguous.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    data: &'a [T],
    shape: [usize; 4],
    strides: [usize; 3],
}

impl<'a, T> View<'a, T> {
    /// A view of `data` with the strides of batch, sequence and heads in elements; 0 repeats.
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn new(data: &'a [T], shape: [usize; 4], strides: [usize; 3]) -> Self {
        if shape.iter().all(|&n| n > 0) {
            let last: usize = (0..3).map(|i| (shape[i] - 1) * strides[i]).sum();
            assert!(last + shape[3] <= data.len(), "view {shape:?} with strides {strides:?} leaves its data");
        }
        Self { data, shape, strides }
    }

    /// A view of contiguous `data`.
    ///
    /// # Panics
    /// If `data` is too short.
    pub fn contiguous(data: &'a [T], shape: [usize; 4]) -> Self {
        let [_, s, h, d] = shape;
        Self::new(data, shape, [s * h * d, h * d, d])
    }

    /// Offset of a row in the data.
    #[inline]
    fn offset(&self, b: usize, s: usize, h: usize) -> usize {
        b * self.strides[0] + s * self.strides[1] + h * self.strides[2]
    }

    /// The `dim` elements of one position of one head.
    #[inline]
    fn row(&self, b: usize, s: usize, h: usize) -> &'a [T] {
        let at = self.offset(b, s, h);
        &self.data[at..at + self.shape[3]]
    }
}

/// What attention computes: softmax(scale · Q·Kᵀ + mask)·V.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Multiplies the scores; usually dim^−½.
    pub scale: f32,
    /// Query i sees the keys j ≤ i + (Sk − Sq): the last query sees every key.
    pub causal: bool,
}

/// Attention of `q [B, Sq, Hq, D]` over `k` and `v [B, Sk, Hkv, D]`; query head h reads KV head
/// `h / (Hq / Hkv)`. Keys whose byte in `key_mask [B, Sk]` is 0 take no part and are never read. Writes
/// `out`, contiguous `[B, Sq, Hq, D]`, and the natural log-sum-exp of each row's scores, `lse [B, Hq, Sq]`.
///
/// # Panics
/// If shapes do not fit each other.
pub fn forward<T: Float>(
    params: Params,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    key_mask: Option<&[u8]>,
    out: &mut [T],
    lse: &mut [f32],
) {
    forward_with(isa::isa(), params, q, k, v, key_mask, out, lse);
}

/// [`forward`] on a path of the caller's choice.
///
/// # Panics
/// If shapes do not fit each other or the machine lacks the instruction set.
pub fn forward_with<T: Float>(
    isa: Isa,
    params: Params,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    key_mask: Option<&[u8]>,
    out: &mut [T],
    lse: &mut [f32],
) {
    let problem = Problem::new(params, q, k, v, key_mask);
    problem.check_results(out.len(), lse.len());
    if out.is_empty() {
        return;
    }
    if isa == Isa::Reference {
        return reference::forward(&problem, out, lse);
    }
    let pass = Forward { problem: &problem, out, lse };
    dispatch(isa, T::DTYPE, pass);
}

/// Gradients of attention given `dout [B, Sq, Hq, D]` and the results of [`forward`] on the same inputs:
/// `dq [B, Sq, Hq, D]`, `dk` and `dv [B, Sk, Hkv, D]`, contiguous and overwritten.
///
/// # Panics
/// If shapes do not fit each other.
pub fn backward<T: Float>(
    params: Params,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    key_mask: Option<&[u8]>,
    out: &[T],
    lse: &[f32],
    dout: View<'_, T>,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) {
    backward_with(isa::isa(), params, q, k, v, key_mask, out, lse, dout, dq, dk, dv);
}

/// [`backward`] on a path of the caller's choice.
///
/// # Panics
/// If shapes do not fit each other or the machine lacks the instruction set.
pub fn backward_with<T: Float>(
    isa: Isa,
    params: Params,
    q: View<'_, T>,
    k: View<'_, T>,
    v: View<'_, T>,
    key_mask: Option<&[u8]>,
    out: &[T],
    lse: &[f32],
    dout: View<'_, T>,
    dq: &mut [T],
    dk: &mut [T],
    dv: &mut [T],
) {
    let problem = Problem::new(params, q, k, v, key_mask);
    problem.check_results(out.len(), lse.len());
    assert_eq!(dout.shape, q.shape, "the gradient of the output has another shape than the queries");
    assert_eq!(dq.len(), out.len(), "length of dq");
    let kv_len: usize = k.shape.iter().product();
    assert!(dk.len() == kv_len && dv.len() == kv_len, "length of dk or dv");
    if out.is_empty() || kv_len == 0 {
        dq.fill(T::from_f32(0.0));
        dk.fill(T::from_f32(0.0));
        dv.fill(T::from_f32(0.0));
        return;
    }
    dispatch(isa, T::DTYPE, Backward { problem: &problem, out, lse, dout, dq, dk, dv });
}

/// The inputs that both passes share, checked against each other.
struct Problem<'a, T> {
    params: Params,
    q: View<'a, T>,
    k: View<'a, T>,
    v: View<'a, T>,
    /// The keys that take part, for each batch item.
    keys: Vec<Keys>,
    batch: usize,
    /// Queries and keys of a batch item.
    sq: usize,
    sk: usize,
    /// Query and KV heads, and query heads to a KV head.
    hq: usize,
    hkv: usize,
    group: usize,
    dim: usize,
}

impl<'a, T: Float> Problem<'a, T> {
    fn new(params: Params, q: View<'a, T>, k: View<'a, T>, v: View<'a, T>, mask: Option<&[u8]>) -> Self {
        let [batch, sq, hq, dim] = q.shape;
        let [_, sk, hkv, _] = k.shape;
        assert_eq!(k.shape, v.shape, "keys and values differ in shape");
        assert_eq!([batch, dim], [k.shape[0], k.shape[3]], "queries and keys differ in batch or head dim");
        assert!(hkv > 0 && hq.is_multiple_of(hkv), "{hq} query heads do not divide among {hkv} KV heads");
        assert!(mask.is_none_or(|mask| mask.len() == batch * sk), "length of the key mask");
        let keys = (0..batch).map(|b| Keys::new(sk, mask.map(|mask| &mask[b * sk..][..sk]))).collect();
        Self { params, q, k, v, keys, batch, sq, sk, hq, hkv, group: hq / hkv, dim }
    }

    fn check_results(&self, out: usize, lse: usize) {
        assert_eq!(out, self.batch * self.sq * self.hq * self.dim, "length of the output");
        assert_eq!(lse, self.batch * self.hq * self.sq, "length of the log-sum-exp");
    }

    /// How many of the batch item's taking-part keys query `i` sees; they are its first.
    fn visible(&self, b: usize, i: usize) -> usize {
        let keys = &self.keys[b];
        if self.params.causal { keys.before((i + 1 + self.sk).saturating_sub(self.sq)) } else { keys.count }
    }

    /// Factor from q·k to a score in units of log 2.
    fn log2_scale(&self) -> f32 {
        self.params.scale * std::f32::consts::LOG2_E
    }
}

/// The keys of one batch item that take part, in order. Kernels see only these, so a masked key costs
/// nothing and the causal mask is a count.
struct Keys {
    /// Their positions, unless they are all.
    list: Option<Vec<u32>>,
    count: usize,
}

impl Keys {
    fn new(sk: usize, mask: Option<&[u8]>) -> Self {
        match mask {
            Some(mask) if mask.contains(&0) => {
                let list: Vec<u32> = (0..sk as u32).filter(|&j| mask[j as usize] != 0).collect();
                Self { count: list.len(), list: Some(list) }
            }
            _ => Self { list: None, count: sk },
        }
    }

    /// Position of the `j`th.
    #[inline]
    fn at(&self, j: usize) -> usize {
        self.list.as_ref().map_or(j, |list| list[j] as usize)
    }

    /// How many stand before `position`.
    fn before(&self, position: usize) -> usize {
        match &self.list {
            Some(list) => list.partition_point(|&j| (j as usize) < position),
            None => position.min(self.count),
        }
    }
}

/// A pass, to be run on an instruction set chosen at run time.
trait Pass {
    fn run<S: Simd>(self, isa: S);
}

struct Forward<'a, T> {
    problem: &'a Problem<'a, T>,
    out: &'a mut [T],
    lse: &'a mut [f32],
}

impl<T: Float> Pass for Forward<'_, T> {
    fn run<S: Simd>(self, isa: S) {
        if self.problem.sq <= DECODE_QUERIES {
            decode::forward(isa, self.problem, self.out, self.lse);
        } else {
            forward::forward(isa, self.problem, self.out, self.lse);
        }
    }
}

struct Backward<'a, T> {
    problem: &'a Problem<'a, T>,
    out: &'a [T],
    lse: &'a [f32],
    dout: View<'a, T>,
    dq: &'a mut [T],
    dk: &'a mut [T],
    dv: &'a mut [T],
}

impl<T: Float> Pass for Backward<'_, T> {
    fn run<S: Simd>(self, isa: S) {
        backward::backward(isa, self);
    }
}

fn dispatch<P: Pass>(isa: Isa, dtype: DType, pass: P) {
    assert!(isa <= Isa::detect(), "this machine has no {}", isa.name());
    // SAFETY (each `assume`): the machine has `isa` by the assertion, and with it all lower ones.
    #[allow(clippy::undocumented_unsafe_blocks)]
    match (isa, dtype) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, DType::BF16) => pass.run(unsafe { simd::avx512::Avx512Bf16::assume() }),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512 | Isa::Avx512Bf16, _) => pass.run(unsafe { simd::avx512::Avx512::assume() }),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, _) => pass.run(unsafe { simd::avx2::Avx2::assume() }),
        _ => pass.run(unsafe { simd::portable::Portable::assume() }),
    }
}
