//! 4-bit codes on AVX-512: expanding them, their scales, and dot products with codes in registers.

use std::arch::x86_64::*;

use half::bf16;

use super::lane_sums;
use crate::cpu::gemm::kernel::SecondLevel;

/// Indices of 32 codes in 16 bytes, as 16-bit lanes in order. Bits above the fourth are not cleared: tables repeat.
#[inline(always)]
unsafe fn indices(codes: *const u8) -> __m512i {
    // SAFETY: by the caller's promise, 16 bytes.
    unsafe {
        let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.cast()));
        _mm512_or_si512(_mm512_srli_epi32::<4>(bytes), _mm512_slli_epi32::<16>(bytes))
    }
}

/// The 16 values of a table times a scale, rounded to bf16, twice over.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn scaled_table(table: __m512, scale: f32) -> __m512i {
    let values = _mm512_cvtneps_pbh(_mm512_mul_ps(table, _mm512_set1_ps(scale)));
    // SAFETY: both are 256 bits.
    _mm512_broadcast_i64x4(unsafe { std::mem::transmute::<__m256bh, __m256i>(values) })
}

/// The 16 values of a table times a scale, rounded to bf16 without an instruction for it, as f32.
#[inline]
#[target_feature(enable = "avx512f")]
fn rounded_table(table: __m512, scale: f32) -> __m512 {
    let values = _mm512_mul_ps(table, _mm512_set1_ps(scale));
    let bits = _mm512_castps_si512(values);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    // A NaN must not be carried over into an infinity.
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(values, values);
    let quiet = _mm512_mask_or_epi32(nearest, nan, bits, _mm512_set1_epi32(0x0040_0000));
    _mm512_castsi512_ps(_mm512_and_si512(quiet, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
}

/// Expands codes to bf16 with `$table(table, scale)`, 16 bf16 values twice over.
macro_rules! expand_bf16 {
    ($name:ident, $features:literal, |$values:ident, $scale:ident| $table:expr) => {
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(codes: *const u8, scales: &[f32], table: &[f32; 16], out: *mut bf16) {
            // SAFETY: 32 bytes of codes and 64 elements for each scale by the promise of `Kernel::expand`.
            unsafe {
                let $values = _mm512_loadu_ps(table.as_ptr());
                for (unit, &$scale) in scales.iter().enumerate() {
                    let values = $table;
                    for half in 0..2 {
                        let at = 32 * unit + 16 * half;
                        let out = out.add(2 * at).cast();
                        _mm512_storeu_si512(out, _mm512_permutexvar_epi16(indices(codes.add(at)), values));
                    }
                }
            }
        }
    };
}

expand_bf16!(expand_bf16, "avx512f,avx512bw,avx512vl,avx512bf16", |values, scale| scaled_table(
    values, scale
));
expand_bf16!(expand_bf16_fma, "avx512f,avx512bw,avx512vl", |values, scale| {
    let high = _mm512_srli_epi32::<16>(_mm512_castps_si512(rounded_table(values, scale)));
    _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(high))
});

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn expand_f32(codes: *const u8, scales: &[f32], table: &[f32; 16], out: *mut f32) {
    // SAFETY: as above; the low four bits of each 32-bit lane choose from 16.
    unsafe {
        let table = _mm512_loadu_ps(table.as_ptr());
        for (unit, &scale) in scales.iter().enumerate() {
            let values = _mm512_mul_ps(table, _mm512_set1_ps(scale));
            for half in 0..2 {
                let at = 32 * unit + 16 * half;
                let index = indices(codes.add(at));
                for quarter in 0..2 {
                    let index = if quarter == 0 {
                        _mm512_cvtepu16_epi32(_mm512_castsi512_si256(index))
                    } else {
                        _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64::<1>(index))
                    };
                    _mm512_storeu_ps(out.add(2 * at + 16 * quarter), _mm512_permutexvar_ps(index, values));
                }
            }
        }
    }
}

/// Looks 16 codes up in a table of 256 in registers: a gather would cost more than the 1024 values it is for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn look_up(index: __m512i, map: &[f32; 256]) -> __m512 {
    // SAFETY: eight times 32 of 256 values.
    let part: [__m512; 8] = std::array::from_fn(|i| unsafe {
        let low = _mm512_loadu_ps(map.as_ptr().add(32 * i));
        let high = _mm512_loadu_ps(map.as_ptr().add(32 * i + 16));
        // Takes the low five bits of each index.
        _mm512_permutex2var_ps(low, index, high)
    });
    let bit = |bit: i32| _mm512_test_epi32_mask(index, _mm512_set1_epi32(bit));
    let pick = |mask, clear, set| _mm512_mask_blend_ps(mask, clear, set);
    let (b5, b6, b7) = (bit(32), bit(64), bit(128));
    let quarter: [__m512; 4] = std::array::from_fn(|i| pick(b5, part[2 * i], part[2 * i + 1]));
    pick(b7, pick(b6, quarter[0], quarter[1]), pick(b6, quarter[2], quarter[3]))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn nested_scales(codes: &[u8], map: &[f32; 256], second: SecondLevel<'_>, out: &mut [f32]) {
    assert_eq!(codes.len(), out.len());
    let offset = _mm512_set1_ps(second.offset);
    for (run, absmax) in second.runs(codes.len()) {
        let absmax = _mm512_set1_ps(absmax);
        for (codes, out) in codes[run.clone()].chunks(16).zip(out[run].chunks_mut(16)) {
            let mask: __mmask16 = if codes.len() == 16 { !0 } else { (1 << codes.len()) - 1 };
            // SAFETY: both accesses are masked to the chunk.
            unsafe {
                let index = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, codes.as_ptr().cast()));
                // A product and a sum, not fused: the format's rule.
                let scale = _mm512_add_ps(_mm512_mul_ps(look_up(index, map), absmax), offset);
                _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, scale);
            }
        }
    }
}

/// As [`nested_scales`], 64 codes at a time: the bytes of the values are looked up plane by plane.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
pub(super) unsafe fn nested_scales_vbmi(
    codes: &[u8],
    map: &[f32; 256],
    second: SecondLevel<'_>,
    out: &mut [f32],
) {
    assert_eq!(codes.len(), out.len());
    // Byte `p` of value `i` at `planes[p][i]`.
    let mut planes = [[0u8; 256]; 4];
    for i in (0..256).step_by(16) {
        // SAFETY: 16 of 256 values; 16 of 256 bytes.
        unsafe {
            let values = _mm512_loadu_si512(map.as_ptr().add(i).cast());
            let shifted = [
                values,
                _mm512_srli_epi32::<8>(values),
                _mm512_srli_epi32::<16>(values),
                _mm512_srli_epi32::<24>(values),
            ];
            for (plane, bytes) in planes.iter_mut().zip(shifted) {
                _mm_storeu_si128(plane.as_mut_ptr().add(i).cast(), _mm512_cvtepi32_epi8(bytes));
            }
        }
    }
    let planes = planes.map(|plane| -> [__m512i; 4] {
        // SAFETY: four times 64 bytes of each plane.
        std::array::from_fn(|i| unsafe { _mm512_loadu_si512(plane.as_ptr().add(64 * i).cast()) })
    });
    // Unpacking works within quarters of a vector; a transpose of groups of four beforehand puts the results in order.
    let transpose = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let offset = _mm512_set1_ps(second.offset);
    for (run, absmax) in second.runs(codes.len()) {
        let absmax = _mm512_set1_ps(absmax);
        for (codes, out) in codes[run.clone()].chunks(64).zip(out[run].chunks_mut(64)) {
            let mask: __mmask64 = if codes.len() == 64 { !0 } else { (1 << codes.len()) - 1 };
            // SAFETY: all accesses are masked to the chunk; a store that is masked out whole touches nothing.
            unsafe {
                let index = _mm512_maskz_loadu_epi8(mask, codes.as_ptr().cast());
                let index = _mm512_permutexvar_epi32(transpose, index);
                let upper = _mm512_movepi8_mask(index);
                let [b0, b1, b2, b3] = planes.map(|[p0, p1, p2, p3]| {
                    let low = _mm512_permutex2var_epi8(p0, index, p1);
                    _mm512_mask_blend_epi8(upper, low, _mm512_permutex2var_epi8(p2, index, p3))
                });
                let (low, high) = (_mm512_unpacklo_epi8(b0, b1), _mm512_unpackhi_epi8(b0, b1));
                let (low2, high2) = (_mm512_unpacklo_epi8(b2, b3), _mm512_unpackhi_epi8(b2, b3));
                let values = [
                    _mm512_unpacklo_epi16(low, low2),
                    _mm512_unpackhi_epi16(low, low2),
                    _mm512_unpacklo_epi16(high, high2),
                    _mm512_unpackhi_epi16(high, high2),
                ];
                for (i, values) in values.into_iter().enumerate() {
                    let scale = _mm512_add_ps(_mm512_mul_ps(_mm512_castsi512_ps(values), absmax), offset);
                    let out = out.as_mut_ptr().wrapping_add(16 * i);
                    _mm512_mask_storeu_ps(out, (mask >> (16 * i)) as __mmask16, scale);
                }
            }
        }
    }
}

/// From how many scales on laying out the planes pays.
pub(super) const WORTH_PLANES: usize = 128;

/// Puts a vector in the order that [`packed_dots`] reads it in. 32 bytes of codes, seen as 16 words `w`, give values
/// 1, 0, 3, 2 modulo 4 in the low four bits of `w`, `w >> 4`, `w >> 8`, `w >> 12`. Two units are read at once: each
/// of these four from both, then the next; an odd last unit is read as two shifts at once.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn arrange(values: &[bf16], out: &mut [bf16]) {
    const ORDER: [i16; 4] = [1, 0, 3, 2];
    assert!(values.len() == out.len() && values.len().is_multiple_of(64));
    // Of 64 values every fourth from one place on, then every fourth from the next.
    let fourths =
        |part: usize| -> [i16; 32] { std::array::from_fn(|i| 4 * (i as i16 % 16) + ORDER[part + i / 16]) };
    let (first, second) = (fourths(0), fourths(2));
    // SAFETY: whole units of 64 values on both sides.
    unsafe {
        let (first, second) = (_mm512_loadu_epi16(first.as_ptr()), _mm512_loadu_epi16(second.as_ptr()));
        let unit = |at: usize| {
            let values = values.as_ptr().add(at).cast();
            let (low, high) = (_mm512_loadu_epi16(values), _mm512_loadu_epi16(values.add(32)));
            (_mm512_permutex2var_epi16(low, first, high), _mm512_permutex2var_epi16(low, second, high))
        };
        let pairs = values.len() / 128 * 128;
        for at in (0..pairs).step_by(128) {
            let (a, b) = (unit(at), unit(at + 64));
            let parts = [
                _mm512_shuffle_i64x2::<0x44>(a.0, b.0),
                _mm512_shuffle_i64x2::<0xee>(a.0, b.0),
                _mm512_shuffle_i64x2::<0x44>(a.1, b.1),
                _mm512_shuffle_i64x2::<0xee>(a.1, b.1),
            ];
            for (i, part) in parts.into_iter().enumerate() {
                _mm512_storeu_si512(out.as_mut_ptr().add(at + 32 * i).cast(), part);
            }
        }
        if pairs < values.len() {
            let (a, b) = unit(pairs);
            _mm512_storeu_si512(out.as_mut_ptr().add(pairs).cast(), a);
            _mm512_storeu_si512(out.as_mut_ptr().add(pairs + 32).cast(), b);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn packed_dots<const R: usize>(
    units: usize,
    codes: [*const u8; R],
    scales: [*const f32; R],
    table: &[f32; 16],
    x: *const bf16,
    ahead: usize,
) -> [f32; R] {
    /// `(words & low four bits) | half`: an index into two tables side by side.
    const SELECT: i32 = 0xea;
    // SAFETY: the promises of `Kernel::packed_dots`; a prefetch does not fault.
    unsafe {
        let table = _mm512_loadu_ps(table.as_ptr());
        let halves = |low: i16, high: i16| {
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm256_set1_epi16(low)), _mm256_set1_epi16(high))
        };
        let (nibble, half) = (_mm512_set1_epi16(15), halves(0, 16));
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let dot = |sum, x: __m512i, w: __m512i| {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(x),
                std::mem::transmute::<__m512i, __m512bh>(w),
            )
        };
        for pair in 0..units / 2 {
            let x: [__m512i; 4] =
                std::array::from_fn(|i| _mm512_loadu_si512(x.add(128 * pair + 32 * i).cast()));
            for r in 0..R {
                let scaled = |u: usize| _mm512_mul_ps(table, _mm512_set1_ps(*scales[r].add(2 * pair + u)));
                let values = _mm512_cvtne2ps_pbh(scaled(1), scaled(0));
                let values = std::mem::transmute::<__m512bh, __m512i>(values);
                let at = codes[r].add(64 * pair);
                _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(ahead));
                let words = _mm512_loadu_si512(at.cast());
                let shifted = [
                    words,
                    _mm512_srli_epi16::<4>(words),
                    _mm512_srli_epi16::<8>(words),
                    _mm512_srli_epi16::<12>(words),
                ];
                for (i, &words) in shifted.iter().enumerate() {
                    let index = _mm512_ternarylogic_epi32::<SELECT>(words, nibble, half);
                    sums[r][i % 2] = dot(sums[r][i % 2], x[i], _mm512_permutexvar_epi16(index, values));
                }
            }
        }
        if units % 2 == 1 {
            let unit = units - 1;
            let (first, second) = (halves(0, 4), halves(8, 12));
            let x0 = _mm512_loadu_si512(x.add(64 * unit).cast());
            let x1 = _mm512_loadu_si512(x.add(64 * unit + 32).cast());
            for r in 0..R {
                let values = scaled_table(table, *scales[r].add(unit));
                let at = codes[r].add(32 * unit);
                _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(ahead));
                let words = _mm512_broadcast_i64x4(_mm256_loadu_si256(at.cast()));
                let w0 = _mm512_permutexvar_epi16(_mm512_srlv_epi16(words, first), values);
                let w1 = _mm512_permutexvar_epi16(_mm512_srlv_epi16(words, second), values);
                sums[r][0] = dot(sums[r][0], x0, w0);
                sums[r][1] = dot(sums[r][1], x1, w1);
            }
        }
        lane_sums(sums.map(|[a, b]| _mm512_add_ps(a, b)))
    }
}

/// Puts a vector in the order that [`packed_dots_fma`] reads it in: 64 bytes of codes, two units, are 16 words of eight
/// codes, and every step takes the same code of all words. An odd last unit is eight words.
pub(super) fn arrange_fma(values: &[bf16], out: &mut [bf16]) {
    assert!(values.len() == out.len() && values.len().is_multiple_of(64));
    let pairs = values.len() / 128 * 128;
    let (values, last) = values.split_at(pairs);
    let (out, last_out) = out.split_at_mut(pairs);
    for (values, out) in values.chunks_exact(128).zip(out.chunks_exact_mut(128)) {
        by_nibble::<16>(values, out);
    }
    by_nibble::<8>(last, last_out);
}

/// Element `WORDS·i + w` of `out` is the one whose code is bits `4i..4i + 4` of word `w`.
fn by_nibble<const WORDS: usize>(values: &[bf16], out: &mut [bf16]) {
    for (i, out) in out.as_chunks_mut::<WORDS>().0.iter_mut().enumerate() {
        // The first code of a byte is in its high half.
        for (out, word) in out.iter_mut().zip(values.as_chunks::<8>().0) {
            *out = word[i ^ 1];
        }
    }
}

/// As [`packed_dots`] without a bf16 dot product: values are looked up as f32.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn packed_dots_fma<const R: usize>(
    units: usize,
    codes: [*const u8; R],
    scales: [*const f32; R],
    table: &[f32; 16],
    x: *const bf16,
    ahead: usize,
) -> [f32; R] {
    /// `(words & low four bits) | half`: an index into two tables.
    const SELECT: i32 = 0xea;
    // SAFETY: the promises of `Kernel::packed_dots`; a prefetch does not fault.
    unsafe {
        let table = _mm512_loadu_ps(table.as_ptr());
        let (nibble, half) = (_mm512_set1_epi32(15), _mm512_maskz_set1_epi32(0xff00, 16));
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        for pair in 0..units / 2 {
            let x: [__m512; 8] = std::array::from_fn(|i| {
                let x = _mm256_loadu_si256(x.add(128 * pair + 16 * i).cast());
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x)))
            });
            for r in 0..R {
                let first = rounded_table(table, *scales[r].add(2 * pair));
                let second = rounded_table(table, *scales[r].add(2 * pair + 1));
                let at = codes[r].add(64 * pair);
                _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(ahead));
                let mut words = _mm512_loadu_si512(at.cast());
                for (i, &x) in x.iter().enumerate() {
                    let index = _mm512_ternarylogic_epi32::<SELECT>(words, nibble, half);
                    let values = _mm512_permutex2var_ps(first, index, second);
                    sums[r][i % 2] = _mm512_fmadd_ps(x, values, sums[r][i % 2]);
                    words = _mm512_srli_epi32::<4>(words);
                }
            }
        }
        if units % 2 == 1 {
            let unit = units - 1;
            let x: [__m256; 8] = std::array::from_fn(|i| {
                let x = _mm_loadu_si128(x.add(64 * unit + 8 * i).cast());
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x)))
            });
            for r in 0..R {
                let values = rounded_table(table, *scales[r].add(unit));
                let (low, high) = (_mm512_castps512_ps256(values), _mm512_extractf32x8_ps::<1>(values));
                let at = codes[r].add(32 * unit);
                _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(ahead));
                let mut words = _mm256_loadu_si256(at.cast());
                let mut sum = _mm256_setzero_ps();
                for &x in &x {
                    // Takes the low four bits of each index.
                    sum = _mm256_fmadd_ps(x, _mm256_permutex2var_ps(low, words, high), sum);
                    words = _mm256_srli_epi32::<4>(words);
                }
                sums[r][0] = _mm512_add_ps(sums[r][0], _mm512_zextps256_ps512(sum));
            }
        }
        lane_sums(sums.map(|[a, b]| _mm512_add_ps(a, b)))
    }
}
