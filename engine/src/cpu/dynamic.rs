//! Fast conversion to and from the 8-bit dynamic maps.

use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
use super::isa::{Isa, isa};
use super::multiversion::multiversion;
use crate::Codebook;

/// Least magnitude that has a cell of its own: below the first threshold of either map.
const LOW: u32 = 0x3400_0000; // 2⁻²³
const ONE: u32 = 0x3f80_0000;
/// Cells are told apart by the exponent and seven bits of the mantissa, finer than any two thresholds.
const SHIFT: u32 = 16;
/// Cells of negative numbers follow those of positive ones.
const SIGN: usize = 4096;

/// A dynamic map, whose codes rise with their values, with two ways to find the nearest entry. Both count the
/// thresholds (midpoints of neighbours) below a number and give what [`Codebook`]'s own search gives.
pub(super) struct Dynamic {
    /// Value of each code.
    values: [f32; 256],
    /// Threshold between a code and the next; infinite for the last.
    thresholds: [f32; 256],
    /// The code of the lowest number in each cell. As a cell holds at most one threshold, the code of any other is
    /// that or the next: two look-ups.
    cells: [u8; 2 * SIGN],
    /// The thresholds as a binary search meets them: node `i` has the children `2·i` and `2·i + 1`, the root is 1.
    /// Sixteen vectors, which AVX-512 keeps in registers.
    tree: [f32; 256],
}

/// The map of first moments.
pub(super) static SIGNED: LazyLock<Dynamic> = LazyLock::new(|| Dynamic::new(Codebook::Dynamic));
/// The map of second moments.
pub(super) static UNSIGNED: LazyLock<Dynamic> = LazyLock::new(|| Dynamic::new(Codebook::DynamicUnsigned));

impl Dynamic {
    fn new(book: Codebook) -> Self {
        let values: [f32; 256] = book.values().try_into().expect("a map of 256 entries");
        let mut thresholds = [f32::INFINITY; 256];
        for (threshold, pair) in thresholds.iter_mut().zip(values.windows(2)) {
            *threshold = (pair[0] + pair[1]) * 0.5;
        }
        let mut cells = [0; 2 * SIGN];
        for cell in 0..=(ONE - LOW) >> SHIFT {
            let least = if cell == 0 { 0 } else { LOW + (cell << SHIFT) };
            let most = LOW + (cell << SHIFT) + (1 << SHIFT) - 1;
            let (least, most) = (f32::from_bits(least), f32::from_bits(most.min(ONE)));
            for (at, low, high) in [(cell as usize, least, most), (SIGN + cell as usize, -most, -least)] {
                cells[at] = book.sorted().nearest(low);
                assert!(book.sorted().nearest(high) - cells[at] <= 1, "two thresholds in one cell");
            }
        }
        let mut tree = [f32::INFINITY; 256];
        for (node, threshold) in tree.iter_mut().enumerate().skip(1) {
            // Node `2^level + i` halves the `i`-th of `2^level` equal parts.
            let level = node.ilog2();
            let part = 256 >> level;
            *threshold = thresholds[(node - (1 << level)) * part + part / 2 - 1];
        }
        Self { values, thresholds, cells, tree }
    }

    /// `absmax` times the value of each code.
    pub(super) fn decode(&self, codes: &[u8], absmax: f32, values: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if isa() >= Isa::Avx512 {
            // SAFETY: `isa` names only what this processor has.
            return unsafe { avx512::decode(self, codes, absmax, values) };
        }
        decode(self, codes, absmax, values);
    }

    /// The codes of the values nearest to `x`, from -1 to 1; ties take the lower one.
    pub(super) fn nearest(&self, x: &[f32], codes: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if isa() >= Isa::Avx512 {
            // SAFETY: as above.
            return unsafe { avx512::nearest(self, x, codes) };
        }
        nearest(self, x, codes);
    }
}

multiversion! {
    fn decode(map: &Dynamic, codes: &[u8], absmax: f32, values: &mut [f32]) {
        for (value, &code) in values.iter_mut().zip(codes) {
            *value = map.values[code as usize] * absmax;
        }
    }
}

multiversion! {
    fn nearest(map: &Dynamic, x: &[f32], codes: &mut [u8]) {
        const PIECE: usize = 256;
        // Loops of their own: the first uses vectors, the second does nothing but look up.
        let mut cells = [0u16; PIECE];
        for (x, codes) in x.chunks(PIECE).zip(codes.chunks_mut(PIECE)) {
            for (cell, &x) in cells.iter_mut().zip(x) {
                *cell = cell_of(x);
            }
            for ((code, &x), &cell) in codes.iter_mut().zip(x).zip(&cells) {
                // The mask says what holds anyway, and saves the check of the bounds.
                let first = map.cells[cell as usize & (2 * SIGN - 1)];
                *code = first + u8::from(x > map.thresholds[first as usize]);
            }
        }
    }
}

#[inline(always)]
fn cell_of(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = (bits & !(1 << 31)).clamp(LOW, ONE);
    (((magnitude - LOW) >> SHIFT) + (bits >> 31) * SIGN as u32) as u16
}

/// Look-ups in tables that lie in registers. Left to itself the compiler makes gathers of them, which are slower
/// than scalar loads.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    #[allow(clippy::wildcard_imports, reason = "intrinsics")]
    use std::arch::x86_64::*;

    use super::Dynamic;

    const LANES: usize = 16;

    /// The 16 vectors of a table.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(table: &[f32; 256]) -> [__m512; 16] {
        // SAFETY: vector `i` is the table's elements 16·i to 16·i + 15.
        std::array::from_fn(|i| unsafe { _mm512_loadu_ps(table.as_ptr().add(LANES * i)) })
    }

    /// Entry of 32 by the low five bits of each index.
    macro_rules! pick {
        ($table:ident[$first:literal], $index:ident) => {
            _mm512_permutex2var_ps($table[$first], $index, $table[$first + 1])
        };
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn decode(map: &Dynamic, codes: &[u8], absmax: f32, values: &mut [f32]) {
        let table = load(&map.values);
        let scale = _mm512_set1_ps(absmax);
        let whole = codes.len().min(values.len()) / LANES * LANES;
        let bit = |index, bit| _mm512_test_epi32_mask(index, _mm512_set1_epi32(bit));
        for at in (0..whole).step_by(LANES) {
            // SAFETY: `at + 16` is at most the length of either slice.
            let index = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(codes.as_ptr().add(at).cast()) });
            let (b5, b6, b7) = (bit(index, 32), bit(index, 64), bit(index, 128));
            let a = _mm512_mask_blend_ps(b5, pick!(table[0], index), pick!(table[2], index));
            let b = _mm512_mask_blend_ps(b5, pick!(table[4], index), pick!(table[6], index));
            let c = _mm512_mask_blend_ps(b5, pick!(table[8], index), pick!(table[10], index));
            let d = _mm512_mask_blend_ps(b5, pick!(table[12], index), pick!(table[14], index));
            let (low, high) = (_mm512_mask_blend_ps(b6, a, b), _mm512_mask_blend_ps(b6, c, d));
            let value = _mm512_mul_ps(_mm512_mask_blend_ps(b7, low, high), scale);
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr().add(at), value) };
        }
        super::decode(map, &codes[whole..], absmax, &mut values[whole..]);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    pub(super) fn nearest(map: &Dynamic, x: &[f32], codes: &mut [u8]) {
        let tree = load(&map.tree);
        let whole = codes.len().min(x.len()) / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            // SAFETY: `at + 16` is at most the length of either slice.
            let x = unsafe { _mm512_loadu_ps(x.as_ptr().add(at)) };
            // The sign of the difference says which way to go, and is there sooner than a mask.
            let right = |threshold| _mm512_castps_si512(_mm512_sub_ps(threshold, x));
            let down =
                |node, right| _mm512_or_si512(_mm512_slli_epi32::<1>(node), _mm512_srli_epi32::<31>(right));
            // Levels 0 to 3 are the nodes 1 to 15, level 4 is 16 to 31: a vector each, by the low four bits.
            let root = _mm512_set1_epi32(1);
            let first = right(_mm512_permutexvar_ps(root, tree[0]));
            let mut node = down(root, first);
            let second = right(_mm512_permutexvar_ps(node, tree[0]));
            node = down(node, second);
            node = down(node, right(_mm512_permutexvar_ps(node, tree[0])));
            node = down(node, right(_mm512_permutexvar_ps(node, tree[0])));
            node = down(node, right(_mm512_permutexvar_ps(node, tree[1])));
            // Level 5 are two vectors. Of the further ones' the first decisions choose two.
            let (first, second) = (_mm512_movepi32_mask(first), _mm512_movepi32_mask(second));
            node = down(node, right(pick!(tree[2], node)));
            node = down(node, right(_mm512_mask_blend_ps(first, pick!(tree[4], node), pick!(tree[6], node))));
            let low = _mm512_mask_blend_ps(second, pick!(tree[8], node), pick!(tree[10], node));
            let high = _mm512_mask_blend_ps(second, pick!(tree[12], node), pick!(tree[14], node));
            node = down(node, right(_mm512_mask_blend_ps(first, low, high)));
            // 256 more than the code; the low byte is stored.
            // SAFETY: as above.
            unsafe { _mm_storeu_si128(codes.as_mut_ptr().add(at).cast(), _mm512_cvtepi32_epi8(node)) };
        }
        super::nearest(map, &x[whole..], &mut codes[whole..]);
    }
}

/// Largest magnitude of a block; 0 if it is empty. Lanes of their own let the compiler use vectors; the order of
/// a maximum does not matter.
#[inline(always)]
pub(super) fn absmax(x: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut most = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (most, x) in most.iter_mut().zip(chunk) {
            *most = if x.abs() > *most { x.abs() } else { *most };
        }
    }
    rest.iter().chain(&most.clone()).fold(0.0, |most, x| most.max(x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;

    #[test]
    fn both_searches_give_what_the_codebooks_gives() {
        for (map, book) in [(&SIGNED, Codebook::Dynamic), (&UNSIGNED, Codebook::DynamicUnsigned)] {
            let mut numbers = Vec::new();
            let mut around = |x: f32| {
                let bits = x.abs().to_bits();
                for bits in bits.saturating_sub(3)..=bits + 3 {
                    numbers.extend([f32::from_bits(bits), -f32::from_bits(bits)]);
                }
            };
            for pair in map.values.windows(2) {
                around(pair[0]);
                around((pair[0] + pair[1]) * 0.5);
            }
            (0..=0x3f80).for_each(|top| around(f32::from_bits(top << 16)));
            let mut rng = Rng::new(5);
            numbers.extend((0..200_000).map(|_| rng.normal() * 0.3));
            numbers.retain(|x| x.abs() <= 1.0);
            let (mut best, mut plain) = (vec![0; numbers.len()], vec![0; numbers.len()]);
            map.nearest(&numbers, &mut best);
            nearest(map, &numbers, &mut plain);
            for (i, &x) in numbers.iter().enumerate() {
                let want = book.sorted().nearest(x);
                assert_eq!((best[i], plain[i]), (want, want), "{} {x:e}", book.name());
            }
        }
    }

    #[test]
    fn every_code_of_any_length_is_decoded() {
        for map in [&SIGNED, &UNSIGNED] {
            for n in (0..40).chain([256, 300]) {
                let codes: Vec<u8> = (0..n).map(|i| (i * 7) as u8).collect();
                let mut values = vec![0.0; n];
                map.decode(&codes, 0.3, &mut values);
                let want: Vec<f32> = codes.iter().map(|&c| map.values[c as usize] * 0.3).collect();
                assert_eq!(values, want);
                let mut again = vec![0; n];
                map.nearest(&values.iter().map(|x| x / 0.3).collect::<Vec<_>>(), &mut again);
                assert_eq!(again, codes);
            }
        }
    }

    #[test]
    fn the_largest_magnitude_of_any_length() {
        let mut rng = Rng::new(6);
        for n in 0..70 {
            let x: Vec<f32> = (0..n).map(|_| rng.normal()).collect();
            assert_eq!(absmax(&x), x.iter().fold(0.0, |a: f32, x| a.max(x.abs())));
        }
    }
}
