//! Vectors: the few operations the attention kernels are written in, once per instruction set.
//!
//! Matrix operands are stored as 32-bit **words**. Where the instruction set has a bf16 dot product and
//! the tensors are bf16, a word is a pair of bf16 neighbours along the contracted axis ([`Simd::GROUP`]
//! is 2, [`Simd::dot`] is `vdpbf16ps`); everywhere else a word is one f32 and `dot` is a multiply-add.
//! With that, the kernels in `super::kernels` are the same text for every path.

/// Defines the proof type of an instruction set and, inside its `impl Simd`, `run`.
macro_rules! proof {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub(in super::super) struct $name(());

        impl $name {
            /// # Safety
            /// The machine has the instruction set.
            pub(in super::super) unsafe fn assume() -> Self {
                Self(())
            }
        }
    };
}
macro_rules! run_with {
    ($name:ident, $attribute:meta) => {
        #[inline(always)]
        fn run<K: Kernel>(self, kernel: K) -> K::Out {
            #[$attribute]
            unsafe fn compiled<K: Kernel>(kernel: K) -> K::Out {
                // SAFETY: this function is the one place that a kernel is run from.
                unsafe { kernel.run::<$name>() }
            }
            // SAFETY: `self` proves that the machine has the instruction set.
            unsafe { compiled(kernel) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod portable;

use crate::Float;

/// An inner kernel: a struct of its arguments, whose code is written once on [`Simd`].
pub(super) trait Kernel {
    /// What it returns besides what it writes.
    type Out;
    /// Computes it.
    ///
    /// # Safety
    /// For [`Simd::run`] alone, which compiles the body for the instruction set of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Out;
}

/// One instruction set's f32 vectors and operand words. A *value* of such a type is the proof that the
/// machine has the instruction set, which makes [`Simd::run`] safe.
///
/// # Safety
/// Every `unsafe` method may be called only from a [`Kernel`], into which it inlines. Pointers must be
/// valid for the elements that the method names; no alignment is needed.
pub(super) trait Simd: Copy + Send + Sync {
    /// Runs a kernel on this instruction set.
    fn run<K: Kernel>(self, kernel: K) -> K::Out;

    /// A vector of [`Self::LANES`] f32.
    type V: Copy;
    /// A vector of [`Self::LANES`] words.
    type W: Copy;
    /// Elements of a vector; a power of two, at most 16.
    const LANES: usize;
    /// Elements in a word.
    const GROUP: usize;
    /// Rows of the register tile that is `columns` vectors wide: as many as leave registers for one row
    /// of B and one broadcast of A.
    const TILE_ROWS: [usize; 4];
    /// Vectors across the widest register tile.
    const TILE_COLUMNS: usize;

    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// Reads `LANES` f32.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Writes `LANES` f32.
    unsafe fn store(p: *mut f32, x: Self::V);
    /// a + b
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, fused where the instruction set can.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; `b` if either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// Adds `n · 2²³` to the bits of `x`, where `n` is the integer in the low bits of `biased`.
    unsafe fn add_exponent(x: Self::V, biased: Self::V) -> Self::V;
    /// Lane `i` of the result is the sum of vector `i` of the first `LANES` of `x`.
    unsafe fn sum_each(x: &[Self::V; 16]) -> Self::V;

    /// Reads `LANES` words.
    unsafe fn words(p: *const u32) -> Self::W;
    /// Writes `LANES` words.
    unsafe fn store_words(p: *mut u32, x: Self::W);
    /// One word in all lanes.
    unsafe fn splat_word(p: *const u32) -> Self::W;
    /// Lane by lane: acc + Σ over the elements of the words of a · b.
    unsafe fn dot(acc: Self::V, a: Self::W, b: Self::W) -> Self::V;
    /// Words with `lo` as first and, if `GROUP` is 2, `hi` as second element.
    unsafe fn zip(lo: Self::V, hi: Self::V) -> Self::W;
    /// Writes `x` as `LANES / GROUP` words with neighbouring lanes in one word.
    unsafe fn store_narrow(p: *mut u32, x: Self::V);
    /// Transposes a square of `LANES` × `LANES` words; rows are `from_row` and `to_row` words apart.
    unsafe fn transpose(from: *const u32, from_row: usize, to: *mut u32, to_row: usize);

    /// Reads `count ≤ LANES` elements as f32, zero above.
    unsafe fn widen<T: Float>(p: *const T, count: usize) -> Self::V;
    /// Reads `count ≤ LANES · GROUP` neighbouring elements as words, zero above.
    unsafe fn gather_words<T: Float>(p: *const T, count: usize) -> Self::W;
    /// Asks for the cache line of `p`, which need not be valid.
    unsafe fn prefetch<T>(_p: *const T) {}
    /// Words of `count ≤ LANES` elements of each of two rows, zero above. Only where `GROUP` is 2.
    unsafe fn zip_rows<T: Float>(_lo: *const T, _hi: *const T, _count: usize) -> Self::W {
        unreachable!("a word has one element")
    }
}

/// Coefficients of 2^r − 1 over r, |r| ≤ ½, from the lowest power: the minimax polynomial of relative
/// error 2.6e-9 (Remez exchange) with the constant term held at exactly 1. The first is ln 2 to f32.
const EXP2: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_53, 0.055_503_106, 0.009_617_693, 0.001_340_664_4, 0.000_155_946_78];

/// 2^x for x ≤ 127, to within 1.5 ulp for x ≥ −126. From there down to −127 the result is some number
/// below 2^−126, and from −127 (so also for −∞) it is exactly 0. NaN stays NaN.
///
/// # Safety
/// That of [`Simd`].
#[inline(always)]
pub(super) unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // SAFETY: by the caller.
    unsafe {
        // Adding 1.5 · 2²³ rounds to an integer, which then stands in the low bits of the sum.
        let magic = S::splat(12_582_912.0);
        let x = S::max(S::splat(-127.0), x);
        let biased = S::add(x, magic);
        let r = S::sub(x, S::sub(biased, magic));
        let mut p = S::splat(EXP2[5]);
        p = S::fma(p, r, S::splat(EXP2[4]));
        p = S::fma(p, r, S::splat(EXP2[3]));
        p = S::fma(p, r, S::splat(EXP2[2]));
        p = S::fma(p, r, S::splat(EXP2[1]));
        p = S::fma(p, r, S::splat(EXP2[0]));
        p = S::fma(p, r, S::splat(1.0));
        S::add_exponent(p, biased)
    }
}
