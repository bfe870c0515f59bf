//! AVX-512: f32 FMA, and the bf16 dot product where there is one.
//!
//! Register tile 12×32: 24 sums, two vectors of B and a broadcast fill 27 of 32 registers; 14 loads feed 24
//! multiplications, under the two loads a cycle of Zen 5 and Golden Cove.
//!
//! `vdpbf16ps` adds the products of a bf16 pair to an f32 sum. It takes subnormal inputs as zero and
//! flushes subnormal results (magnitudes below 1.2e-38), whatever MXCSR says, and rounds each of its two
//! steps to nearest even; the FMA paths round once per product and keep subnormals. So the paths agree
//! within rounding, not in bits.

// Intrinsics by the dozen; register arrays are indexed by tile coordinates.
#![allow(clippy::wildcard_imports, clippy::needless_range_loop)]

mod packed;

use std::arch::x86_64::*;

use half::bf16;

use super::kernel::{Kernel, SecondLevel, word};
use super::pack;
use crate::dtype::Float;

const MR: usize = 12;
const NV: usize = 2;
const NR: usize = 16 * NV;

/// f32 FMA on 512-bit vectors.
pub(super) struct Fma512;
/// `AVX512_BF16`'s dot product of pairs.
pub(super) struct Dot512;

macro_rules! tile {
    ($name:ident, $features:literal, |$sum:ident, $a:ident, $b:ident| $fma:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(
            words: usize,
            a: *const u8,
            a_row: usize,
            a_step: usize,
            b: *const u32,
            init: *const f32,
            init_rs: usize,
            out: *mut f32,
            out_rs: usize,
        ) {
            // SAFETY: the promises of `Kernel::tile` cover every access.
            unsafe {
                let mut sums = [[_mm512_setzero_ps(); NV]; MR];
                for i in 0..MR {
                    for j in 0..NV {
                        sums[i][j] = _mm512_loadu_ps(init.add(i * init_rs + 16 * j));
                    }
                }
                for w in 0..words {
                    let mut bs = [_mm512_setzero_si512(); NV];
                    for j in 0..NV {
                        bs[j] = _mm512_loadu_si512(b.add(w * NR + 16 * j).cast());
                    }
                    for i in 0..MR {
                        let $a = _mm512_set1_epi32(word(a, i * a_row + w * a_step) as i32);
                        for j in 0..NV {
                            let ($sum, $b) = (sums[i][j], bs[j]);
                            sums[i][j] = $fma;
                        }
                    }
                }
                for i in 0..MR {
                    for j in 0..NV {
                        _mm512_storeu_ps(out.add(i * out_rs + 16 * j), sums[i][j]);
                    }
                }
            }
        }
    };
}

tile!(tile_fma, "avx512f", |sum, a, b| _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum));
tile!(tile_dot, "avx512f,avx512bf16", |sum, a, b| {
    _mm512_dpbf16_ps(
        sum,
        std::mem::transmute::<__m512i, __m512bh>(a),
        std::mem::transmute::<__m512i, __m512bh>(b),
    )
});

/// How 16 words are read from elements that are contiguous along `k`.
trait Load<T> {
    const DEPTH: usize;
    const IN_PLACE: bool;
    /// Up to 16 words from the `left` elements at `src`, zeros beyond.
    unsafe fn load(src: *const T, left: usize) -> __m512i;
}

impl Load<f32> for Fma512 {
    const DEPTH: usize = 1;
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn load(src: *const f32, left: usize) -> __m512i {
        let mask = if left >= 16 { !0 } else { (1 << left) - 1 };
        // SAFETY: the mask keeps the access to `left` elements.
        unsafe { _mm512_maskz_loadu_epi32(mask, src.cast()) }
    }
}

impl Load<bf16> for Fma512 {
    const DEPTH: usize = 1;
    const IN_PLACE: bool = false;
    #[inline(always)]
    unsafe fn load(src: *const bf16, left: usize) -> __m512i {
        let mask = if left >= 16 { !0 } else { (1 << left) - 1 };
        // SAFETY: as above.
        unsafe { _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, src.cast()))) }
    }
}

impl Load<bf16> for Dot512 {
    const DEPTH: usize = 2;
    const IN_PLACE: bool = true;
    #[inline(always)]
    unsafe fn load(src: *const bf16, left: usize) -> __m512i {
        let mask = if left >= 32 { !0 } else { (1 << left) - 1 };
        // SAFETY: as above.
        unsafe { _mm512_maskz_loadu_epi16(mask, src.cast()) }
    }
}

/// Transposes 16×16 words.
#[inline(always)]
unsafe fn transpose(r: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: register arithmetic, inlined where AVX-512 F is enabled.
    unsafe {
        let mut t = r;
        // Pairs of rows, then of pairs: each 128-bit quarter holds a transposed 4×4.
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        let mut u = t;
        for i in 0..4 {
            u[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
            u[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
            u[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
            u[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
        }
        // Then a transpose of quarters among rows i, i + 4, i + 8, i + 12.
        let mut out = u;
        for i in 0..4 {
            let even_low = _mm512_shuffle_i32x4::<0x88>(u[i], u[i + 4]);
            let odd_low = _mm512_shuffle_i32x4::<0xdd>(u[i], u[i + 4]);
            let even_high = _mm512_shuffle_i32x4::<0x88>(u[i + 8], u[i + 12]);
            let odd_high = _mm512_shuffle_i32x4::<0xdd>(u[i + 8], u[i + 12]);
            out[i] = _mm512_shuffle_i32x4::<0x88>(even_low, even_high);
            out[i + 8] = _mm512_shuffle_i32x4::<0xdd>(even_low, even_high);
            out[i + 4] = _mm512_shuffle_i32x4::<0x88>(odd_low, odd_high);
            out[i + 12] = _mm512_shuffle_i32x4::<0xdd>(odd_low, odd_high);
        }
        out
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_along_k<T, L: Load<T>>(
    src: *const T,
    stride: usize,
    lanes: usize,
    k: usize,
    width: usize,
    dst: *mut u32,
) {
    let words = k.div_ceil(L::DEPTH);
    for first in (0..width).step_by(16) {
        let mask: __mmask16 = if width - first >= 16 { !0 } else { (1 << (width - first)) - 1 };
        for from in (0..words).step_by(16) {
            let left = k - from * L::DEPTH;
            // SAFETY: rows beyond `lanes` have an empty mask and the others one that ends at `k`; stores
            // are masked to the `width` words of a step and end at step `words`; a prefetch does not fault.
            unsafe {
                let mut rows = [_mm512_setzero_si512(); 16];
                for (i, row) in rows.iter_mut().enumerate() {
                    if first + i < lanes {
                        let src = src.add((first + i) * stride + from * L::DEPTH);
                        // The next group's row: these are many short streams, which hardware does not foresee.
                        _mm_prefetch::<_MM_HINT_T0>(src.wrapping_add(16 * stride).cast());
                        *row = L::load(src, left);
                    }
                }
                let columns = transpose(rows);
                let dst = dst.add(from * width + first);
                for (i, column) in columns.into_iter().enumerate() {
                    if from + i < words {
                        _mm512_mask_storeu_epi32(dst.add(i * width).cast(), mask, column);
                    }
                }
            }
        }
    }
}

/// Sums of the lanes of each vector, four vectors at a time where there are as many.
#[inline]
#[target_feature(enable = "avx512f")]
fn lane_sums<const R: usize>(v: [__m512; R]) -> [f32; R] {
    let mut out = [0.0; R];
    let (fours, rest) = v.as_chunks::<4>();
    for (out, [a, b, c, d]) in out.as_chunks_mut::<4>().0.iter_mut().zip(fours) {
        let ab = _mm512_add_ps(_mm512_unpacklo_ps(*a, *b), _mm512_unpackhi_ps(*a, *b));
        let cd = _mm512_add_ps(_mm512_unpacklo_ps(*c, *d), _mm512_unpackhi_ps(*c, *d));
        // Now lanes 0 and 1 of each quarter are a's and b's, and so are lanes 2 and 3; of `cd` c's and d's.
        let quarters = _mm512_add_ps(_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0xee>(ab, cd));
        let halves = _mm512_add_ps(quarters, _mm512_shuffle_f32x4::<0x4e>(quarters, quarters));
        let all = _mm512_add_ps(halves, _mm512_shuffle_f32x4::<0xb1>(halves, halves));
        // SAFETY: 128 bits on both sides.
        *out = unsafe { std::mem::transmute::<__m128, [f32; 4]>(_mm512_castps512_ps128(all)) };
    }
    for (out, v) in out[R - rest.len()..].iter_mut().zip(rest) {
        *out = _mm512_reduce_add_ps(*v);
    }
    out
}

macro_rules! dots {
    ($name:ident, $features:literal, |$sum:ident, $a:ident, $b:ident| $fma:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<T, L: Load<T>, const R: usize, const M: usize>(
            k: usize,
            w: [*const T; R],
            x: *const u32,
            xs: usize,
            ahead: usize,
        ) -> [[f32; M]; R] {
            // SAFETY: the promises of `Kernel::dots`; the last load is masked to `k`; a prefetch does not fault.
            unsafe {
                let mut sums = [[_mm512_setzero_ps(); M]; R];
                let mut step = |from: usize, left: usize| {
                    let mut rows = [_mm512_setzero_si512(); R];
                    for r in 0..R {
                        let row = w[r].add(from);
                        _mm_prefetch::<_MM_HINT_T0>(row.cast::<i8>().wrapping_add(ahead));
                        rows[r] = L::load(row, left);
                    }
                    for m in 0..M {
                        let $a = _mm512_loadu_si512(x.add(m * xs + from / L::DEPTH).cast());
                        for r in 0..R {
                            let ($sum, $b) = (sums[r][m], rows[r]);
                            sums[r][m] = $fma;
                        }
                    }
                };
                // The last step alone needs a mask, which a constant length lets the others do without.
                let whole = k - k % (16 * L::DEPTH);
                for from in (0..whole).step_by(16 * L::DEPTH) {
                    step(from, 16 * L::DEPTH);
                }
                if whole < k {
                    step(whole, k - whole);
                }
                let mut out = [[0.0; M]; R];
                for m in 0..M {
                    let of_rows = lane_sums::<R>(std::array::from_fn(|r| sums[r][m]));
                    for r in 0..R {
                        out[r][m] = of_rows[r];
                    }
                }
                out
            }
        }
    };
}

dots!(dots_fma, "avx512f,avx512bw,avx512vl", |sum, a, b| {
    _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum)
});
dots!(dots_dot, "avx512f,avx512bw,avx512vl,avx512bf16", |sum, a, b| {
    _mm512_dpbf16_ps(
        sum,
        std::mem::transmute::<__m512i, __m512bh>(a),
        std::mem::transmute::<__m512i, __m512bh>(b),
    )
});

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn pack_along_lanes<T: Float, K: Kernel<T>>(
    src: *const T,
    stride: usize,
    lanes: usize,
    k: usize,
    width: usize,
    dst: *mut u32,
) {
    // SAFETY: the same promise.
    unsafe { pack::along_lanes::<T, K>(src, stride, lanes, k, width, dst) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn store<O: Float>(tile: *const f32, rows: usize, cols: usize, out: *mut O, rs: usize) {
    // SAFETY: the same promise.
    unsafe { pack::store(tile, NR, rows, cols, out, rs) }
}

/// What an instruction set does with 4-bit codes.
macro_rules! packed {
    (bf16, $expand:ident, $arrange:expr, $dots:ident) => {
        packed!(scales);

        const PACKED_DOTS: bool = true;

        unsafe fn expand(codes: *const u8, scales: &[f32], table: &[f32; 16], out: *mut bf16) {
            // SAFETY: the same promise; `run` checked the instruction set.
            unsafe { packed::$expand(codes, scales, table, out) }
        }

        fn arrange(values: &[bf16], out: &mut [bf16]) {
            $arrange(values, out);
        }

        unsafe fn packed_dots<const R: usize>(
            units: usize,
            codes: [*const u8; R],
            scales: [*const f32; R],
            table: &[f32; 16],
            x: *const bf16,
            ahead: usize,
        ) -> [f32; R] {
            // SAFETY: as above.
            unsafe { packed::$dots(units, codes, scales, table, x, ahead) }
        }
    };
    (f32) => {
        packed!(scales);

        unsafe fn expand(codes: *const u8, scales: &[f32], table: &[f32; 16], out: *mut f32) {
            // SAFETY: the same promise; `run` checked the instruction set.
            unsafe { packed::expand_f32(codes, scales, table, out) }
        }
    };
    (scales) => {
        unsafe fn nested_scales(codes: &[u8], map: &[f32; 256], second: SecondLevel<'_>, out: &mut [f32]) {
            // SAFETY: the same promise; `run` checked the instruction set, and this the one beyond it.
            unsafe {
                if codes.len() >= packed::WORTH_PLANES && is_x86_feature_detected!("avx512vbmi") {
                    packed::nested_scales_vbmi(codes, map, second, out);
                } else {
                    packed::nested_scales(codes, map, second, out);
                }
            }
        }
    };
}

macro_rules! kernel {
    ($kernel:ty, $t:ty, $tile:ident, $dots:ident, ($($packed:tt)*), depth $depth:literal, |$lo:ident, $hi:ident| $word:expr) => {
        impl Kernel<$t> for $kernel {
            const MR: usize = MR;
            const NR: usize = NR;
            const DEPTH: usize = $depth;
            // A panel of A (12 × 256 words, 12 KB) stays in L1 while B's stream past from a block in L2
            // (256 columns × 256 words, 256 KB of the 1 MB a core of Zen 4 and 5 has).
            const KC: usize = 256;
            const NC: usize = 8;
            const IN_PLACE: bool = <Self as Load<$t>>::IN_PLACE;
            const STREAMS: usize = 4;

            #[inline(always)]
            fn word($lo: $t, $hi: $t) -> u32 {
                $word
            }

            unsafe fn tile(
                words: usize,
                a: *const u8,
                a_row: usize,
                a_step: usize,
                b: *const u32,
                init: *const f32,
                init_rs: usize,
                out: *mut f32,
                out_rs: usize,
            ) {
                // SAFETY: the same promise; `gemm_with` checked the instruction set.
                unsafe { $tile(words, a, a_row, a_step, b, init, init_rs, out, out_rs) }
            }

            unsafe fn pack_along_k(
                src: *const $t,
                stride: usize,
                lanes: usize,
                k: usize,
                width: usize,
                dst: *mut u32,
            ) {
                // SAFETY: as above.
                unsafe { pack_along_k::<$t, Self>(src, stride, lanes, k, width, dst) }
            }

            unsafe fn pack_along_lanes(
                src: *const $t,
                stride: usize,
                lanes: usize,
                k: usize,
                width: usize,
                dst: *mut u32,
            ) {
                // SAFETY: as above.
                unsafe { pack_along_lanes::<$t, Self>(src, stride, lanes, k, width, dst) }
            }

            unsafe fn store<O: Float>(tile: *const f32, rows: usize, cols: usize, out: *mut O, rs: usize) {
                // SAFETY: as above.
                unsafe { store(tile, rows, cols, out, rs) }
            }

            unsafe fn dots<const R: usize, const M: usize>(
                k: usize,
                w: [*const $t; R],
                x: *const u32,
                xs: usize,
                ahead: usize,
            ) -> [[f32; M]; R] {
                // SAFETY: as above.
                unsafe { $dots::<$t, Self, R, M>(k, w, x, xs, ahead) }
            }

            packed!($($packed)*);
        }
    };
}

kernel!(Fma512, f32, tile_fma, dots_fma, (f32), depth 1, |lo, _hi| lo.to_bits());
kernel!(
    Fma512, bf16, tile_fma, dots_fma,
    (bf16, expand_bf16_fma, packed::arrange_fma, packed_dots_fma), depth 1,
    |lo, _hi| u32::from(lo.to_bits()) << 16
);
kernel!(
    Dot512, bf16, tile_dot, dots_dot,
    // SAFETY: `run` checked the instruction set.
    (bf16, expand_bf16, |values, out| unsafe { packed::arrange(values, out) }, packed_dots), depth 2,
    |lo, hi| u32::from(lo.to_bits()) | u32::from(hi.to_bits()) << 16
);
