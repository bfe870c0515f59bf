//! Fast conversion to and from the 8-bit dynamic maps.

use std::sync::LazyLock;

use crate::Codebook;

/// Least magnitude that has a cell of its own: below the first threshold of either map.
const LOW: u32 = 0x3400_0000; // 2⁻²³
const ONE: u32 = 0x3f80_0000;
/// Cells are told apart by the exponent and seven bits of the mantissa, finer than any two thresholds.
const SHIFT: u32 = 16;
/// Cells of negative numbers follow those of positive ones.
const SIGN: usize = 4096;

/// A dynamic map with a table that finds the nearest entry in two look-ups: the cell of `x` gives the code of its
/// lowest number, and as a cell holds at most one threshold, the code is that or the next.
pub(super) struct Dynamic {
    /// Value of each code.
    pub(super) values: [f32; 256],
    /// Midpoints between a code and the next; infinite for the last.
    midpoints: [f32; 256],
    first: [u8; 2 * SIGN],
}

/// The map of first moments.
pub(super) static SIGNED: LazyLock<Dynamic> = LazyLock::new(|| Dynamic::new(Codebook::Dynamic));
/// The map of second moments.
pub(super) static UNSIGNED: LazyLock<Dynamic> = LazyLock::new(|| Dynamic::new(Codebook::DynamicUnsigned));

impl Dynamic {
    fn new(book: Codebook) -> Self {
        let values: [f32; 256] = book.values().try_into().expect("a map of 256 entries");
        let mut midpoints = [f32::INFINITY; 256];
        for (mid, pair) in midpoints.iter_mut().zip(values.windows(2)) {
            *mid = (pair[0] + pair[1]) * 0.5;
        }
        let mut first = [0; 2 * SIGN];
        for cell in 0..=(ONE - LOW) >> SHIFT {
            let least = if cell == 0 { 0 } else { LOW + (cell << SHIFT) };
            let most = LOW + (cell << SHIFT) + (1 << SHIFT) - 1;
            let (least, most) = (f32::from_bits(least), f32::from_bits(most.min(ONE)));
            for (at, low, high) in [(cell as usize, least, most), (SIGN + cell as usize, -most, -least)] {
                first[at] = book.sorted().nearest(low);
                assert!(book.sorted().nearest(high) - first[at] <= 1, "two thresholds in one cell");
            }
        }
        Self { values, midpoints, first }
    }

    /// The codes that [`Codebook`]'s own search gives for `x`, from -1 to 1.
    #[inline(always)]
    pub(super) fn nearest(&self, x: &[f32], codes: &mut [u8]) {
        const PIECE: usize = 256;
        // Loops of their own: the first uses vectors, the second does nothing but look up.
        let mut cells = [0u16; PIECE];
        for (x, codes) in x.chunks(PIECE).zip(codes.chunks_mut(PIECE)) {
            for (cell, &x) in cells.iter_mut().zip(x) {
                *cell = cell_of(x);
            }
            for ((code, &x), &cell) in codes.iter_mut().zip(x).zip(&cells) {
                // The mask says what holds anyway, and saves the check of the bounds.
                let first = self.first[cell as usize & (2 * SIGN - 1)];
                *code = first + u8::from(x > self.midpoints[first as usize]);
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
    fn the_table_gives_what_the_search_gives() {
        for (map, book) in [(&SIGNED, Codebook::Dynamic), (&UNSIGNED, Codebook::DynamicUnsigned)] {
            let check = |x: f32| {
                if x.abs() <= 1.0 {
                    let mut code = [0];
                    map.nearest(&[x], &mut code);
                    assert_eq!(code[0], book.sorted().nearest(x), "{} {x:e}", book.name());
                }
            };
            let around = |x: f32| {
                let bits = x.abs().to_bits();
                for bits in bits.saturating_sub(3)..=bits + 3 {
                    check(f32::from_bits(bits));
                    check(-f32::from_bits(bits));
                }
            };
            for pair in map.values.windows(2) {
                around(pair[0]);
                around((pair[0] + pair[1]) * 0.5);
            }
            (0..=0x3f80).for_each(|top| around(f32::from_bits(top << 16)));
            let mut rng = Rng::new(5);
            (0..200_000).for_each(|_| check((rng.normal() * 0.3).clamp(-1.0, 1.0)));
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
