//! A tensor's elements as f64, read from storage.

use engine::{DType, Result, Tensor};

use super::unravel;
use crate::Array;

/// The bytes of a tensor with the way they lie.
pub(super) struct Values {
    bytes: Vec<u8>,
    pub(super) dims: Vec<usize>,
    strides: Vec<usize>,
    pub(super) dtype: DType,
}

impl Values {
    pub(super) fn of(tensor: &Tensor) -> Result<Self> {
        let layout = tensor.layout();
        Ok(Self {
            bytes: tensor.to_strided_bytes()?,
            dims: layout.dims.to_vec(),
            strides: layout.strides.to_vec(),
            dtype: tensor.dtype(),
        })
    }

    pub(super) fn count(&self) -> usize {
        self.dims.iter().product()
    }

    /// Length of the last dimension.
    pub(super) fn row_len(&self) -> usize {
        self.dims.last().copied().unwrap_or(1)
    }

    /// Number of runs of the last dimension.
    pub(super) fn row_count(&self) -> usize {
        self.dims.split_last().map_or(1, |(_, lead)| lead.iter().product())
    }

    fn read(&self, place: usize) -> f64 {
        fn word<const N: usize>(bytes: &[u8], place: usize) -> [u8; N] {
            bytes[place * N..][..N].try_into().expect("N bytes")
        }
        let bytes = &self.bytes;
        match self.dtype {
            DType::F32 => f64::from(f32::from_le_bytes(word(bytes, place))),
            DType::BF16 => f64::from(f32::from_bits(u32::from(u16::from_le_bytes(word(bytes, place))) << 16)),
            DType::F16 => half(u16::from_le_bytes(word(bytes, place))),
            DType::U8 => f64::from(bytes[place]),
            DType::U32 => f64::from(u32::from_le_bytes(word(bytes, place))),
            DType::I32 => f64::from(i32::from_le_bytes(word(bytes, place))),
        }
    }

    pub(super) fn at(&self, index: &[usize]) -> f64 {
        self.read(index.iter().zip(&self.strides).map(|(i, s)| i * s).sum())
    }

    /// Element number `at` in row-major order.
    pub(super) fn element(&self, at: usize) -> f64 {
        self.at(&unravel(at, &self.dims))
    }

    /// The elements with these row-major numbers, as one dimension.
    pub(super) fn flat(&self, at: &[usize]) -> Array {
        Array::new(&[at.len()], at.iter().map(|&i| self.element(i)).collect())
    }

    /// The rows with these numbers, `[rows, length]`.
    pub(super) fn rows(&self, rows: &[usize]) -> Array {
        let n = self.row_len();
        let data = rows.iter().flat_map(|row| (row * n..(row + 1) * n).map(|i| self.element(i))).collect();
        Array::new(&[rows.len(), n], data)
    }

    /// Everything, in its own shape.
    pub(super) fn all(&self) -> Array {
        Array::from_fn(&self.dims, |index| self.at(index))
    }

    /// The elements whose every index is in the list for its dimension.
    pub(super) fn block(&self, picks: &[Vec<usize>]) -> Array {
        let sizes: Vec<usize> = picks.iter().map(Vec::len).collect();
        Array::from_fn(&sizes, |index| {
            let places = index.iter().zip(picks).zip(&self.strides);
            self.read(places.map(|((&i, pick), s)| pick[i] * s).sum())
        })
    }
}

/// An IEEE half, by its definition.
fn half(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}
