//! AVX2 with FMA: f32 arithmetic; bf16 is widened on the way in.
//!
//! Register tile 6×16: twelve sums, two vectors of B and a broadcast fill 15 of 16 registers.

// Intrinsics by the dozen; register arrays are indexed by tile coordinates.
#![allow(clippy::wildcard_imports, clippy::needless_range_loop)]

mod packed;

use std::arch::x86_64::*;

use super::kernel::{Kernel, word};
use super::pack;
use super::portable::Plain;
use crate::dtype::{DType, Float};

const MR: usize = 6;
const NV: usize = 2;
const NR: usize = 8 * NV;

/// f32 FMA on 256-bit vectors.
pub(super) struct Fma256;

#[target_feature(enable = "avx2,fma")]
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
    // SAFETY: the promises of `Kernel::tile` cover every access.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); NV]; MR];
        for i in 0..MR {
            for j in 0..NV {
                sums[i][j] = _mm256_loadu_ps(init.add(i * init_rs + 8 * j));
            }
        }
        for w in 0..words {
            let mut bs = [_mm256_setzero_ps(); NV];
            for j in 0..NV {
                bs[j] = _mm256_loadu_ps(b.add(w * NR + 8 * j).cast());
            }
            for i in 0..MR {
                let a = _mm256_set1_ps(f32::from_bits(word(a, i * a_row + w * a_step)));
                for j in 0..NV {
                    sums[i][j] = _mm256_fmadd_ps(a, bs[j], sums[i][j]);
                }
            }
        }
        for i in 0..MR {
            for j in 0..NV {
                _mm256_storeu_ps(out.add(i * out_rs + 8 * j), sums[i][j]);
            }
        }
    }
}

/// Up to eight values from the `left` elements at `src`, zeros beyond.
#[inline(always)]
unsafe fn load<T: Float>(src: *const T, left: usize) -> __m256 {
    let mut values = [0f32; 8];
    // SAFETY: eight or `left` elements are within the row by the caller's promise.
    let src = unsafe { std::slice::from_raw_parts(src, left.min(8)) };
    if let Ok(full) = <&[T; 8]>::try_from(src) {
        // A loop of constant length: becomes one load (and one widening).
        for (value, x) in values.iter_mut().zip(full) {
            *value = x.to_f32();
        }
    } else {
        for (value, x) in values.iter_mut().zip(src) {
            *value = x.to_f32();
        }
    }
    // SAFETY: eight values; inlined where AVX is enabled.
    unsafe { _mm256_loadu_ps(values.as_ptr()) }
}

/// Transposes 8×8 values.
#[inline(always)]
unsafe fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: register arithmetic, inlined where AVX is enabled.
    unsafe {
        let mut t = r;
        for i in 0..4 {
            t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut u = t;
        for i in 0..2 {
            u[4 * i] = _mm256_shuffle_ps::<0x44>(t[4 * i], t[4 * i + 2]);
            u[4 * i + 1] = _mm256_shuffle_ps::<0xee>(t[4 * i], t[4 * i + 2]);
            u[4 * i + 2] = _mm256_shuffle_ps::<0x44>(t[4 * i + 1], t[4 * i + 3]);
            u[4 * i + 3] = _mm256_shuffle_ps::<0xee>(t[4 * i + 1], t[4 * i + 3]);
        }
        let mut out = u;
        for i in 0..4 {
            out[i] = _mm256_permute2f128_ps::<0x20>(u[i], u[i + 4]);
            out[i + 4] = _mm256_permute2f128_ps::<0x31>(u[i], u[i + 4]);
        }
        out
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn pack_along_k<T: Float>(
    src: *const T,
    stride: usize,
    lanes: usize,
    k: usize,
    width: usize,
    dst: *mut u32,
) {
    for first in (0..width).step_by(8) {
        for from in (0..k).step_by(8) {
            // SAFETY: only lanes below `lanes` and steps below `k` are read and written. A width is a
            // multiple of eight or six.
            unsafe {
                let mut rows = [_mm256_setzero_ps(); 8];
                for (i, row) in rows.iter_mut().enumerate() {
                    if first + i < lanes {
                        *row = load(src.add((first + i) * stride + from), k - from);
                    }
                }
                let columns = transpose(rows);
                let dst = dst.add(from * width + first).cast::<f32>();
                for (i, column) in columns.into_iter().enumerate().take(k - from) {
                    if width == MR {
                        _mm_storeu_ps(dst.add(i * MR), _mm256_castps256_ps128(column));
                        _mm_storel_pd(
                            dst.add(i * MR + 4).cast(),
                            _mm_castps_pd(_mm256_extractf128_ps::<1>(column)),
                        );
                    } else {
                        _mm256_storeu_ps(dst.add(i * width), column);
                    }
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn pack_along_lanes<T: Float>(
    src: *const T,
    stride: usize,
    lanes: usize,
    k: usize,
    width: usize,
    dst: *mut u32,
) {
    // SAFETY: the same promise.
    unsafe { pack::along_lanes::<T, Fma256>(src, stride, lanes, k, width, dst) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn store<O: Float>(tile: *const f32, rows: usize, cols: usize, out: *mut O, rs: usize) {
    // SAFETY: the same promise.
    unsafe { pack::store(tile, NR, rows, cols, out, rs) }
}

/// Sum of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn lane_sum(sum: __m256) -> f32 {
    let halves = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
    let pairs = _mm_add_ps(halves, _mm_movehl_ps(halves, halves));
    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps::<1>(pairs, pairs)))
}

#[target_feature(enable = "avx2,fma")]
unsafe fn dots<T: Float, const R: usize, const M: usize>(
    k: usize,
    w: [*const T; R],
    x: *const u32,
    xs: usize,
) -> [[f32; M]; R] {
    // SAFETY: the promises of `Kernel::dots`; the last load of a row ends at `k`.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); M]; R];
        for from in (0..k).step_by(8) {
            let mut rows = [_mm256_setzero_ps(); R];
            for r in 0..R {
                rows[r] = load(w[r].add(from), k - from);
            }
            for m in 0..M {
                let x = _mm256_loadu_ps(x.add(m * xs + from).cast());
                for r in 0..R {
                    sums[r][m] = _mm256_fmadd_ps(x, rows[r], sums[r][m]);
                }
            }
        }
        sums.map(|of_row| of_row.map(|sum| lane_sum(sum)))
    }
}

impl<T: Float> Kernel<T> for Fma256 {
    const MR: usize = MR;
    const NR: usize = NR;
    const DEPTH: usize = 1;
    // 6 KB of A in L1, 256 KB of B in L2.
    const KC: usize = 256;
    const NC: usize = 16;
    const IN_PLACE: bool = matches!(T::DTYPE, DType::F32);
    const STREAMS: usize = 4;

    #[inline(always)]
    fn word(lo: T, _: T) -> u32 {
        lo.to_f32().to_bits()
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
        unsafe { tile(words, a, a_row, a_step, b, init, init_rs, out, out_rs) }
    }

    unsafe fn pack_along_k(
        src: *const T,
        stride: usize,
        lanes: usize,
        k: usize,
        width: usize,
        dst: *mut u32,
    ) {
        // SAFETY: as above.
        unsafe { pack_along_k(src, stride, lanes, k, width, dst) }
    }

    unsafe fn pack_along_lanes(
        src: *const T,
        stride: usize,
        lanes: usize,
        k: usize,
        width: usize,
        dst: *mut u32,
    ) {
        // SAFETY: as above.
        unsafe { pack_along_lanes(src, stride, lanes, k, width, dst) }
    }

    unsafe fn store<O: Float>(tile: *const f32, rows: usize, cols: usize, out: *mut O, rs: usize) {
        // SAFETY: as above.
        unsafe { store(tile, rows, cols, out, rs) }
    }

    unsafe fn dots<const R: usize, const M: usize>(
        k: usize,
        w: [*const T; R],
        x: *const u32,
        xs: usize,
        _: usize,
    ) -> [[f32; M]; R] {
        // SAFETY: as above.
        unsafe { dots(k, w, x, xs) }
    }

    const PACKED_DOTS: bool = matches!(T::DTYPE, DType::BF16);

    unsafe fn expand(codes: *const u8, scales: &[f32], table: &[f32; 16], out: *mut T) {
        // SAFETY: as above; the element type is the one asked for.
        unsafe {
            match T::DTYPE {
                DType::BF16 => packed::expand_bf16(codes, scales, table, out.cast()),
                DType::F32 => packed::expand_f32(codes, scales, table, out.cast()),
                _ => <Plain as Kernel<T>>::expand(codes, scales, table, out),
            }
        }
    }

    fn arrange(values: &[T], out: &mut [T]) {
        packed::arrange(values, out);
    }

    unsafe fn packed_dots<const R: usize>(
        units: usize,
        codes: [*const u8; R],
        scales: [*const f32; R],
        table: &[f32; 16],
        x: *const T,
        ahead: usize,
    ) -> [f32; R] {
        // SAFETY: as above; asked for only where the elements are bf16.
        unsafe { packed::packed_dots(units, codes, scales, table, x.cast(), ahead) }
    }
}
