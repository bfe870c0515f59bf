//! A folder in Hugging Face layout: one `model.safetensors`, or an index and its shards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::safetensors::{MAX_HEADER, Parsed, UniqueMap, parse};
use super::{Entry, Mapping, WeightError};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// What a folder holds.
pub(super) enum Layout {
    /// One file.
    Single(PathBuf),
    /// An index of shards.
    Index(PathBuf),
}

/// Finds the weights in `folder`. Where both are there the single file wins, as in the `transformers` library.
pub(super) fn find(folder: &Path) -> Result<Layout, WeightError> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.exists() {
        return Ok(Layout::Single(single));
    }
    if index.exists() {
        return Ok(Layout::Index(index));
    }
    let mut others = Vec::new();
    for item in fs::read_dir(folder).map_err(|e| WeightError::io(folder, "list", e))? {
        let name = item.map_err(|e| WeightError::io(folder, "list", e))?.file_name();
        let known = ["safetensors", "gguf", "bin", "pt", "pth"].map(|e| Some(e.as_ref()));
        if known.contains(&Path::new(&name).extension()) {
            others.push(name.to_string_lossy().into_owned());
        }
    }
    others.sort();
    others.truncate(8);
    let reason = match others.as_slice() {
        [] => format!("the folder holds neither {SINGLE} nor {INDEX}"),
        names => format!(
            "the folder holds neither {SINGLE} nor {INDEX}; a .safetensors or .gguf file can be given by its own \
             path, other formats must be converted to safetensors first (here are {})",
            names.join(", ")
        ),
    };
    Err(WeightError::file(folder, reason))
}

#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap,
}

/// Opens every shard that the index at `path` names, and checks that index and shards agree: each listed tensor
/// lies in the shard that the index says and in no other, and no shard holds a tensor that is not listed.
///
/// Metadata is the union of the shards'; where they differ the first shard's value stands.
pub(super) fn open_index(path: &Path) -> Result<Parsed, WeightError> {
    let size = fs::metadata(path).map_err(|e| WeightError::io(path, "open", e))?.len();
    if size > MAX_HEADER as u64 {
        let reason = format!("the index has {size} bytes, more than the limit of {MAX_HEADER}");
        return Err(WeightError::file(path, reason));
    }
    let json = fs::read(path).map_err(|e| WeightError::io(path, "read", e))?;
    let index: Index = serde_json::from_slice(&json)
        .map_err(|e| WeightError::file(path, format!("the index is not valid: {e}")))?;

    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &index.weight_map.0 {
        shards.entry(shard).or_default().push(tensor);
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut all = Parsed { entries: Vec::new(), metadata: BTreeMap::new() };
    for (shard, listed) in shards {
        // The index comes from elsewhere: it must not reach out of its folder.
        let mut parts = Path::new(shard).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            let shard = super::error::shorten(shard);
            let reason =
                format!("the index puts it into {shard:?}, which is not the name of a file beside it");
            return Err(WeightError::tensor(path, listed[0], reason));
        }
        let Parsed { entries, metadata } = parse(&Mapping::open(&folder.join(shard))?)?;
        check_shard(path, &index.weight_map.0, shard, &listed, &entries)?;
        all.entries.extend(entries);
        for (key, value) in metadata {
            all.metadata.entry(key).or_insert(value);
        }
    }
    Ok(all)
}

fn check_shard(
    index: &Path,
    weight_map: &BTreeMap<String, String>,
    shard: &str,
    listed: &[&str],
    entries: &[Entry],
) -> Result<(), WeightError> {
    for entry in entries {
        match weight_map.get(entry.name()) {
            None => {
                return Err(entry.error("it is in the shard but not in the index's weight_map"));
            }
            Some(home) if home != shard => {
                let home = super::error::shorten(home);
                return Err(entry.error(format!("it is here, but the index puts it into {home:?}")));
            }
            Some(_) => {}
        }
    }
    let mut here: Vec<&str> = entries.iter().map(Entry::name).collect();
    here.sort_unstable();
    match listed.iter().find(|name| here.binary_search(name).is_err()) {
        None => Ok(()),
        Some(name) => {
            let reason = format!("the index puts it into {shard:?}, which does not hold it");
            Err(WeightError::tensor(index, name, reason))
        }
    }
}
