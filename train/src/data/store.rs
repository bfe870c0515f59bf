//! Prepared data on the disk, by the hash of what it was made from. A file that is damaged, cut off or of another
//! version is as good as absent: it is made again.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// Of several parts, each with its length, so that no two lists run together.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Of the content of a file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn of_file(path: &Path) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(Self(hash.finalize().into())),
                n => hash.update(&buffer[..n]),
            }
        }
    }

    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.hex())
    }
}

/// Increase it when the bytes of a prepared image or of a feature change for the same input.
const VERSION: u32 = 1;
const MAGIC: &[u8; 8] = b"roentgen";
/// Magic, version, four dimensions, the key, the hash of dimensions and body.
const HEAD: usize = 8 + 4 + 16 + 32 + 32;
const PARTIAL: &str = ".partial";

/// Files below one folder, `ab/abcdef….ENDING`.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    ending: &'static str,
}

/// A prepared thing: four numbers that say what it is, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Shape, as whoever stored it sees it.
    pub dims: [u32; 4],
    /// Content.
    pub bytes: Vec<u8>,
}

impl Store {
    /// Those in `folder` whose names end in `ending`. Files that a killed process left half written and that are
    /// older than `leftover` go.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn open(folder: &Path, ending: &'static str, leftover: Duration) -> Result<Self> {
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
        for sub in fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))?.flatten() {
            if sub.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_partials(&sub.path(), leftover);
            }
        }
        Ok(Self { folder: folder.to_owned(), ending })
    }

    /// The file of `key`.
    pub fn path(&self, key: &Key) -> PathBuf {
        let hex = key.hex();
        self.folder.join(&hex[..2]).join(format!("{hex}.{}", self.ending))
    }

    /// The dimensions of what is stored, by the head and the length of the file alone.
    pub fn dims(&self, key: &Key, length: impl Fn([u32; 4]) -> Option<usize>) -> Option<[u32; 4]> {
        let (_, dims, _, body) = self.head(key)?;
        (length(dims)? == body).then_some(dims)
    }

    fn head(&self, key: &Key) -> Option<(File, [u32; 4], [u8; 32], usize)> {
        let mut file = File::open(self.path(key)).ok()?;
        let mut head = [0; HEAD];
        file.read_exact(&mut head).ok()?;
        let body = usize::try_from(file.metadata().ok()?.len()).ok()?.checked_sub(HEAD)?;
        let (magic, rest) = head.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (dims, rest) = rest.split_first_chunk::<16>()?;
        let (stored, rest) = rest.split_first_chunk::<32>()?;
        let hash: [u8; 32] = rest.try_into().ok()?;
        if magic != MAGIC || u32::from_le_bytes(*version) != VERSION || *stored != key.0 {
            return None;
        }
        let (words, _) = dims.as_chunks::<4>();
        let mut dims = [0; 4];
        for (dim, word) in dims.iter_mut().zip(words) {
            *dim = u32::from_le_bytes(*word);
        }
        Some((file, dims, hash, body))
    }

    /// What is stored under `key`; `None` if it is not there or not whole.
    pub fn read(&self, key: &Key) -> Option<Stored> {
        let (mut file, dims, hash, length) = self.head(key)?;
        let mut bytes = Vec::with_capacity(length);
        file.read_to_end(&mut bytes).ok()?;
        (checksum(dims, &bytes) == hash).then_some(Stored { dims, bytes })
    }

    /// Stores under `key`, beside and renamed. Not flushed to the disk: a file that a power cut tears is found out
    /// by its hash and made again.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&self, key: &Key, dims: [u32; 4], bytes: &[u8]) -> Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = self.path(key);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let beside = folder.join(format!(".{}.{}-{n}{PARTIAL}", key.hex(), std::process::id()));
        let written = File::create(&beside).and_then(|mut file| {
            let mut head = Vec::with_capacity(HEAD);
            head.extend(MAGIC);
            head.extend(VERSION.to_le_bytes());
            head.extend(dims.iter().flat_map(|d| d.to_le_bytes()));
            head.extend(key.0);
            head.extend(checksum(dims, bytes));
            file.write_all(&head)?;
            file.write_all(bytes)?;
            fs::rename(&beside, &path)
        });
        written.map_err(|e| {
            let _ = fs::remove_file(&beside);
            Error::io(&path, "write (data.cache may name another folder)", e)
        })
    }
}

fn checksum(dims: [u32; 4], bytes: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for dim in dims {
        hash.update(dim.to_le_bytes());
    }
    hash.update(bytes);
    hash.finalize().into()
}

/// Removes files of `folder` that were to be renamed and never were, if they are older than `age`.
pub(crate) fn remove_partials(folder: &Path, age: Duration) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let old = || {
            let modified = entry.metadata().and_then(|meta| meta.modified()).ok()?;
            Some(SystemTime::now().duration_since(modified).unwrap_or_default() >= age)
        };
        if name.starts_with('.') && name.ends_with(PARTIAL) && old().unwrap_or(false) {
            // Nothing more to do if this fails: nobody reads such a file.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), "tiles", Duration::ZERO).unwrap();
        let key = Key::of(&[b"image", b"settings"]);
        assert_ne!(key, Key::of(&[b"imagesettings"]));
        assert_eq!(store.read(&key), None);
        let (dims, body) = ([1, 2, 3, 4], (0..200u8).collect::<Vec<_>>());
        store.write(&key, dims, &body).unwrap();
        let stored = Stored { dims, bytes: body };
        assert_eq!(store.read(&key), Some(stored.clone()));
        assert_eq!(store.dims(&key, |_| Some(200)), Some(dims));
        assert_eq!(store.dims(&key, |_| Some(201)), None);

        let path = store.path(&key);
        let whole = fs::read(&path).unwrap();
        // Every byte of the file matters: head, key, hash and body.
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, damaged).unwrap();
            assert_eq!(store.read(&key), None, "byte {at}");
        }
        for length in [0, 50, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(store.read(&key), None, "{length} bytes");
        }
        // Another key's file in its place.
        let other = Key::of(&[b"other"]);
        store.write(&other, dims, &stored.bytes).unwrap();
        fs::copy(store.path(&other), &path).unwrap();
        assert_eq!(store.read(&key), None);
        store.write(&key, dims, &stored.bytes).unwrap();
        assert_eq!(store.read(&key), Some(stored));
    }

    #[test]
    fn what_a_killed_process_left_goes() {
        let folder = tempfile::tempdir().unwrap();
        let sub = folder.path().join("ab");
        fs::create_dir(&sub).unwrap();
        let left = sub.join(".abc.1-0.partial");
        fs::write(&left, b"half").unwrap();
        Store::open(folder.path(), "tiles", Duration::from_hours(1)).unwrap();
        assert!(left.exists(), "another process may be writing it");
        Store::open(folder.path(), "tiles", Duration::ZERO).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn a_files_key_is_the_hash_of_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, b"abc").unwrap();
        // FIPS 180-2, appendix B.1.
        assert!(Key::of_file(&path).unwrap().hex().starts_with("ba7816bf8f01cfea414140de5dae2223"));
        assert!(Key::of_file(folder.path()).is_err());
    }
}
