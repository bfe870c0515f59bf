//! Weight files: safetensors, alone or in shards, and GGUF.
//!
//! Files are mapped into memory, checked once when opened, and then handed out as bytes with a description
//! ([`Entry`]) that a tensor wraps without a copy. Everything in a file is taken as hostile: no count, length,
//! offset or shape is believed before it is checked against the file's size.

mod blocks;
mod entry;
mod error;
mod file_dtype;
pub mod gguf;
mod safetensors;
mod sharded;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

pub use entry::{Entry, Mapping};
pub use error::WeightError;
pub use file_dtype::{FileDType, OpaqueType};
pub use write::{SafetensorsWriter, TensorSpec, replace_file, write_safetensors};

/// The tensors of a model: a `.safetensors` file, a folder in Hugging Face layout, or a `.gguf` file.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    gguf: Option<gguf::Metadata>,
}

impl Weights {
    /// Opens `path`: a safetensors file, a GGUF file (told by its first bytes), a `*.safetensors.index.json`, or a
    /// folder with `model.safetensors` or `model.safetensors.index.json`. No tensor is read yet.
    ///
    /// # Errors
    /// [`WeightError`] if the system refuses, or the file or one tensor in it breaks its format.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightError> {
        let path = path.as_ref();
        let (parsed, gguf) = if path.is_dir() {
            match sharded::find(path)? {
                sharded::Layout::Single(file) => open_file(&file)?,
                sharded::Layout::Index(index) => (sharded::open_index(&index)?, None),
            }
        } else if path.extension().is_some_and(|e| e == "json") {
            (sharded::open_index(path)?, None)
        } else {
            open_file(path)?
        };
        Self::index(path, parsed, gguf)
    }

    /// A safetensors file that is part of the program; `name` stands for its path in messages.
    ///
    /// # Errors
    /// [`WeightError`] if the bytes break the format.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, WeightError> {
        let parsed = safetensors::parse(&Mapping::embedded(name, bytes))?;
        Self::index(Path::new(name), parsed, None)
    }

    fn index(
        path: &Path,
        parsed: safetensors::Parsed,
        gguf: Option<gguf::Metadata>,
    ) -> Result<Self, WeightError> {
        let mut by_name = HashMap::with_capacity(parsed.entries.len());
        for (i, entry) in parsed.entries.iter().enumerate() {
            if by_name.insert(entry.name().to_owned(), i).is_some() {
                return Err(entry.error("the name comes twice"));
            }
        }
        Ok(Self { path: path.to_owned(), entries: parsed.entries, by_name, metadata: parsed.metadata, gguf })
    }

    /// Path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, in the order of their bytes, shard after shard.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Names of all tensors, in the order of [`entries`](Self::entries).
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.iter().map(Entry::name)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.by_name.get(name).map(|&i| &self.entries[i])
    }

    /// The tensor of that name, which must be there.
    ///
    /// # Errors
    /// [`WeightError::Missing`], with the names that end alike: a wrong prefix is the usual reason.
    pub fn require(&self, name: &str) -> Result<&Entry, WeightError> {
        self.get(name).ok_or_else(|| WeightError::Missing {
            path: self.path.clone(),
            tensor: error::shorten(name),
            hint: self.hint(name),
        })
    }

    /// Metadata of a safetensors file, empty for GGUF.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Metadata of a GGUF file.
    pub fn gguf(&self) -> Option<&gguf::Metadata> {
        self.gguf.as_ref()
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> usize {
        self.entries.iter().map(|e| e.range().len()).sum()
    }

    fn hint(&self, name: &str) -> String {
        let ending = |dots: usize| name.rmatch_indices('.').nth(dots - 1).map(|(i, _)| name[i..].to_owned());
        for ending in [Some(format!(".{name}")), ending(3), ending(2)].into_iter().flatten() {
            let mut alike: Vec<_> =
                self.names().filter(|n| n.ends_with(&ending)).map(error::shorten).collect();
            if !alike.is_empty() {
                alike.truncate(3);
                return format!("; names that end alike: {}", alike.join(", "));
            }
        }
        String::new()
    }
}

fn open_file(path: &Path) -> Result<(safetensors::Parsed, Option<gguf::Metadata>), WeightError> {
    let mapping = Mapping::open(path)?;
    let bytes = mapping.bytes();
    let extension = |e: &str| path.extension().is_some_and(|x| x.eq_ignore_ascii_case(e));
    if bytes.starts_with(b"version https://git-lfs") {
        let reason = "is a Git LFS pointer, not the weights themselves; fetch them with `git lfs pull`";
        Err(WeightError::file(path, reason))
    } else if bytes.starts_with(gguf::MAGIC) || extension("gguf") {
        let (entries, metadata) = gguf::parse(&mapping)?;
        Ok((safetensors::Parsed { entries, metadata: BTreeMap::new() }, Some(metadata)))
    } else if is_pickle(bytes) {
        let reason = "is a pickled PyTorch checkpoint; convert it to safetensors";
        Err(WeightError::file(path, reason))
    } else {
        // Safetensors has no magic number; its parser says so if this is something else.
        Ok((safetensors::parse(&mapping)?, None))
    }
}

/// True for `torch.save`'s zip files and older bare pickles. Read as the length of a safetensors header either
/// beginning would be beyond the format's limit, so no valid file is taken for one.
fn is_pickle(bytes: &[u8]) -> bool {
    let too_long =
        bytes.first_chunk().is_some_and(|&n| u64::from_le_bytes(n) > safetensors::MAX_HEADER as u64);
    too_long && (bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"\x80\x02"))
}
