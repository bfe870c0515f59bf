//! Quantised weights as tensors of a file.

use engine::weights::{Entry, FileDType, Weights};
use engine::{BlockFormat, Codebook, DType, Device, Nested, Quantized, QuantizedParts, Tensor};

use super::{NestedState, QuantState};
use crate::error::Result;

/// Tables of other machines and versions may differ in the last bits.
const TABLE_TOLERANCE: f32 = 1e-6;

fn state_entry<'a>(weights: &'a Weights, name: &str) -> Option<(&'a Entry, Codebook)> {
    [Codebook::Nf4, Codebook::Fp4].into_iter().find_map(|codebook| {
        let key = format!("{name}.quant_state.bitsandbytes__{}", codebook.name());
        Some((weights.get(&key)?, codebook))
    })
}

/// Whether the file holds the weight `name` (`….q_proj.weight`) in 4-bit blocks.
pub fn is_quantized(weights: &Weights, name: &str) -> bool {
    state_entry(weights, name).is_some()
}

/// The 4-bit weight `name`. On the CPU its tensors stay where they lie in the file.
///
/// # Errors
/// If one of its tensors is missing or they do not fit together; the message names it.
pub fn read(weights: &Weights, name: &str, device: &Device) -> Result<Quantized> {
    let (entry, by_key) = state_entry(weights, name).ok_or_else(|| {
        crate::Error::Input(format!("{}: `{name}` is not quantised", weights.path().display()))
    })?;
    let state = QuantState::parse(entry.bytes()).map_err(|reason| entry.error(reason))?;
    if state.codebook != by_key {
        return Err(entry
            .error(format!("the text says {}, the name {}", state.codebook.name(), by_key.name()))
            .into());
    }
    let bytes = |name: &str| -> Result<Tensor> {
        let entry = weights.require(name)?;
        let n = entry.range().len();
        Ok(Tensor::from_mapped(entry.mapping(), entry.range(), &[n], DType::U8, device)?)
    };
    let floats = |name: &str| -> Result<Tensor> {
        let entry = weights.require(name)?;
        if entry.dtype() != FileDType::F32 {
            return Err(entry.error(format!("holds {}, where F32 is expected", entry.dtype())).into());
        }
        if entry.to_f32()?.iter().any(|x| !x.is_finite()) {
            return Err(entry.error("holds a value that is not finite").into());
        }
        Ok(Tensor::from_mapped(entry.mapping(), entry.range(), &[entry.numel()], DType::F32, device)?)
    };
    let codes = weights.require(name)?;
    // The same bytes under another type: `bnb_4bit_quant_storage`.
    if !matches!(codes.dtype(), FileDType::U8 | FileDType::F32 | FileDType::F16 | FileDType::BF16) {
        return Err(codes.error(format!("holds {}, which does not store 4-bit codes", codes.dtype())).into());
    }
    check_table(weights.require(&format!("{name}.quant_map"))?, state.codebook)?;
    let absmax = format!("{name}.absmax");
    let (absmax, nested) = if state.nested.is_some() {
        let entry = weights.require(&absmax)?;
        if entry.dtype() != FileDType::U8 {
            return Err(entry.error(format!("holds {}, where U8 codes are expected", entry.dtype())).into());
        }
        let second = floats(&format!("{name}.nested_absmax"))?;
        (bytes(&absmax)?, Some((second, floats(&format!("{name}.nested_quant_map"))?)))
    } else {
        (floats(&absmax)?, None)
    };
    let parts = QuantizedParts {
        dims: state.shape,
        format: BlockFormat {
            codebook: state.codebook,
            block: state.block,
            nested: state.nested.map(|n| Nested { block: n.block, offset: n.offset }),
        },
        source: state.source,
        codes: bytes(name)?,
        absmax,
        nested,
    };
    Ok(Quantized::from_parts(parts).map_err(|error| codes.error(error.to_string()))?)
}

fn check_table(entry: &Entry, codebook: Codebook) -> Result<()> {
    let table = entry.to_f32()?;
    let same = table.len() == codebook.values().len()
        && table.iter().zip(codebook.values()).all(|(a, b)| (a - b).abs() <= TABLE_TOLERANCE);
    if same {
        return Ok(());
    }
    Err(entry.error(format!("is not the table of {}", codebook.name())).into())
}

/// One tensor to be written: name, type, shape, bytes.
pub type Written = (String, FileDType, Vec<usize>, Vec<u8>);

/// The tensors that a file holds of the weight `name`, sorted by name.
pub fn tensors(name: &str, weight: &Quantized) -> Result<Vec<Written>> {
    let parts = weight.parts();
    let codebook = parts.format.codebook;
    let state = QuantState {
        codebook,
        block: parts.format.block,
        source: parts.source,
        shape: parts.dims,
        nested: parts.format.nested.map(|n| NestedState { block: n.block, offset: n.offset }),
    };
    let state = state.to_json().into_bytes();
    let codes = parts.codes.to_bytes()?;
    let table: Vec<u8> = codebook.values().iter().flat_map(|x| x.to_le_bytes()).collect();
    let scale_type = if parts.nested.is_some() { FileDType::U8 } else { FileDType::F32 };
    let mut all = vec![
        (name.to_owned(), FileDType::U8, vec![codes.len(), 1], codes),
        (format!("{name}.absmax"), scale_type, vec![parts.absmax.count()], parts.absmax.to_bytes()?),
    ];
    if let Some((second, map)) = &parts.nested {
        all.push((format!("{name}.nested_absmax"), FileDType::F32, vec![second.count()], second.to_bytes()?));
        all.push((format!("{name}.nested_quant_map"), FileDType::F32, vec![256], map.to_bytes()?));
    }
    all.push((format!("{name}.quant_map"), FileDType::F32, vec![16], table));
    let key = format!("{name}.quant_state.bitsandbytes__{}", codebook.name());
    all.push((key, FileDType::U8, vec![state.len()], state));
    Ok(all)
}
