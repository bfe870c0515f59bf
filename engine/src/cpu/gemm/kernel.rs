//! What an instruction set gives to the product, and the scratch memory that the ways share.

use std::cell::RefCell;
use std::ops::Range;

use crate::dtype::Float;

/// The innermost loops for one instruction set and operand type.
///
/// Packed operands are `u32` *words*: the bits of one f32 (`DEPTH` 1; bf16 is widened while packing), or
/// two bf16 neighbours along `k`, the first in the low half (`DEPTH` 2, for the bf16 dot product).
///
/// Every function needs the instruction set that its type stands for; `gemm_with` checked it.
pub(in crate::cpu) trait Kernel<T: Float> {
    /// Rows of the register tile.
    const MR: usize;
    /// Columns of the register tile.
    const NR: usize;
    /// Elements along `k` in one word.
    const DEPTH: usize;
    /// Most words along `k` in one packed block.
    const KC: usize;
    /// Most register tiles across in the task of a thread: `KC * NC * NR` words of B stay in L2.
    const NC: usize;
    /// Whether neighbours along `k` in memory are words as they stand, so that A needs no packing.
    const IN_PLACE: bool;
    /// Rows that [`Self::dots`] walks at once for one vector of `x`.
    const STREAMS: usize;
    /// Whether [`Self::packed_dots`] is there; else rows are expanded first.
    const PACKED_DOTS: bool = false;

    /// One word from neighbours along `k`; `hi` is ignored where `DEPTH` is 1.
    fn word(lo: T, hi: T) -> u32;

    /// `out = init + A·B` for one register tile: `a` is `[MR, words]` at strides `a_row` and `a_step` in
    /// bytes, `b` is `[words, NR]`. A row stride `init_rs` of 0 starts every row from the same values.
    ///
    /// # Safety
    /// `a` (at any alignment) and `b` hold `words` steps; `init` and `out` hold MR rows of NR values at
    /// their strides.
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
    );

    /// Packs `lanes` rows that are contiguous along `k` (`k` elements each, `stride` apart) into
    /// `[words, width]`; lanes beyond and an odd last half are zero.
    ///
    /// # Safety
    /// `src` reaches over the rows; `dst` holds `k.div_ceil(DEPTH) * width` words; `lanes <= width`;
    /// `width` is `MR` or `NR`.
    unsafe fn pack_along_k(src: *const T, stride: usize, lanes: usize, k: usize, width: usize, dst: *mut u32);

    /// As [`Self::pack_along_k`] for lanes that are contiguous, with `stride` elements between steps of `k`.
    ///
    /// # Safety
    /// As [`Self::pack_along_k`].
    unsafe fn pack_along_lanes(
        src: *const T,
        stride: usize,
        lanes: usize,
        k: usize,
        width: usize,
        dst: *mut u32,
    );

    /// Rounds a register tile's valid part to the output type.
    ///
    /// # Safety
    /// `tile` holds `rows` rows of NR values, `out` holds `rows` rows of `cols` at stride `rs`.
    unsafe fn store<O: Float>(tile: *const f32, rows: usize, cols: usize, out: *mut O, rs: usize);

    /// Dot products of `R` rows `w` (contiguous, `k` elements) with `M` packed vectors `x`, each `xs` words
    /// long and zero beyond `k`, which a multiple of 16 words covers. What lies `ahead` bytes after each row is
    /// prefetched meanwhile.
    ///
    /// # Safety
    /// Every row of `w` holds `k` elements; `x` holds `M * xs` words.
    unsafe fn dots<const R: usize, const M: usize>(
        k: usize,
        w: [*const T; R],
        x: *const u32,
        xs: usize,
        ahead: usize,
    ) -> [[f32; M]; R];

    /// Expands 4-bit codes, the first of a pair in the high half of its byte: 64 for each scale, value
    /// `table[code]·scale`, a product in f32 rounded once.
    ///
    /// # Safety
    /// `codes` holds 32 bytes and `out` 64 elements for each of `scales`.
    #[inline(always)]
    unsafe fn expand(codes: *const u8, scales: &[f32], table: &[f32; 16], out: *mut T) {
        for (unit, &scale) in scales.iter().enumerate() {
            let values = table.map(|v| T::from_f32(v * scale));
            for byte in 32 * unit..32 * unit + 32 {
                // SAFETY: by the caller's promise.
                unsafe {
                    let pair = codes.add(byte).read();
                    out.add(2 * byte).write(values[usize::from(pair >> 4)]);
                    out.add(2 * byte + 1).write(values[usize::from(pair & 15)]);
                }
            }
        }
    }

    /// `map[code]·absmax + offset` for each code, a product and a sum in f32.
    ///
    /// # Safety
    /// None beyond the instruction set.
    #[inline(always)]
    unsafe fn nested_scales(codes: &[u8], map: &[f32; 256], second: SecondLevel<'_>, out: &mut [f32]) {
        for (run, absmax) in second.runs(codes.len()) {
            for (out, &code) in out[run.clone()].iter_mut().zip(&codes[run]) {
                *out = map[usize::from(code)] * absmax + second.offset;
            }
        }
    }

    /// Arranges a vector, a whole number of 64 values, for [`Self::packed_dots`].
    fn arrange(_: &[T], _: &mut [T]) {
        unreachable!("asked for only where PACKED_DOTS is set")
    }

    /// Dot products of `R` rows of 4-bit codes with one arranged vector: row `r` is `32·units` bytes at `codes[r]`,
    /// with one scale in `scales[r]` for each 64 codes. The values are those of [`Self::expand`]. Codes `ahead` bytes
    /// after each row's are prefetched meanwhile.
    ///
    /// # Safety
    /// As [`Self::expand`] for each row; `x` holds `64·units` elements.
    unsafe fn packed_dots<const R: usize>(
        _units: usize,
        _codes: [*const u8; R],
        _scales: [*const f32; R],
        _table: &[f32; 16],
        _x: *const T,
        _ahead: usize,
    ) -> [f32; R] {
        unreachable!("asked for only where PACKED_DOTS is set")
    }
}

/// Second level of double quantisation, from some code on.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct SecondLevel<'a> {
    /// Number of the first code.
    pub(in crate::cpu) first: usize,
    /// Codes that share an `absmax`.
    pub(in crate::cpu) block: usize,
    pub(in crate::cpu) absmax: &'a [f32],
    pub(in crate::cpu) offset: f32,
}

impl<'a> SecondLevel<'a> {
    /// Ranges of the next `n` codes with the `absmax` that each shares.
    #[inline(always)]
    pub(super) fn runs(self, n: usize) -> impl Iterator<Item = (Range<usize>, f32)> + use<'a> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = at;
            let code = self.first + start;
            at = n.min(start + self.block - code % self.block);
            (start < n).then(|| (start..at, self.absmax[code / self.block]))
        })
    }
}

/// The word of A at `offset` bytes: elements in place may be aligned to two bytes only.
///
/// # Safety
/// Four bytes are readable there.
#[inline(always)]
pub(super) unsafe fn word(a: *const u8, offset: usize) -> u32 {
    // SAFETY: by the caller's promise.
    u32::from_ne_bytes(unsafe { a.add(offset).cast::<[u8; 4]>().read() })
}

/// A growing buffer on cache-line boundaries.
#[derive(Default)]
pub(super) struct Words(Vec<Line>);

#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u32; 16]);

impl Words {
    /// At least `n` words with whatever they last held.
    pub(super) fn get(&mut self, n: usize) -> &mut [u32] {
        let lines = n.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 16]));
        }
        bytemuck::cast_slice_mut(&mut self.0[..lines])
    }

    /// At least `n` elements with whatever they last held.
    pub(super) fn elements<T: Float>(&mut self, n: usize) -> &mut [T] {
        bytemuck::cast_slice_mut(self.get((n * size_of::<T>()).div_ceil(4)))
    }
}

/// Buffers of one thread. They keep the size of the largest task so far, which the block sizes bound.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) a: Words,
    pub(super) b: Words,
    pub(super) sums: Words,
    pub(super) bias: Words,
    /// Expanded parts of a packed weight.
    pub(super) values: Words,
}

thread_local! {
    pub(super) static SCRATCH: RefCell<Scratch> = RefCell::default();
}
