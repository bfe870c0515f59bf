//! Weights in 4-bit blocks with (doubly quantised) scales.

use std::fmt;

use crate::error::{Result, rule};
use crate::layout::Dims;
use crate::op::{apply, apply_one};
use crate::ops::{DequantizeBlockwise, QuantizeBlockwise};
use crate::{Codebook, DType, Device, Tensor};

/// Codes of scales that share an absmax (spec qlora §2).
const NESTED_BLOCK: usize = 256;

/// How to quantise a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantConfig {
    /// NF4 or FP4.
    pub codebook: Codebook,
    /// Values that share a scale: a power of two from 32 to 4096.
    pub block: usize,
    /// Quantise the scales too.
    pub double: bool,
}

impl Default for QuantConfig {
    /// The QLoRA paper's: NF4, blocks of 64, double quantisation.
    fn default() -> Self {
        Self { codebook: Codebook::Nf4, block: 64, double: true }
    }
}

/// The layout of block-wise codes: what an operation must know beside the tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockFormat {
    /// Values of the codes.
    pub codebook: Codebook,
    /// Values that share a scale; blocks run over the flattened tensor, the last may be short.
    pub block: usize,
    /// Set if the scales are codes themselves.
    pub nested: Option<Nested>,
}

/// Second level of double quantisation: scale = map\[code\]·absmax + offset.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nested {
    /// Scales that share an absmax.
    pub block: usize,
    /// The mean that was taken off all scales.
    pub offset: f32,
}

/// The tensors of a quantised weight, as checkpoints have them (spec qlora §6).
#[derive(Clone, Debug)]
pub struct QuantizedParts {
    /// `[out, in]` of the weight.
    pub dims: [usize; 2],
    /// Layout.
    pub format: BlockFormat,
    /// Element type of the weight before quantisation.
    pub source: DType,
    /// U8 `[ceil(out·in/2)]`, the even element in the high half.
    pub codes: Tensor,
    /// Of each block: F32, or U8 codes if `format.nested`.
    pub absmax: Tensor,
    /// F32, one for each 256 scales, and the F32 `[256]` values of their codes; if `format.nested`.
    pub nested: Option<(Tensor, Tensor)>,
}

/// A 4-bit weight `[out, in]`. Cheap to clone.
#[derive(Clone)]
pub struct Quantized(QuantizedParts);

impl Quantized {
    /// Quantises `weight` `[out, in]` (spec qlora §1.2, §2). Not differentiable.
    ///
    /// # Errors
    /// If the weight is no matrix of floats, the configuration makes no sense, or a value is not finite.
    pub fn quantize(weight: &Tensor, config: &QuantConfig) -> Result<Self> {
        let &[out, inner] = &*weight.dims() else {
            return Err(rule!("quantize", "the weight {:?} is no [out, in] matrix", weight.dims()));
        };
        if config.codebook.bits() != 4 {
            return Err(rule!(
                "quantize",
                "{} has 8-bit codes; weights take nf4 or fp4",
                config.codebook.name()
            ));
        }
        let op = QuantizeBlockwise { codebook: config.codebook, block: config.block };
        let [codes, absmax] = two(apply(op, &[&weight.detach()])?);
        let mut format = BlockFormat { codebook: config.codebook, block: config.block, nested: None };
        let mut absmax = absmax;
        let mut nested = None;
        if config.double {
            let blocks = absmax.count();
            // f64: no order of summation shows.
            let sum: f64 = absmax.to_f64_vec()?.iter().sum();
            if !sum.is_finite() {
                return Err(rule!(
                    "quantize",
                    "the weight {:?} holds values that are not finite",
                    weight.dims()
                ));
            }
            let offset = (sum / blocks.max(1) as f64) as f32;
            let op = QuantizeBlockwise { codebook: Codebook::Dynamic, block: NESTED_BLOCK };
            let [scale_codes, second] = two(apply(op, &[&absmax.affine(1.0, -offset)?])?);
            let map = Tensor::from_slice(Codebook::Dynamic.values(), &[256], weight.device())?;
            format.nested = Some(Nested { block: NESTED_BLOCK, offset });
            absmax = scale_codes;
            nested = Some((second, map));
        }
        Self::from_parts(QuantizedParts {
            dims: [out, inner],
            format,
            source: weight.dtype(),
            codes,
            absmax,
            nested,
        })
    }

    /// A weight from the tensors of a checkpoint; codes of shape `[n, 1]` are taken too.
    ///
    /// # Errors
    /// If sizes or types do not fit together.
    pub fn from_parts(mut parts: QuantizedParts) -> Result<Self> {
        let count = Dims::new(&parts.dims)?.count();
        let wrong = |what: &str, t: &Tensor, want: String| {
            Err(rule!("quantized", "{what} is {t:?}, expected {want} for a weight {:?}", parts.dims))
        };
        let BlockFormat { codebook, block, nested } = parts.format;
        if codebook.bits() != 4 || !block.is_power_of_two() || !(32..=4096).contains(&block) {
            return Err(rule!(
                "quantized",
                "{} in blocks of {block}; nf4 or fp4 in blocks of 32 to 4096",
                codebook.name()
            ));
        }
        let blocks = count.div_ceil(block);
        if parts.codes.dtype() != DType::U8 || parts.codes.count() != count.div_ceil(2) {
            return wrong("`weight`", &parts.codes, format!("u8 [{}, 1]", count.div_ceil(2)));
        }
        let scale_type = if nested.is_some() { DType::U8 } else { DType::F32 };
        if parts.absmax.dtype() != scale_type || parts.absmax.count() != blocks {
            return wrong("`absmax`", &parts.absmax, format!("{scale_type} [{blocks}]"));
        }
        match (&parts.nested, nested) {
            (None, None) => {}
            (Some((second, map)), Some(n)) => {
                let wanted = if n.block == 0 { 0 } else { blocks.div_ceil(n.block) };
                if second.dtype() != DType::F32 || second.count() != wanted {
                    return wrong("`nested_absmax`", second, format!("f32 [{wanted}]"));
                }
                if map.dtype() != DType::F32 || map.count() != 256 {
                    return wrong("`nested_quant_map`", map, "f32 [256]".into());
                }
            }
            _ => return Err(rule!("quantized", "nested scales need their absmax and map, others have none")),
        }
        parts.codes = parts.codes.reshape(&[count.div_ceil(2)])?.contiguous()?;
        parts.absmax = parts.absmax.reshape(&[blocks])?.contiguous()?;
        Ok(Self(parts))
    }

    /// The tensors and their layout.
    pub fn parts(&self) -> &QuantizedParts {
        &self.0
    }

    /// `[out, in]`
    pub fn dims(&self) -> [usize; 2] {
        self.0.dims
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        let nested = self.0.nested.as_ref().map_or(0, |(second, _)| second.bytes());
        self.0.codes.bytes() + self.0.absmax.bytes() + nested
    }

    /// A copy on another device; itself if it is there already.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let QuantizedParts { codes, absmax, nested, .. } = &self.0;
        let nested = match nested {
            Some((second, map)) => Some((second.to_device(device)?, map.to_device(device)?)),
            None => None,
        };
        let (codes, absmax) = (codes.to_device(device)?, absmax.to_device(device)?);
        Ok(Self(QuantizedParts { codes, absmax, nested, ..self.0.clone() }))
    }

    /// Codes and scales in the order in which operations take them.
    pub(crate) fn tensors(&self) -> Vec<&Tensor> {
        let QuantizedParts { codes, absmax, nested, .. } = &self.0;
        let mut all = vec![codes, absmax];
        if let Some((second, map)) = nested {
            all.extend([second, map]);
        }
        all
    }

    /// The weight `[out, in]`: table value × scale in f32, rounded once to `dtype` (spec qlora §1.3).
    pub fn dequantize(&self, dtype: DType) -> Result<Tensor> {
        let op = DequantizeBlockwise { format: self.0.format, dims: Dims::new(&self.0.dims)?, out: dtype };
        apply_one(op, &self.tensors())
    }
}

fn two(outputs: Vec<Tensor>) -> [Tensor; 2] {
    outputs.try_into().unwrap_or_else(|_| unreachable!("the operation has two outputs"))
}

/// `nf4 [96, 128] in blocks of 64, doubly`
impl fmt::Debug for Quantized {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let QuantizedParts { dims, format, .. } = &self.0;
        write!(f, "{} {dims:?} in blocks of {}", format.codebook.name(), format.block)?;
        if format.nested.is_some() { f.write_str(", doubly") } else { Ok(()) }
    }
}
