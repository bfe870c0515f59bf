//! Block-quantised 4-bit weights as the products read them.

use super::gemm::kernel::{Kernel, SecondLevel};
use crate::dtype::Float;

/// Largest magnitudes of the blocks.
#[derive(Clone, Copy, Debug)]
pub enum Scales<'a> {
    /// As they are.
    Plain(&'a [f32]),
    /// Quantised themselves (double quantisation, spec qlora §2): `map[code] · absmax + offset`.
    Nested {
        /// One for each block of the weight.
        codes: &'a [u8],
        /// One for each `block` codes.
        absmax: &'a [f32],
        /// Values of the codes.
        map: &'a [f32; 256],
        /// Codes that share an `absmax`.
        block: usize,
        /// The mean that was taken off.
        offset: f32,
    },
}

impl Scales<'_> {
    /// Scale of block `b`.
    #[inline(always)]
    pub(super) fn of(&self, b: usize) -> f32 {
        match self {
            Self::Plain(absmax) => absmax[b],
            Self::Nested { codes, absmax, map, block, offset } => {
                map[usize::from(codes[b])] * absmax[b / block] + offset
            }
        }
    }
}

/// A weight `[rows, cols]` in 4-bit codes, two to a byte, the first in the high half; blocks run over the flattened
/// weight, so a row may begin inside one.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// Codes.
    pub codes: &'a [u8],
    /// Of each block.
    pub scales: Scales<'a>,
    /// Values that share a scale: a power of two from 32 on.
    pub block: usize,
    /// Value of each code.
    pub table: &'a [f32; 16],
    /// Outputs of the layer.
    pub rows: usize,
    /// Inputs of the layer.
    pub cols: usize,
}

/// Values that the kernels expand with one scale.
pub(super) const UNIT: usize = 64;

impl Packed<'_> {
    /// Scales of the 64 values from each of `start`, `start + 64`, … on; blocks have 64 values or more.
    #[inline(always)]
    pub(super) fn unit_scales<T: Float, K: Kernel<T>>(&self, start: usize, scales: &mut [f32]) {
        let per_block = self.block / UNIT;
        let first = start / UNIT;
        if let (1, Scales::Nested { codes, absmax, map, block, offset }) = (per_block, self.scales) {
            let codes = &codes[first..first + scales.len()];
            let second = SecondLevel { first, block, absmax, offset };
            // SAFETY: the kernel's instruction set was checked.
            unsafe { K::nested_scales(codes, map, second, scales) };
            return;
        }
        for (i, scale) in scales.iter_mut().enumerate() {
            *scale = self.scales.of((first + i) / per_block);
        }
    }

    /// Asks for the scales of `n` values from `start` on, which need not be there.
    #[inline(always)]
    pub(super) fn prefetch_scales(&self, start: usize, n: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Scales::Nested { codes, .. } = self.scales {
            let first = start / self.block;
            for line in (0..n.div_ceil(self.block)).step_by(64) {
                let at = codes.as_ptr().wrapping_add(first + line);
                // SAFETY: a prefetch does not fault.
                unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, n);
    }

    /// Whether rows are whole units, as the fused dot products want them.
    pub(super) fn whole_units(&self) -> bool {
        self.block >= UNIT && self.cols.is_multiple_of(UNIT)
    }

    /// The values from flat index `start` on: `table[code]·scale`, a product in f32 rounded once to `T`
    /// (spec §1.3, first row).
    #[inline(always)]
    pub(super) fn expand<T: Float, K: Kernel<T>>(&self, start: usize, out: &mut [T]) {
        if self.block < UNIT {
            return self.one_by_one(start, out);
        }
        // Parts of units at both ends are taken from whole ones.
        let head = (start.next_multiple_of(UNIT) - start).min(out.len());
        let (head, body) = out.split_at_mut(head);
        if !head.is_empty() {
            self.part_of_unit::<T, K>(start, head);
        }
        let at = start + head.len();
        let (body, tail) = body.split_at_mut(body.len() / UNIT * UNIT);
        self.units::<T, K>(at, body);
        if !tail.is_empty() {
            self.part_of_unit::<T, K>(at + body.len(), tail);
        }
    }

    /// Whole units from `start` on, which is a multiple of 64.
    #[inline(always)]
    fn units<T: Float, K: Kernel<T>>(&self, start: usize, out: &mut [T]) {
        const MOST: usize = 8;
        for (i, out) in out.chunks_mut(MOST * UNIT).enumerate() {
            let at = start + i * MOST * UNIT;
            let mut scales = [0.0; MOST];
            let scales = &mut scales[..out.len() / UNIT];
            self.unit_scales::<T, K>(at, scales);
            let codes = &self.codes[at / 2..][..out.len() / 2];
            // SAFETY: 32 bytes of codes and 64 values for each scale; the kernel's instruction set was checked.
            unsafe { K::expand(codes.as_ptr(), scales, self.table, out.as_mut_ptr()) };
        }
    }

    /// Less than a unit, within one.
    fn part_of_unit<T: Float, K: Kernel<T>>(&self, start: usize, out: &mut [T]) {
        let unit = start / UNIT * UNIT;
        if unit / 2 + UNIT / 2 > self.codes.len() {
            return self.one_by_one(start, out);
        }
        let mut whole = [T::from_f32(0.0); UNIT];
        self.units::<T, K>(unit, &mut whole);
        out.copy_from_slice(&whole[start - unit..][..out.len()]);
    }

    /// As [`Self::expand`], for any start and block.
    pub(super) fn one_by_one<T: Float>(&self, start: usize, out: &mut [T]) {
        for (at, out) in (start..).zip(out) {
            let pair = self.codes[at / 2];
            let code = if at % 2 == 0 { pair >> 4 } else { pair & 15 };
            *out = T::from_f32(self.table[usize::from(code)] * self.scales.of(at / self.block));
        }
    }
}
