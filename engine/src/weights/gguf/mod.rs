//! The GGUF format, versions 2 and 3, little-endian.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. A header with two counts, metadata as
//! key-value pairs, tensor infos, then the aligned tensor data. The limits here follow that page: at most four
//! dimensions, offsets that are multiples of `general.alignment`, a power of two.

mod cursor;
mod metadata;
mod tokenizer;

use std::collections::HashSet;
use std::sync::Arc;

use cursor::Cursor;
pub use metadata::{Array, Metadata, Value};
pub use tokenizer::{TokenType, TokenizerInfo};

use super::error::shorten;
use super::{Entry, FileDType, Mapping, WeightError};

/// First bytes of every GGUF file.
pub(super) const MAGIC: &[u8] = b"GGUF";
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u32 = 32;
/// `GGML_MAX_DIMS`.
const MAX_DIMS: u32 = 4;
/// Smallest tensor info: empty name, no dimensions, type, offset.
const MIN_INFO: usize = 8 + 4 + 4 + 8;

/// Reads and checks the header of `mapping`: tensors in the order of their bytes, and metadata.
pub(super) fn parse(mapping: &Arc<Mapping>) -> Result<(Vec<Entry>, Metadata), WeightError> {
    let path = mapping.path();
    let mut at = Cursor::new(path, mapping.bytes());
    if at.take(MAGIC.len(), "the magic number")? != MAGIC {
        return Err(WeightError::file(path, "does not begin with \"GGUF\"; this is no GGUF file"));
    }
    match at.u32("the version")? {
        2 | 3 => {}
        1 => {
            let reason = "is GGUF version 1, which had other counts and is long out of use; convert it anew";
            return Err(WeightError::file(path, reason));
        }
        swapped if swapped.swap_bytes() <= 0xffff => {
            let reason = "is a big-endian GGUF file, which is not read; convert it to little-endian";
            return Err(WeightError::file(path, reason));
        }
        version => {
            return Err(WeightError::file(path, format!("is GGUF version {version}; 2 and 3 are read")));
        }
    }
    let tensors = at.count(MIN_INFO, "tensors")?;
    let metadata = Metadata::read(&mut at)?;
    let alignment = alignment(&metadata)?;

    let mut infos = Vec::new();
    let mut seen = HashSet::new();
    for index in 0..tensors {
        let info = Info::read(&mut at, index)?;
        if !seen.insert(info.name.clone()) {
            return Err(WeightError::tensor(path, &info.name, "the name comes twice"));
        }
        infos.push(info);
    }
    // A file without tensors may end before the padding does.
    let data = at.position().checked_next_multiple_of(alignment);
    let mut entries = Vec::with_capacity(infos.len());
    for info in infos {
        entries.push(info.place(mapping, data, alignment)?);
    }
    entries.sort_by_key(|e| (e.range().start, e.range().end));
    for pair in entries.windows(2) {
        if pair[1].range().start < pair[0].range().end {
            return Err(pair[1].error(format!("its bytes overlap those of {:?}", shorten(pair[0].name()))));
        }
    }
    Ok((entries, metadata))
}

fn alignment(metadata: &Metadata) -> Result<usize, WeightError> {
    let alignment = metadata.u32(ALIGNMENT)?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() {
        Ok(alignment as usize)
    } else {
        Err(metadata.error(ALIGNMENT, format!("{alignment} is not a power of two")))
    }
}

/// What the header says of one tensor.
struct Info {
    name: String,
    dtype: FileDType,
    shape: Vec<usize>,
    offset: u64,
}

impl Info {
    fn read(at: &mut Cursor, index: usize) -> Result<Self, WeightError> {
        let name = at.string(&format_args!("the name of tensor {index}"))?;
        let what = format!("the info of tensor {:?}", shorten(&name));
        let path = at.path();
        let bad = |reason: String| WeightError::tensor(path, &name, reason);
        let dims = at.u32(&what)?;
        if dims > MAX_DIMS {
            return Err(bad(format!("it has {dims} dimensions, more than the format's {MAX_DIMS}")));
        }
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            let d = at.u64(&what)?;
            shape.push(
                usize::try_from(d)
                    .map_err(|_| bad(format!("dimension {d} is more than this machine can address")))?,
            );
        }
        // The file has the fastest dimension first.
        shape.reverse();
        let number = at.u32(&what)?;
        let dtype = FileDType::from_ggml(number).ok_or_else(|| {
            bad(format!(
                "has type number {number}, which is not known here; use a file with F32, F16, BF16, Q8_0, Q4_0 or \
                 Q4_1 weights"
            ))
        })?;
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(dtype.block_values()) {
            let reason = format!(
                "rows of {row} values do not fill whole blocks of {} values of type {dtype}",
                dtype.block_values()
            );
            return Err(bad(reason));
        }
        let offset = at.u64(&what)?;
        Ok(Self { name, dtype, shape, offset })
    }

    /// Checks the tensor against the data section, which begins at byte `data` of the file.
    fn place(
        self,
        mapping: &Arc<Mapping>,
        data: Option<usize>,
        alignment: usize,
    ) -> Result<Entry, WeightError> {
        let Self { name, dtype, shape, offset } = self;
        let bad = |reason: String| WeightError::tensor(mapping.path(), &name, reason);
        if !offset.is_multiple_of(alignment as u64) {
            return Err(bad(format!("its offset {offset} is not a multiple of the alignment {alignment}")));
        }
        let start = usize::try_from(offset).ok().zip(data).and_then(|(o, d)| o.checked_add(d));
        let start = start.ok_or_else(|| bad(format!("its offset {offset} lies outside the file")))?;
        Entry::new(mapping, name, dtype, shape, start)
    }
}
