//! 4-bit codes on AVX2: expanding them, and dot products with codes in registers.
//!
//! Sixteen bf16 values are two tables of bytes, which `vpshufb` looks 32 codes up in at once.

use std::arch::x86_64::*;

use half::bf16;

use super::lane_sum;

/// The 16 values of a table times a scale.
#[inline]
#[target_feature(enable = "avx2")]
fn scaled(table: &[f32; 16], scale: f32) -> [__m256; 2] {
    let scale = _mm256_set1_ps(scale);
    // SAFETY: twice eight of 16 values.
    unsafe {
        let (low, high) = (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8)));
        [_mm256_mul_ps(low, scale), _mm256_mul_ps(high, scale)]
    }
}

/// Rounds to bf16: its bits in the low half of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn rounded(values: __m256) -> __m256i {
    let bits = _mm256_castps_si256(values);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let nearest = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    // A NaN must not be carried over into an infinity.
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(values, values));
    _mm256_srli_epi32::<16>(_mm256_blendv_epi8(nearest, quiet, nan))
}

/// Low and high bytes of the 16 values of a table times a scale, rounded to bf16; each twice over.
#[inline]
#[target_feature(enable = "avx2")]
fn planes(table: &[f32; 16], scale: f32) -> [__m256i; 2] {
    let [low, high] = scaled(table, scale).map(|values| rounded(values));
    // Packing works within halves: values 0–3, 8–11, 4–7, 12–15.
    let values = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(low, high));
    let bytes = |values| {
        let packed = _mm256_packus_epi16(values, values);
        // Eight values of each half, twice; both together in both halves.
        _mm256_permute4x64_epi64::<0b10_00_10_00>(packed)
    };
    [bytes(_mm256_and_si256(values, _mm256_set1_epi16(0xff))), bytes(_mm256_srli_epi16::<8>(values))]
}

/// The first and the second code of each of 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn nibbles(codes: *const u8) -> [__m256i; 2] {
    // SAFETY: by the caller's promise, 32 bytes.
    let bytes = unsafe { _mm256_loadu_si256(codes.cast()) };
    let low = _mm256_set1_epi8(15);
    [_mm256_and_si256(_mm256_srli_epi16::<4>(bytes), low), _mm256_and_si256(bytes, low)]
}

/// bf16 values of 32 codes: those of bytes 0–7 and 16–23, then those of bytes 8–15 and 24–31.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up([low, high]: [__m256i; 2], codes: __m256i) -> [__m256i; 2] {
    let (low, high) = (_mm256_shuffle_epi8(low, codes), _mm256_shuffle_epi8(high, codes));
    [_mm256_unpacklo_epi8(low, high), _mm256_unpackhi_epi8(low, high)]
}

#[target_feature(enable = "avx2")]
pub(super) unsafe fn expand_bf16(codes: *const u8, scales: &[f32], table: &[f32; 16], out: *mut bf16) {
    for (unit, &scale) in scales.iter().enumerate() {
        let planes = planes(table, scale);
        // SAFETY: 32 bytes of codes and 64 elements for each scale by the promise of `Kernel::expand`.
        unsafe {
            let [first, second] = nibbles(codes.add(32 * unit));
            let (low, high) = (_mm256_unpacklo_epi8(first, second), _mm256_unpackhi_epi8(first, second));
            // In units of eight values: 0 and 4, 1 and 5, 2 and 6, 3 and 7.
            let ([a, b], [c, d]) = (look_up(planes, low), look_up(planes, high));
            let parts = [
                _mm256_permute2x128_si256::<0x20>(a, b),
                _mm256_permute2x128_si256::<0x20>(c, d),
                _mm256_permute2x128_si256::<0x31>(a, b),
                _mm256_permute2x128_si256::<0x31>(c, d),
            ];
            for (i, part) in parts.into_iter().enumerate() {
                _mm256_storeu_si256(out.add(64 * unit + 16 * i).cast(), part);
            }
        }
    }
}

#[target_feature(enable = "avx2")]
pub(super) unsafe fn expand_f32(codes: *const u8, scales: &[f32], table: &[f32; 16], out: *mut f32) {
    for (unit, &scale) in scales.iter().enumerate() {
        let [low, high] = scaled(table, scale);
        // Takes the low four bits of each index.
        let look_up = |index: __m256i| {
            let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index));
            let (low, high) = (_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index));
            _mm256_blendv_ps(low, high, upper)
        };
        for group in 0..4 {
            // SAFETY: eight of the unit's 32 bytes, 16 of its 64 elements.
            unsafe {
                let at = 32 * unit + 8 * group;
                let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(codes.add(at).cast()));
                let (first, second) = (look_up(_mm256_srli_epi32::<4>(bytes)), look_up(bytes));
                let (a, b) = (_mm256_unpacklo_ps(first, second), _mm256_unpackhi_ps(first, second));
                _mm256_storeu_ps(out.add(2 * at), _mm256_permute2f128_ps::<0x20>(a, b));
                _mm256_storeu_ps(out.add(2 * at + 8), _mm256_permute2f128_ps::<0x31>(a, b));
            }
        }
    }
}

/// Puts a vector in the order that [`packed_dots`] reads it in: first codes of bytes 0–7 and 16–23 of a unit, of bytes
/// 8–15 and 24–31, then the second codes.
pub(super) fn arrange<T: Copy>(values: &[T], out: &mut [T]) {
    assert!(values.len() == out.len() && values.len().is_multiple_of(64));
    for (values, out) in values.chunks_exact(64).zip(out.chunks_exact_mut(64)) {
        for (part, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (second, upper) = (part / 2, part % 2);
            for (i, out) in out.iter_mut().enumerate() {
                *out = values[2 * (16 * (i / 8) + 8 * upper + i % 8) + second];
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn packed_dots<const R: usize>(
    units: usize,
    codes: [*const u8; R],
    scales: [*const f32; R],
    table: &[f32; 16],
    x: *const bf16,
    ahead: usize,
) -> [f32; R] {
    /// f32 values of the even and of the odd bf16 elements.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn widen(v: __m256i) -> [__m256; 2] {
        let odd = _mm256_and_si256(v, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(v)), _mm256_castsi256_ps(odd)]
    }
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for unit in 0..units {
        for r in 0..R {
            // SAFETY: the promises of `Kernel::packed_dots`; a prefetch does not fault.
            unsafe {
                let planes = planes(table, *scales[r].add(unit));
                let at = codes[r].add(32 * unit);
                _mm_prefetch::<_MM_HINT_T0>(at.cast::<i8>().wrapping_add(ahead));
                for (second, codes) in nibbles(at).into_iter().enumerate() {
                    for (upper, values) in look_up(planes, codes).into_iter().enumerate() {
                        let x = _mm256_loadu_si256(x.add(64 * unit + 16 * (2 * second + upper)).cast());
                        let (x, w) = (widen(x), widen(values));
                        for i in 0..2 {
                            sums[r][i] = _mm256_fmadd_ps(x[i], w[i], sums[r][i]);
                        }
                    }
                }
            }
        }
    }
    sums.map(|[a, b]| lane_sum(_mm256_add_ps(a, b)))
}
