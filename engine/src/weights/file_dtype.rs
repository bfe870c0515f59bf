//! Element types as weight files know them.

use std::fmt;

use crate::DType;

/// Element or block type of a tensor in a file.
///
/// Values come in blocks: 1 value per block for plain types, 32 for GGML's `Q4_0`, `Q4_1` and `Q8_0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // each is what its name says
pub enum FileDType {
    F64,
    F32,
    F16,
    BF16,
    I64,
    U64,
    I32,
    U32,
    I16,
    U16,
    I8,
    U8,
    Bool,
    Q4_0,
    Q4_1,
    Q8_0,
    /// A type whose size is known, so that files that use it can be listed, but whose values are not decoded.
    Opaque(OpaqueType),
}

/// A type known by name and size only: [`FileDType::Opaque`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpaqueType {
    name: &'static str,
    values: usize,
    bytes: usize,
}

const fn opaque(name: &'static str, values: usize, bytes: usize) -> FileDType {
    FileDType::Opaque(OpaqueType { name, values, bytes })
}

impl FileDType {
    /// The types that can be decoded, for tests that walk them all.
    pub const DECODED: [Self; 16] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::I64,
        Self::U64,
        Self::I32,
        Self::U32,
        Self::I16,
        Self::U16,
        Self::I8,
        Self::U8,
        Self::Bool,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q8_0,
    ];

    /// Name as it stands in the file format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::U64 => "U64",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q8_0 => "Q8_0",
            Self::Opaque(t) => t.name,
        }
    }

    /// Values in one block, 1 for plain types.
    pub const fn block_values(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => 32,
            Self::Opaque(t) => t.values,
            _ => 1,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
            Self::Opaque(t) => t.bytes,
        }
    }

    /// Alignment in bytes that a plain element wants; 1 for blocks, which are read byte by byte.
    pub const fn align(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 | Self::Opaque(_) => 1,
            plain => plain.block_bytes(),
        }
    }

    /// Bytes of `numel` values; `None` where they do not fill whole blocks, or on overflow.
    pub const fn byte_len(self, numel: usize) -> Option<usize> {
        if numel.is_multiple_of(self.block_values()) {
            (numel / self.block_values()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }

    /// The engine's element type with the same bytes, so that a tensor can wrap them as they are.
    /// `Bool` is a byte that holds 0 or 1, hence `U8`.
    pub const fn element(self) -> Option<DType> {
        match self {
            Self::F32 => Some(DType::F32),
            Self::BF16 => Some(DType::BF16),
            Self::F16 => Some(DType::F16),
            Self::U8 | Self::Bool => Some(DType::U8),
            Self::U32 => Some(DType::U32),
            Self::I32 => Some(DType::I32),
            _ => None,
        }
    }

    /// True where values decode to floats: [`Entry::read_rows`](super::Entry::read_rows).
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16 | Self::Q4_0 | Self::Q4_1 | Self::Q8_0)
    }

    /// Type of a safetensors header; `None` for a name that the format does not have.
    /// The names and sizes are those of the `safetensors` crate, version 0.8.
    pub(super) fn from_safetensors(name: &str) -> Option<Self> {
        Some(match name {
            "F64" => Self::F64,
            "F32" => Self::F32,
            "F16" => Self::F16,
            "BF16" => Self::BF16,
            "I64" => Self::I64,
            "U64" => Self::U64,
            "I32" => Self::I32,
            "U32" => Self::U32,
            "I16" => Self::I16,
            "U16" => Self::U16,
            "I8" => Self::I8,
            "U8" => Self::U8,
            "BOOL" => Self::Bool,
            "C64" => opaque("C64", 1, 8),
            "F8_E5M2" => opaque("F8_E5M2", 1, 1),
            "F8_E4M3" => opaque("F8_E4M3", 1, 1),
            "F8_E8M0" => opaque("F8_E8M0", 1, 1),
            "F8_E4M3FNUZ" => opaque("F8_E4M3FNUZ", 1, 1),
            "F8_E5M2FNUZ" => opaque("F8_E5M2FNUZ", 1, 1),
            "F6_E2M3" => opaque("F6_E2M3", 4, 3),
            "F6_E3M2" => opaque("F6_E3M2", 4, 3),
            "F4" => opaque("F4", 2, 1),
            _ => return None,
        })
    }

    /// True for the types that a safetensors file can hold.
    pub(super) fn in_safetensors(self) -> bool {
        Self::from_safetensors(self.name()) == Some(self)
    }

    /// Type of a GGUF tensor by its number (`ggml_type` in ggml.h); `None` for numbers that are not, or no
    /// longer, in use in files (`Q8_1` and `Q8_K` only ever live in memory).
    pub(super) const fn from_ggml(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => opaque("Q5_0", 32, 22),
            7 => opaque("Q5_1", 32, 24),
            8 => Self::Q8_0,
            10 => opaque("Q2_K", 256, 84),
            11 => opaque("Q3_K", 256, 110),
            12 => opaque("Q4_K", 256, 144),
            13 => opaque("Q5_K", 256, 176),
            14 => opaque("Q6_K", 256, 210),
            16 => opaque("IQ2_XXS", 256, 66),
            17 => opaque("IQ2_XS", 256, 74),
            18 => opaque("IQ3_XXS", 256, 98),
            19 => opaque("IQ1_S", 256, 50),
            20 => opaque("IQ4_NL", 32, 18),
            21 => opaque("IQ3_S", 256, 110),
            22 => opaque("IQ2_S", 256, 82),
            23 => opaque("IQ4_XS", 256, 136),
            24 => Self::I8,
            25 => Self::I16,
            26 => Self::I32,
            27 => Self::I64,
            28 => Self::F64,
            29 => opaque("IQ1_M", 256, 56),
            30 => Self::BF16,
            34 => opaque("TQ1_0", 256, 54),
            35 => opaque("TQ2_0", 256, 66),
            39 => opaque("MXFP4", 32, 17),
            40 => opaque("NVFP4", 64, 36),
            _ => return None,
        })
    }
}

impl fmt::Display for FileDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
