//! AVX2 with FMA and F16C: eight lanes, 16 registers.

#[allow(clippy::wildcard_imports)]
use std::arch::x86_64::*;

use super::{Kernel, Simd};
use crate::{DType, Float};

proof! {
    /// f32 words on 256-bit vectors.
    Avx2
}

// SAFETY (whole impl): the intrinsics need AVX2, FMA and F16C, which the caller of any `Simd` method
// promises; every pointer is valid for the elements it is read or written for by the same contract.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Simd for Avx2 {
    run_with!(Avx2, target_feature(enable = "avx2,fma,f16c"));
    type V = __m256;
    type W = __m256;
    const LANES: usize = 8;
    const GROUP: usize = 1;
    const TILE_ROWS: [usize; 4] = [10, 6, 4, 2];
    const TILE_COLUMNS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::V) {
        unsafe { _mm256_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn add_exponent(x: Self::V, biased: Self::V) -> Self::V {
        unsafe {
            let n = _mm256_slli_epi32::<23>(_mm256_castps_si256(biased));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), n))
        }
    }
    #[inline(always)]
    unsafe fn prefetch<T>(p: *const T) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn sum_each(x: &[Self::V; 16]) -> Self::V {
        unsafe {
            let low = _mm256_hadd_ps(_mm256_hadd_ps(x[0], x[1]), _mm256_hadd_ps(x[2], x[3]));
            let high = _mm256_hadd_ps(_mm256_hadd_ps(x[4], x[5]), _mm256_hadd_ps(x[6], x[7]));
            let a = _mm256_permute2f128_ps::<0x20>(low, high);
            let b = _mm256_permute2f128_ps::<0x31>(low, high);
            _mm256_add_ps(a, b)
        }
    }
    #[inline(always)]
    unsafe fn words(p: *const u32) -> Self::W {
        unsafe { _mm256_loadu_ps(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut u32, x: Self::W) {
        unsafe { _mm256_storeu_ps(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn splat_word(p: *const u32) -> Self::W {
        unsafe { _mm256_broadcast_ss(&*p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::V, a: Self::W, b: Self::W) -> Self::V {
        unsafe { _mm256_fmadd_ps(a, b, acc) }
    }
    #[inline(always)]
    unsafe fn zip(lo: Self::V, _: Self::V) -> Self::W {
        lo
    }
    #[inline(always)]
    unsafe fn store_narrow(p: *mut u32, x: Self::V) {
        unsafe { _mm256_storeu_ps(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const u32, from_row: usize, to: *mut u32, to_row: usize) {
        unsafe {
            let mut r = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                r[i] = Self::words(from.add(i * from_row));
            }
            let mut t = [_mm256_setzero_ps(); 8];
            for i in 0..4 {
                t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
            }
            for i in 0..2 {
                let u = &t[4 * i..4 * i + 4];
                r[4 * i] = _mm256_shuffle_ps::<0x44>(u[0], u[2]);
                r[4 * i + 1] = _mm256_shuffle_ps::<0xee>(u[0], u[2]);
                r[4 * i + 2] = _mm256_shuffle_ps::<0x44>(u[1], u[3]);
                r[4 * i + 3] = _mm256_shuffle_ps::<0xee>(u[1], u[3]);
            }
            for i in 0..4 {
                Self::store_words(to.add(i * to_row), _mm256_permute2f128_ps::<0x20>(r[i], r[i + 4]));
                Self::store_words(to.add((i + 4) * to_row), _mm256_permute2f128_ps::<0x31>(r[i], r[i + 4]));
            }
        }
    }
    #[inline(always)]
    unsafe fn widen<T: Float>(p: *const T, count: usize) -> Self::V {
        unsafe {
            if count < 8 {
                let mut part = [T::from_f32(0.0); 8];
                std::ptr::copy_nonoverlapping(p, part.as_mut_ptr(), count);
                return Self::widen(part.as_ptr(), 8);
            }
            match T::DTYPE {
                DType::F32 => _mm256_loadu_ps(p.cast()),
                DType::BF16 => {
                    let x = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x))
                }
                DType::F16 => _mm256_cvtph_ps(_mm_loadu_si128(p.cast())),
                _ => unreachable!("not a floating type"),
            }
        }
    }
    #[inline(always)]
    unsafe fn gather_words<T: Float>(p: *const T, count: usize) -> Self::W {
        unsafe { Self::widen(p, count) }
    }
}
