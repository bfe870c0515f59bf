//! Plain Rust on arrays of eight, which LLVM turns into whatever vectors the target has.

use super::{Kernel, Simd};
use crate::Float;

proof! {
    /// The path of last resort, and of every architecture that is not x86-64.
    Portable
}

const N: usize = 8;

/// Fused where that is one instruction: `f32::mul_add` is a library call on plain x86-64.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn map(f: impl Fn(usize) -> f32) -> [f32; N] {
    let mut out = [0.0; N];
    for i in 0..N {
        out[i] = f(i);
    }
    out
}

impl Simd for Portable {
    run_with!(Portable, inline(never));
    type V = [f32; N];
    type W = [f32; N];
    const LANES: usize = N;
    const GROUP: usize = 1;
    // Eight lanes are two of the 16 registers of SSE2 or of the 32 of NEON.
    const TILE_ROWS: [usize; 4] = [4, 2, 2, 2];
    const TILE_COLUMNS: usize = if cfg!(target_arch = "aarch64") { 2 } else { 1 };

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: eight f32 are readable at `p`.
        unsafe { p.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: Self::V) {
        // SAFETY: eight f32 are writable at `p`.
        unsafe { p.cast::<Self::V>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        map(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        map(|i| mul_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        map(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn add_exponent(x: Self::V, biased: Self::V) -> Self::V {
        map(|i| f32::from_bits(x[i].to_bits().wrapping_add(biased[i].to_bits() << 23)))
    }
    #[inline(always)]
    unsafe fn sum_each(x: &[Self::V; 16]) -> Self::V {
        map(|i| {
            let v = x[i];
            ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
        })
    }
    #[inline(always)]
    unsafe fn words(p: *const u32) -> Self::W {
        // SAFETY: eight words are readable at `p`.
        unsafe { Self::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_words(p: *mut u32, x: Self::W) {
        // SAFETY: eight words are writable at `p`.
        unsafe { Self::store(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn splat_word(p: *const u32) -> Self::W {
        // SAFETY: one word is readable at `p`.
        [f32::from_bits(unsafe { *p }); N]
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::V, a: Self::W, b: Self::W) -> Self::V {
        // SAFETY: plain arithmetic.
        unsafe { Self::fma(a, b, acc) }
    }
    #[inline(always)]
    unsafe fn zip(lo: Self::V, _: Self::V) -> Self::W {
        lo
    }
    #[inline(always)]
    unsafe fn store_narrow(p: *mut u32, x: Self::V) {
        // SAFETY: eight words are writable at `p`.
        unsafe { Self::store(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const u32, from_row: usize, to: *mut u32, to_row: usize) {
        for i in 0..N {
            for j in 0..N {
                // SAFETY: both squares are valid by the caller.
                unsafe { *to.add(j * to_row + i) = *from.add(i * from_row + j) };
            }
        }
    }
    #[inline(always)]
    unsafe fn widen<T: Float>(p: *const T, count: usize) -> Self::V {
        // SAFETY: `count` elements are readable at `p`.
        map(|i| if i < count { unsafe { *p.add(i) }.to_f32() } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn gather_words<T: Float>(p: *const T, count: usize) -> Self::W {
        // SAFETY: by the caller.
        unsafe { Self::widen(p, count) }
    }
}
