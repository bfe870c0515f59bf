//! Decoding of stored values: half and double floats, and GGML's 32-value blocks.
//!
//! The layouts are those of `block_q4_0`, `block_q4_1` and `block_q8_0` in ggml-common.h, little-endian:
//!
//! | type | bytes | values |
//! |---|---|---|
//! | `Q4_0` | f16 d, 16 × u8 q | `d * (nibble - 8)` |
//! | `Q4_1` | f16 d, f16 m, 16 × u8 q | `d * nibble + m`, two roundings |
//! | `Q8_0` | f16 d, 32 × i8 q | `d * q` |
//!
//! Low nibbles are values 0..16 of the block, high nibbles values 16..32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::FileDType;
use crate::Float;

/// Decodes all of `bytes` into `out`, by way of f32, rounding to nearest even.
///
/// False, with `out` untouched, where `dtype` is no float type or the lengths do not belong together.
pub(super) fn decode<T: Float>(dtype: FileDType, bytes: &[u8], out: &mut [T]) -> bool {
    if dtype.byte_len(out.len()) != Some(bytes.len()) {
        return false;
    }
    if dtype.element() == Some(T::DTYPE) && dtype.is_float() {
        // The same type: bits go over as they are, NaN payloads too.
        bytemuck::cast_slice_mut::<T, u8>(out).copy_from_slice(bytes);
        return true;
    }
    match dtype {
        FileDType::F32 => plain(bytes, out, |b| f32::from_le_bytes(*b)),
        FileDType::BF16 => plain(bytes, out, |b| <bf16 as Float>::to_f32(bf16::from_le_bytes(*b))),
        FileDType::F64 => plain_f64(bytes, out),
        FileDType::F16 => halves(bytes, out),
        FileDType::Q4_0 => blocks(bytes, out, q4_0),
        FileDType::Q4_1 => blocks(bytes, out, q4_1),
        FileDType::Q8_0 => blocks(bytes, out, q8_0),
        _ => return false,
    }
    true
}

fn plain<const N: usize, T: Float>(bytes: &[u8], out: &mut [T], read: impl Fn(&[u8; N]) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *o = T::from_f32(read(b));
    }
}

/// Rounds once, from f64: by way of f32 it would be twice.
fn plain_f64<T: Float>(bytes: &[u8], out: &mut [T]) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *o = T::from_f64(f64::from_le_bytes(*b));
    }
}

/// f16 in chunks, because `half` asks for the processor's conversion instruction once per call.
fn halves<T: Float>(bytes: &[u8], out: &mut [T]) {
    const CHUNK: usize = 256;
    let mut narrow = [f16::ZERO; CHUNK];
    let mut wide = [0.0; CHUNK];
    for (out, bytes) in out.chunks_mut(CHUNK).zip(bytes.chunks(2 * CHUNK)) {
        let (narrow, wide) = (&mut narrow[..out.len()], &mut wide[..out.len()]);
        bytemuck::cast_slice_mut::<f16, u8>(narrow).copy_from_slice(bytes);
        narrow.convert_to_f32_slice(wide);
        for (o, &x) in out.iter_mut().zip(&*wide) {
            *o = T::from_f32(x);
        }
    }
}

fn blocks<const BYTES: usize, T: Float>(
    bytes: &[u8],
    out: &mut [T],
    decode: impl Fn(&[u8; BYTES], &mut [f32; 32]),
) {
    let mut values = [0.0; 32];
    for (out, block) in out.as_chunks_mut::<32>().0.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
        decode(block, &mut values);
        for (o, &x) in out.iter_mut().zip(&values) {
            *o = T::from_f32(x);
        }
    }
}

fn scale(low: u8, high: u8) -> f32 {
    f16::from_le_bytes([low, high]).to_f32()
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let [d0, d1, q @ ..] = block;
    let d = scale(*d0, *d1);
    for (i, &q) in q.iter().enumerate() {
        out[i] = d * (i32::from(q & 15) - 8) as f32;
        out[i + 16] = d * (i32::from(q >> 4) - 8) as f32;
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let [d0, d1, m0, m1, q @ ..] = block;
    let (d, m) = (scale(*d0, *d1), scale(*m0, *m1));
    for (i, &q) in q.iter().enumerate() {
        out[i] = d * f32::from(q & 15) + m;
        out[i + 16] = d * f32::from(q >> 4) + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let [d0, d1, q @ ..] = block;
    let d = scale(*d0, *d1);
    for (o, &q) in out.iter_mut().zip(q) {
        *o = d * f32::from(q.cast_signed());
    }
}
