//! The safetensors format: a length, a JSON header, the tensors' bytes.
//!
//! Format: <https://github.com/huggingface/safetensors#format>. The header is read here rather than by the
//! `safetensors` crate because that loses duplicate names (a map takes the last) and the name of the tensor that
//! is wrong; the crate is the oracle in the tests instead. What it refuses is refused here.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use super::{Entry, FileDType, Mapping, WeightError};

/// Longest header, the reference implementation's limit.
pub(super) const MAX_HEADER: usize = 100_000_000;
/// Bytes of the header's length.
pub(super) const LENGTH_BYTES: usize = 8;
/// Key of the file's own metadata among the tensors.
pub(super) const METADATA: &str = "__metadata__";

/// A parsed file: its tensors in order of their bytes, and its metadata.
pub(super) struct Parsed {
    pub(super) entries: Vec<Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of `mapping`.
pub(super) fn parse(mapping: &Arc<Mapping>) -> Result<Parsed, WeightError> {
    let (path, bytes) = (mapping.path(), mapping.bytes());
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| {
        WeightError::file(path, format!("{} bytes are too few for a safetensors file", bytes.len()))
    })?;
    let length = u64::from_le_bytes(*length);
    let header = usize::try_from(length).ok().and_then(|n| rest.get(..n)).ok_or_else(|| {
        WeightError::file(
            path,
            format!(
                "the first 8 bytes promise a header of {length} bytes, but only {} follow; the file is cut short \
                 or is no safetensors file",
                rest.len()
            ),
        )
    })?;
    if header.len() > MAX_HEADER {
        let reason = format!("the header has {length} bytes, more than the format's limit of {MAX_HEADER}");
        return Err(WeightError::file(path, reason));
    }
    let text = std::str::from_utf8(header).map_err(|e| {
        WeightError::file(path, format!("the header is not UTF-8 from its byte {} on", e.valid_up_to()))
    })?;
    if !text.starts_with('{') {
        return Err(WeightError::file(
            path,
            "the header does not begin with '{'; this is no safetensors file",
        ));
    }

    let mut at = String::new();
    let mut json = serde_json::Deserializer::from_str(text);
    let header = HeaderSeed { at: &mut at }
        .deserialize(&mut json)
        .and_then(|header| json.end().map(|()| header))
        .map_err(|e| match at.as_str() {
            "" => WeightError::file(path, format!("the header is not valid: {e}")),
            METADATA => WeightError::key(path, METADATA, e.to_string()),
            tensor => WeightError::tensor(path, tensor, format!("its header entry is not valid: {e}")),
        })?;
    let entries = place(mapping, LENGTH_BYTES + text.len(), header.tensors)?;
    Ok(Parsed { entries, metadata: header.metadata })
}

/// Turns header entries into checked tensors that tile the data section, which begins at byte `data`.
fn place(
    mapping: &Arc<Mapping>,
    data: usize,
    tensors: Vec<(String, Info)>,
) -> Result<Vec<Entry>, WeightError> {
    let path = mapping.path();
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, info) in tensors {
        let bad = |reason: String| WeightError::tensor(path, &name, reason);
        let dtype = FileDType::from_safetensors(&info.dtype)
            .ok_or_else(|| bad(format!("unknown dtype {:?}", super::error::shorten(&info.dtype))))?;
        let [begin, end] = info.data_offsets;
        let start = usize::try_from(begin).ok().and_then(|b| b.checked_add(data));
        let (Some(start), true) = (start, begin <= end) else {
            return Err(bad(format!("its data_offsets [{begin}, {end}] are not a range")));
        };
        let shape: Option<Vec<usize>> = info.shape.iter().map(|&d| usize::try_from(d).ok()).collect();
        let shape = shape
            .ok_or_else(|| bad(format!("shape {:?} is more than this machine can address", info.shape)))?;
        let (_, need) = super::entry::extent(dtype, &shape).map_err(&bad)?;
        if end - begin != need as u64 {
            return Err(bad(format!(
                "its data_offsets [{begin}, {end}] hold {} bytes, but {dtype} {shape:?} needs {need}",
                end - begin
            )));
        }
        entries.push(Entry::new(mapping, name, dtype, shape, start)?);
    }

    // The format wants the data section covered without overlap, hole or rest.
    entries.sort_by_key(|e| (e.range().start, e.range().end));
    let mut covered = data;
    let mut before: Option<&Entry> = None;
    for entry in &entries {
        let start = entry.range().start;
        if start < covered {
            let other = super::error::shorten(before.map_or("the header", Entry::name));
            return Err(entry.error(format!("its bytes overlap those of {other:?}")));
        }
        if start > covered {
            let reason =
                format!("{} bytes before it belong to no tensor; the format has no holes", start - covered);
            return Err(entry.error(reason));
        }
        covered = entry.range().end;
        before = Some(entry);
    }
    let rest = mapping.bytes().len() - covered;
    if rest > 0 {
        let reason = format!("the last {rest} bytes belong to no tensor; the header or the data is damaged");
        return Err(WeightError::file(path, reason));
    }
    Ok(entries)
}

/// Header entry of one tensor. Keys that later versions may add are passed over; keys given twice are refused.
#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

#[derive(Default)]
struct Header {
    tensors: Vec<(String, Info)>,
    metadata: BTreeMap<String, String>,
}

/// Reads the header and leaves in `at` the key at which it stopped, for the error message.
struct HeaderSeed<'a> {
    at: &'a mut String,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = Header;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Header, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from tensor names to their dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header::default();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            self.at.clone_from(&name);
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom("the name stands in the header twice"));
            }
            if name == METADATA {
                header.metadata = map.next_value::<UniqueMap>()?.0;
            } else {
                header.tensors.push((name, map.next_value()?));
            }
            self.at.clear();
        }
        Ok(header)
    }
}

/// A JSON map from strings to strings in which no key comes twice.
pub(super) struct UniqueMap(pub(super) BTreeMap<String, String>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct Strings;
        impl<'de> Visitor<'de> for Strings {
            type Value = UniqueMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from strings to strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap, A::Error> {
                let mut strings = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if let Some(old) = strings.insert(key.clone(), value) {
                        let (key, old) = (super::error::shorten(&key), super::error::shorten(&old));
                        return Err(A::Error::custom(format!("{key:?} stands twice, first as {old:?}")));
                    }
                }
                Ok(UniqueMap(strings))
            }
        }
        json.deserialize_map(Strings)
    }
}
