//! Plain Rust, written so that the compiler vectorises it for its baseline target.

use super::kernel::{Kernel, word};
use super::pack;
use crate::dtype::{DType, Float};

/// f32 arithmetic without intrinsics.
pub(super) struct Plain;

/// Fused where the baseline has the instruction; elsewhere `mul_add` would call a library function.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

impl<T: Float> Kernel<T> for Plain {
    // 4×8 sums are eight 128-bit registers, half of SSE2's and a quarter of NEON's.
    const MR: usize = 4;
    const NR: usize = 8;
    const DEPTH: usize = 1;
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
        const MR: usize = 4;
        const NR: usize = 8;
        let mut sums = [[0f32; NR]; MR];
        for (i, sums) in sums.iter_mut().enumerate() {
            // SAFETY: MR rows of NR values by the caller's promise.
            *sums = unsafe { init.add(i * init_rs).cast::<[f32; NR]>().read() };
        }
        for w in 0..words {
            // SAFETY: `words` steps by the caller's promise.
            let b = unsafe { b.add(w * NR).cast::<[f32; NR]>().read() };
            let a: [f32; MR] = std::array::from_fn(|i| {
                // SAFETY: as above.
                f32::from_bits(unsafe { word(a, i * a_row + w * a_step) })
            });
            for (sums, a) in sums.iter_mut().zip(a) {
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = mul_add(a, b, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            // SAFETY: as for `init`.
            unsafe { out.add(i * out_rs).cast::<[f32; NR]>().write(*sums) };
        }
    }

    unsafe fn pack_along_k(
        src: *const T,
        stride: usize,
        lanes: usize,
        k: usize,
        width: usize,
        dst: *mut u32,
    ) {
        for w in 0..k {
            for lane in 0..width {
                // SAFETY: lanes below `lanes` and steps below `k` are within `src`; `dst` is `[k, width]`.
                unsafe {
                    let word = if lane < lanes { (*src.add(lane * stride + w)).to_f32() } else { 0.0 };
                    *dst.add(w * width + lane) = word.to_bits();
                }
            }
        }
    }

    unsafe fn pack_along_lanes(
        src: *const T,
        stride: usize,
        lanes: usize,
        k: usize,
        width: usize,
        dst: *mut u32,
    ) {
        // SAFETY: the same promise.
        unsafe { pack::along_lanes::<T, Self>(src, stride, lanes, k, width, dst) }
    }

    unsafe fn store<O: Float>(tile: *const f32, rows: usize, cols: usize, out: *mut O, rs: usize) {
        // SAFETY: the same promise.
        unsafe { pack::store(tile, 8, rows, cols, out, rs) }
    }

    unsafe fn dots<const R: usize, const M: usize>(
        k: usize,
        w: [*const T; R],
        x: *const u32,
        xs: usize,
        _: usize,
    ) -> [[f32; M]; R] {
        const LANES: usize = 8;
        let mut sums = [[[0f32; LANES]; M]; R];
        let mut row = [[0f32; LANES]; R];
        for start in (0..k).step_by(LANES) {
            let lanes = LANES.min(k - start);
            for (row, w) in row.iter_mut().zip(w) {
                // SAFETY: `k` elements by the caller's promise.
                let w = unsafe { std::slice::from_raw_parts(w.add(start), lanes) };
                *row = [0.0; LANES];
                for (x, w) in row.iter_mut().zip(w) {
                    *x = w.to_f32();
                }
            }
            for m in 0..M {
                // SAFETY: `x` is padded to a multiple of 16 words.
                let x = unsafe { x.add(m * xs + start).cast::<[f32; LANES]>().read() };
                for (sums, row) in sums.iter_mut().zip(&row) {
                    for ((sum, x), w) in sums[m].iter_mut().zip(x).zip(row) {
                        *sum = mul_add(x, *w, *sum);
                    }
                }
            }
        }
        sums.map(|of_row| of_row.map(|lanes| lanes.iter().sum()))
    }
}
