//! Every path and type against the f64 reference.

mod reference;

use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::cpu::threads::with_threads;
use reference::Reference;

/// A random problem; everything else follows from the seed.
#[derive(Clone, Debug)]
struct Case {
    b: usize,
    sq: usize,
    sk: usize,
    hkv: usize,
    group: usize,
    dim: usize,
    causal: bool,
    mask: Mask,
    /// K and V of KV heads as views into a longer cache `[B, Hkv, capacity, D]`; Q in a fused projection.
    strided: bool,
    seed: u64,
}

#[derive(Clone, Copy, Debug)]
enum Mask {
    None,
    Left,
    Right,
    Scattered,
    /// The first batch item has no key at all.
    Nothing,
}

fn cases(longest: usize) -> impl Strategy<Value = Case> {
    // Lengths around the block size, the vector length and zero keys.
    let length = prop_oneof![
        1..=6usize,
        1..=longest,
        prop_oneof![Just(15usize), Just(16), Just(17), Just(63), Just(64), Just(65), Just(129)],
    ];
    let keys = prop_oneof![1 => Just(0usize), 12 => length.clone()];
    let dim = prop_oneof![Just(8usize), Just(12), Just(64), Just(72), Just(128), 1..=33usize];
    let mask = prop_oneof![
        Just(Mask::None),
        Just(Mask::Left),
        Just(Mask::Right),
        Just(Mask::Scattered),
        Just(Mask::Nothing)
    ];
    let group = prop_oneof![Just(1usize), Just(3), Just(4)];
    (1..=2usize, length, keys, 1..=2usize, group, dim, any::<bool>(), mask, any::<bool>(), any::<u64>())
        .prop_map(|(b, sq, sk, hkv, group, dim, causal, mask, strided, seed)| Case {
            b,
            sq,
            sk,
            hkv,
            group,
            dim,
            causal,
            mask,
            strided,
            seed,
        })
}

/// Deterministic noise, about normal with deviation one.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn tensor<T: Float>(&mut self, len: usize) -> Vec<T> {
        (0..len).map(|_| T::from_f64((0..4).map(|_| self.uniform()).sum::<f64>() * 1.7 - 3.4)).collect()
    }
}

/// The tensors of a case, and how they lie in memory.
struct Inputs<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    dout: Vec<T>,
    mask: Option<Vec<u8>>,
    q_shape: [usize; 4],
    k_shape: [usize; 4],
    q_strides: [usize; 3],
    k_strides: [usize; 3],
    params: Params,
}

impl<T: Float> Inputs<T> {
    fn new(c: &Case) -> Self {
        let mut noise = Noise(c.seed);
        let hq = c.hkv * c.group;
        let (q_shape, k_shape) = ([c.b, c.sq, hq, c.dim], [c.b, c.sk, c.hkv, c.dim]);
        let capacity = c.sk + 3;
        let (q_strides, q_len, k_strides, k_len) = if c.strided {
            let row = 3 * hq * c.dim + 1;
            let head = capacity * c.dim;
            ([c.sq * row, row, c.dim], c.b * c.sq * row, [c.hkv * head, c.dim, head], c.b * c.hkv * head)
        } else {
            let (row, key) = (hq * c.dim, c.hkv * c.dim);
            ([c.sq * row, row, c.dim], c.b * c.sq * row, [c.sk * key, key, c.dim], c.b * c.sk * key)
        };
        let mask: Option<Vec<u8>> = match c.mask {
            Mask::None => None,
            Mask::Left => Some((0..c.b * c.sk).map(|x| u8::from(x % c.sk >= c.sk / 3)).collect()),
            Mask::Right => Some((0..c.b * c.sk).map(|x| u8::from(x % c.sk < c.sk - c.sk / 3)).collect()),
            Mask::Scattered => Some((0..c.b * c.sk).map(|_| u8::from(noise.uniform() < 0.7)).collect()),
            Mask::Nothing => Some((0..c.b * c.sk).map(|x| u8::from(x >= c.sk)).collect()),
        };
        let q = noise.tensor(q_len);
        let (mut k, mut v): (Vec<T>, Vec<T>) = (noise.tensor(k_len), noise.tensor(k_len));
        if let Some(mask) = &mask {
            // Nothing may come of what a masked key holds.
            for (x, _) in mask.iter().enumerate().filter(|(_, m)| **m == 0) {
                for h in 0..c.hkv {
                    let at = x / c.sk * k_strides[0] + x % c.sk * k_strides[1] + h * k_strides[2];
                    k[at..at + c.dim].fill(T::from_f32(f32::NAN));
                    v[at..at + c.dim].fill(T::from_f32(f32::NAN));
                }
            }
        }
        let params = Params { scale: (c.dim as f32).sqrt().recip(), causal: c.causal };
        let dout = noise.tensor(q_shape.iter().product());
        Self { q, k, v, dout, mask, q_shape, k_shape, q_strides, k_strides, params }
    }

    fn views(&self) -> [View<'_, T>; 3] {
        [
            View::new(&self.q, self.q_shape, self.q_strides),
            View::new(&self.k, self.k_shape, self.k_strides),
            View::new(&self.v, self.k_shape, self.k_strides),
        ]
    }

    fn reference(&self) -> Reference {
        let gather = |view: View<'_, T>| -> Vec<f64> {
            let [b, s, h, _] = view.shape;
            let mut all = Vec::new();
            for x in 0..b * s * h {
                // A masked NaN times a zero probability would be NaN in the plain formula.
                let row = view.row(x / h / s, x / h % s, x % h);
                all.extend(row.iter().map(|x| if x.to_f32().is_nan() { 0.0 } else { x.to_f64() }));
            }
            all
        };
        let [q, k, v] = self.views();
        let [b, sq, hq, dim] = self.q_shape;
        Reference {
            b,
            sq,
            hq,
            dim,
            sk: self.k_shape[1],
            hkv: self.k_shape[2],
            scale: f64::from(self.params.scale),
            causal: self.params.causal,
            q: gather(q),
            k: gather(k),
            v: gather(v),
            mask: self.mask.clone(),
        }
    }

    fn forward(&self, isa: Isa) -> (Vec<T>, Vec<f32>) {
        let [q, k, v] = self.views();
        let [b, sq, hq, _] = self.q_shape;
        // Poisoned, so that an element that is not written is found.
        let mut out = vec![T::from_f32(f32::NAN); self.dout.len()];
        let mut lse = vec![f32::NAN; b * hq * sq];
        forward_with(isa, self.params, q, k, v, self.mask.as_deref(), &mut out, &mut lse);
        (out, lse)
    }

    fn backward(&self, isa: Isa, out: &[T], lse: &[f32]) -> [Vec<T>; 3] {
        let [q, k, v] = self.views();
        let poison = |n: usize| vec![T::from_f32(f32::NAN); n];
        let kv_len = self.k_shape.iter().product();
        let (mut dq, mut dk, mut dv) = (poison(self.dout.len()), poison(kv_len), poison(kv_len));
        let dout = View::contiguous(&self.dout, self.q_shape);
        let mask = self.mask.as_deref();
        backward_with(isa, self.params, q, k, v, mask, out, lse, dout, &mut dq, &mut dk, &mut dv);
        [dq, dk, dv]
    }
}

/// Bounds on |difference| / (1 + scale of the tensor), where the scale is its largest magnitude or, for
/// gradients, the spread of the terms that an element is summed from if that is more.
///
/// Inputs have deviation 1 and scores about 1, so weights sum to one and an output is an average of
/// values. An f32 path sums up to a few hundred f32 products: errors of a few 2⁻²⁴ · √n, here 1e-5
/// generously, gradients as much again. A result in bf16 (8 bits) is off by half a unit, 2⁻⁹, and with P
/// or dS rounded to bf16 by as much again before averaging; the recomputed gradient sees the rounded
/// output through δ. Two units, 2⁻⁷, hold both. f16 has 11 bits.
struct Tolerance {
    forward: f64,
    backward: f64,
}

fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::BF16 => Tolerance { forward: 2f64.powi(-8), backward: 2f64.powi(-7) },
        DType::F16 => Tolerance { forward: 2f64.powi(-11), backward: 2f64.powi(-9) },
        _ => Tolerance { forward: 1e-5, backward: 2e-5 },
    }
}

#[track_caller]
fn assert_close<T: Element>(what: &str, got: &[T], want: &[f64], spread: f64, tolerance: f64) {
    let scale = want.iter().filter(|x| x.is_finite()).fold(spread, |a, x| a.max(x.abs()));
    for (i, (got, &want)) in got.iter().zip(want).enumerate() {
        let got = got.to_f64();
        let error = if got == want { 0.0 } else { (got - want).abs() / (1.0 + scale) };
        assert!(error <= tolerance, "{what}[{i}]: {got} against {want}, error {error:.2e} > {tolerance:.2e}");
    }
}

use crate::Element;

fn paths() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| *isa <= Isa::detect())
}

fn check<T: Float>(case: &Case) {
    let inputs = Inputs::<T>::new(case);
    let reference = inputs.reference();
    let (want, want_lse) = reference.forward();
    let dout: Vec<f64> = inputs.dout.iter().map(|x| x.to_f64()).collect();
    let grads = reference.backward(&dout);
    let bound = tolerance(T::DTYPE);
    for isa in paths() {
        let name = |what: &str| format!("{what} on {} in {}", isa.name(), T::DTYPE);
        let (out, lse) = inputs.forward(isa);
        assert_close(&name("out"), &out, &want, 0.0, bound.forward);
        // Scores are f32 sums whatever the type.
        assert_close(&name("lse"), &lse, &want_lse, 0.0, tolerance(DType::F32).forward);
        let [dq, dk, dv] = inputs.backward(isa, &out, &lse);
        assert_close(&name("dq"), &dq, &grads.dq, grads.spread[0], bound.backward);
        assert_close(&name("dk"), &dk, &grads.dk, grads.spread[1], bound.backward);
        assert_close(&name("dv"), &dv, &grads.dv, grads.spread[2], bound.backward);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f32_agrees_with_the_reference(case in cases(200)) {
        check::<f32>(&case);
    }

    #[test]
    fn bf16_agrees_with_the_reference(case in cases(200)) {
        check::<bf16>(&case);
    }

    #[test]
    fn f16_agrees_with_the_reference(case in cases(100)) {
        check::<f16>(&case);
    }

    #[test]
    fn decoding_agrees_with_the_reference(
        mut case in cases(8),
        sq in 1..=DECODE_QUERIES,
        // Beyond one and beyond eight ranges of keys.
        sk in prop_oneof![1..=700usize, 2000..=2600usize],
    ) {
        case.sq = sq;
        case.sk = sk;
        case.group = case.group.max(1);
        check::<f32>(&case);
        check::<bf16>(&case);
    }
}

/// The shapes of `SmolVLM`, where blocks are whole and many: 729 patches of dim 72, 164 rows of 3 to 1.
#[test]
fn model_shapes_agree_with_the_reference() {
    let base = Case {
        b: 1,
        sq: 729,
        sk: 729,
        hkv: 1,
        group: 1,
        dim: 72,
        causal: false,
        mask: Mask::None,
        strided: false,
        seed: 1,
    };
    check::<bf16>(&base);
    check::<f32>(&base);
    let text = Case { sq: 164, sk: 164, hkv: 3, group: 3, dim: 64, causal: true, mask: Mask::Right, ..base };
    check::<bf16>(&text);
    check::<f32>(&text);
}

#[test]
fn thread_count_changes_no_bit() {
    for (sq, sk, hkv, group) in [(300, 300, 1, 3), (130, 700, 2, 1), (2, 900, 1, 4)] {
        for isa in paths() {
            let case = Case {
                b: 1,
                sq,
                sk,
                hkv,
                group,
                dim: 64,
                causal: true,
                mask: Mask::Scattered,
                strided: true,
                seed: 7,
            };
            let inputs = Inputs::<bf16>::new(&case);
            let run = |threads| {
                with_threads(threads, || {
                    let (out, lse) = inputs.forward(isa);
                    let grads = inputs.backward(isa, &out, &lse);
                    (out, lse.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), grads)
                })
            };
            assert_eq!(run(1), run(usize::MAX));
        }
    }
}

/// Large scores: the weights of all keys but one underflow, and nothing overflows.
#[test]
fn extreme_scores_stay_finite() {
    for isa in paths() {
        for scale in [1e4f32, -1e4, 0.0] {
            let case = Case {
                b: 1,
                sq: 70,
                sk: 90,
                hkv: 1,
                group: 1,
                dim: 16,
                causal: true,
                mask: Mask::None,
                strided: false,
                seed: 3,
            };
            let mut inputs = Inputs::<f32>::new(&case);
            inputs.params.scale = scale;
            let (out, lse) = inputs.forward(isa);
            assert!(out.iter().chain(&lse).all(|x| x.is_finite()));
            let grads = inputs.backward(isa, &out, &lse);
            assert!(grads.iter().flatten().all(|x| x.is_finite()));
            assert_close("out", &out, &inputs.reference().forward().0, 0.0, 2e-2);
        }
    }
}

/// The documented error of the exponential, over its whole range.
#[test]
fn exponential_is_within_its_bound() {
    struct Exp2<'a>(&'a mut [f32]);
    impl simd::Kernel for Exp2<'_> {
        type Out = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            assert!(self.0.len().is_multiple_of(S::LANES));
            for chunk in self.0.chunks_exact_mut(S::LANES) {
                let p = chunk.as_mut_ptr();
                // SAFETY: a chunk is one vector.
                unsafe { S::store(p, simd::exp2::<S>(S::load(p))) };
            }
        }
    }
    struct Run<'a>(&'a mut [f32]);
    impl Pass for Run<'_> {
        fn run<S: Simd>(self, isa: S) {
            isa.run(Exp2(self.0));
        }
    }
    for isa in paths() {
        let inputs: Vec<f32> = (0..1 << 20).map(|i| -126.0 * (i as f32 / (1 << 20) as f32)).collect();
        let mut results = inputs.clone();
        dispatch(isa, DType::F32, Run(&mut results));
        let mut worst = (0.0f64, 0.0f32);
        for (x, y) in inputs.iter().zip(results) {
            let want = f64::from(*x).exp2();
            let ulp = 2f64.powi(want.log2().floor() as i32 - 23);
            let error = (f64::from(y) - want).abs() / ulp;
            if error > worst.0 {
                worst = (error, *x);
            }
        }
        println!("{}: exp2 within {:.3} ulp, worst at {}", isa.name(), worst.0, worst.1);
        assert!(worst.0 <= 1.5, "{}: {} ulp at {}", isa.name(), worst.0, worst.1);
        let mut special = [f32::NEG_INFINITY; 16];
        special[1] = -127.0;
        special[2] = 0.0;
        special[3] = f32::NAN;
        dispatch(isa, DType::F32, Run(&mut special));
        assert_eq!(special[..3], [0.0, 0.0, 1.0]);
        assert!(special[3].is_nan());
    }
}
