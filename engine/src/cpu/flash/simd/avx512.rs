//! AVX-512: sixteen lanes, 32 registers; with and without the bf16 dot product.

#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Kernel, Simd};
use crate::{DType, Float};

proof! {
    /// f32 words on 512-bit vectors.
    Avx512
}

proof! {
    /// Pairs of bf16 in a word, multiplied by `vdpbf16ps`: products are exact in f32, each accumulation
    /// rounds to nearest even, subnormals count as zero.
    Avx512Bf16
}

/// What both have in common.
macro_rules! f32_vectors {
    () => {
        type V = __m512;
        const LANES: usize = 16;
        const TILE_ROWS: [usize; 4] = [16, 12, 8, 6];
        const TILE_COLUMNS: usize = 4;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self::V {
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self::V {
            unsafe { _mm512_loadu_ps(p) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut f32, x: Self::V) {
            unsafe { _mm512_storeu_ps(p, x) }
        }
        #[inline(always)]
        unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn add_exponent(x: Self::V, biased: Self::V) -> Self::V {
            unsafe {
                let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(biased));
                _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), n))
            }
        }
        #[inline(always)]
        unsafe fn prefetch<T>(p: *const T) {
            unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn sum_each(x: &[Self::V; 16]) -> Self::V {
            unsafe { sum_each(x) }
        }
        #[inline(always)]
        unsafe fn transpose(from: *const u32, from_row: usize, to: *mut u32, to_row: usize) {
            unsafe { transpose(from, from_row, to, to_row) }
        }
        #[inline(always)]
        unsafe fn widen<T: Float>(p: *const T, count: usize) -> Self::V {
            unsafe { widen(p, count) }
        }
    };
}

// SAFETY (both impls and the functions below): the intrinsics need AVX-512 F, BW, VL, DQ (and BF16),
// which the caller of any `Simd` method promises; every pointer is valid for the elements it is read or
// written for by the same contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512 {
    run_with!(Avx512, target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"));
    f32_vectors!();
    type W = __m512;
    const GROUP: usize = 1;

    #[inline(always)]
    unsafe fn words(p: *const u32) -> Self::W {
        unsafe { _mm512_loadu_ps(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut u32, x: Self::W) {
        unsafe { _mm512_storeu_ps(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn splat_word(p: *const u32) -> Self::W {
        unsafe { _mm512_set1_ps(*p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::V, a: Self::W, b: Self::W) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, acc) }
    }
    #[inline(always)]
    unsafe fn zip(lo: Self::V, _: Self::V) -> Self::W {
        lo
    }
    #[inline(always)]
    unsafe fn store_narrow(p: *mut u32, x: Self::V) {
        unsafe { _mm512_storeu_ps(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn gather_words<T: Float>(p: *const T, count: usize) -> Self::W {
        unsafe { widen(p, count) }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx512Bf16 {
    run_with!(
        Avx512Bf16,
        target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")
    );
    f32_vectors!();
    type W = __m512i;
    const GROUP: usize = 2;

    #[inline(always)]
    unsafe fn words(p: *const u32) -> Self::W {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut u32, x: Self::W) {
        unsafe { _mm512_storeu_si512(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn splat_word(p: *const u32) -> Self::W {
        unsafe { _mm512_set1_epi32(*p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::V, a: Self::W, b: Self::W) -> Self::V {
        // Both are 512 bits of bf16; the intrinsic's type has no other constructor.
        unsafe { _mm512_dpbf16_ps(acc, transmute::<__m512i, __m512bh>(a), transmute::<__m512i, __m512bh>(b)) }
    }
    #[inline(always)]
    unsafe fn zip(lo: Self::V, hi: Self::V) -> Self::W {
        unsafe {
            let halves = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(hi, lo));
            #[rustfmt::skip]
            let order = _mm512_set_epi16(
                31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
            );
            _mm512_permutexvar_epi16(order, halves)
        }
    }
    #[inline(always)]
    unsafe fn store_narrow(p: *mut u32, x: Self::V) {
        unsafe { _mm256_storeu_si256(p.cast(), transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x))) }
    }
    #[inline(always)]
    unsafe fn gather_words<T: Float>(p: *const T, count: usize) -> Self::W {
        debug_assert!(T::DTYPE == DType::BF16);
        unsafe {
            if count >= 32 {
                _mm512_loadu_si512(p.cast())
            } else {
                _mm512_maskz_loadu_epi16((1 << count) - 1, p.cast())
            }
        }
    }
    #[inline(always)]
    unsafe fn zip_rows<T: Float>(lo: *const T, hi: *const T, count: usize) -> Self::W {
        debug_assert!(T::DTYPE == DType::BF16);
        let mask = if count >= 16 { !0 } else { (1u16 << count) - 1 };
        unsafe {
            let lo = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, lo.cast()));
            let hi = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, hi.cast()));
            _mm512_or_si512(lo, _mm512_slli_epi32::<16>(hi))
        }
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
#[inline(always)]
unsafe fn widen<T: Float>(p: *const T, count: usize) -> __m512 {
    let mask = if count >= 16 { !0 } else { (1u16 << count) - 1 };
    unsafe {
        match T::DTYPE {
            DType::F32 => _mm512_maskz_loadu_ps(mask, p.cast()),
            DType::BF16 => {
                let x = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x))
            }
            DType::F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p.cast())),
            _ => unreachable!("not a floating type"),
        }
    }
}

/// Sums of 16 vectors by a tree of four levels, each of which halves the number of vectors.
#[allow(clippy::undocumented_unsafe_blocks)]
#[inline(always)]
unsafe fn sum_each(x: &[__m512; 16]) -> __m512 {
    unsafe {
        // Within 128-bit blocks: lane i of `quads[q]` holds block sums of vector 4q + i.
        let mut quads = [_mm512_setzero_ps(); 4];
        for q in 0..4 {
            let y = &x[4 * q..4 * q + 4];
            let a = _mm512_add_ps(_mm512_unpacklo_ps(y[0], y[1]), _mm512_unpackhi_ps(y[0], y[1]));
            let b = _mm512_add_ps(_mm512_unpacklo_ps(y[2], y[3]), _mm512_unpackhi_ps(y[2], y[3]));
            quads[q] = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(a, b), _mm512_shuffle_ps::<0xee>(a, b));
        }
        // Across the blocks.
        let [q0, q1, q2, q3] = quads;
        let a = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(q0, q1), _mm512_shuffle_f32x4::<0xee>(q0, q1));
        let b = _mm512_add_ps(_mm512_shuffle_f32x4::<0x44>(q2, q3), _mm512_shuffle_f32x4::<0xee>(q2, q3));
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
    }
}

#[allow(clippy::undocumented_unsafe_blocks)]
#[inline(always)]
unsafe fn transpose(from: *const u32, from_row: usize, to: *mut u32, to_row: usize) {
    unsafe {
        let mut r = [_mm512_setzero_si512(); 16];
        let mut t = [_mm512_setzero_si512(); 16];
        for i in 0..16 {
            r[i] = _mm512_loadu_si512(from.add(i * from_row).cast());
        }
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        // r[4g + c], 128-bit block b: column 4b + c of rows 4g … 4g + 3.
        for g in 0..4 {
            r[4 * g] = _mm512_unpacklo_epi64(t[4 * g], t[4 * g + 2]);
            r[4 * g + 1] = _mm512_unpackhi_epi64(t[4 * g], t[4 * g + 2]);
            r[4 * g + 2] = _mm512_unpacklo_epi64(t[4 * g + 1], t[4 * g + 3]);
            r[4 * g + 3] = _mm512_unpackhi_epi64(t[4 * g + 1], t[4 * g + 3]);
        }
        // A 4 × 4 transpose of blocks for each c.
        for c in 0..4 {
            let low0 = _mm512_shuffle_i32x4::<0x44>(r[c], r[4 + c]);
            let low1 = _mm512_shuffle_i32x4::<0x44>(r[8 + c], r[12 + c]);
            let high0 = _mm512_shuffle_i32x4::<0xee>(r[c], r[4 + c]);
            let high1 = _mm512_shuffle_i32x4::<0xee>(r[8 + c], r[12 + c]);
            let columns = [
                _mm512_shuffle_i32x4::<0x88>(low0, low1),
                _mm512_shuffle_i32x4::<0xdd>(low0, low1),
                _mm512_shuffle_i32x4::<0x88>(high0, high1),
                _mm512_shuffle_i32x4::<0xdd>(high0, high1),
            ];
            for b in 0..4 {
                _mm512_storeu_si512(to.add((4 * b + c) * to_row).cast(), columns[b]);
            }
        }
    }
}
