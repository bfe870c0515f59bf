//! Writing safetensors files: beside the target, then renamed over it.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Map, Value, json};

use super::entry::extent;
use super::safetensors::{LENGTH_BYTES, MAX_HEADER, METADATA};
use super::{FileDType, WeightError};

/// Writes a file so that it is either wholly there or not at all: `write` fills a temporary file in the same
/// folder, which is flushed to the disk and renamed to `path`. On any error the temporary file is removed and
/// what was at `path` stays untouched. A symbolic link at `path` is followed.
///
/// # Errors
/// [`WeightError::Io`] from the system, or whatever `write` returns.
pub fn replace_file<R>(
    path: &Path,
    write: impl FnOnce(&mut File) -> Result<R, WeightError>,
) -> Result<R, WeightError> {
    let mut partial = Partial::create(path)?;
    let result = write(&mut partial.file)?;
    partial.commit()?;
    Ok(result)
}

/// A temporary file that becomes `target` by [`commit`](Self::commit), or goes away when dropped.
struct Partial {
    file: File,
    at: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl Partial {
    fn create(path: &Path) -> Result<Self, WeightError> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // Through a link, so that the rename replaces what it points to and not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let Some(name) = target.file_name() else {
            return Err(WeightError::file(path, "is not the name of a file"));
        };
        if target.is_dir() {
            return Err(WeightError::file(path, "is a folder; give the name of a file in it"));
        }
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}-{}.partial", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        let at = target.with_file_name(partial);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&at)
            .map_err(|e| WeightError::io(&at, "create", e))?;
        Ok(Self { file, at, target, committed: false })
    }

    fn commit(mut self) -> Result<(), WeightError> {
        // Before the rename: otherwise a crash could leave the new name with no content.
        self.file.sync_all().map_err(|e| WeightError::io(&self.target, "write", e))?;
        fs::rename(&self.at, &self.target).map_err(|e| WeightError::io(&self.target, "replace", e))?;
        self.committed = true;
        #[cfg(unix)]
        {
            // The rename itself lasts only once the folder is on the disk.
            let folder = self.target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(folder)
                .and_then(|f| f.sync_all())
                .map_err(|e| WeightError::io(folder, "flush the folder", e))?;
        }
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.committed {
            // Nothing more to do if this fails too: the reader never looks at partial files.
            let _ = fs::remove_file(&self.at);
        }
    }
}

/// What a tensor to be written is called, its type and shape.
#[derive(Clone, Debug)]
pub struct TensorSpec<'a> {
    /// Name, unique in the file.
    pub name: &'a str,
    /// Type; GGUF block types do not go into safetensors.
    pub dtype: FileDType,
    /// Shape, slowest dimension first.
    pub shape: &'a [usize],
}

/// Writes tensors one after another, in any order, so that never more than one need be in memory.
///
/// The layout is fixed by the list given first. Tensors are laid out by falling alignment, in the order of the list
/// within each, so that every tensor is aligned in the file.
pub struct SafetensorsWriter<W: Write + Seek> {
    out: BufWriter<W>,
    path: PathBuf,
    /// Place and length of each tensor, and whether it was written.
    places: HashMap<String, Place>,
    position: u64,
}

struct Place {
    start: u64,
    len: usize,
    written: bool,
}

impl<W: Write + Seek> SafetensorsWriter<W> {
    /// Writes the header to `out`, which is empty. `path` only serves messages.
    ///
    /// # Errors
    /// [`WeightError`] if a name comes twice, a type or shape cannot be stored, or `out` fails.
    pub fn new(
        out: W,
        path: &Path,
        tensors: &[TensorSpec<'_>],
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, WeightError> {
        let mut order: Vec<_> = tensors.iter().collect();
        order.sort_by_key(|t| std::cmp::Reverse(t.dtype.align()));
        let mut places = HashMap::with_capacity(order.len());
        let mut header = Map::new();
        if !metadata.is_empty() {
            header.insert(METADATA.into(), json!(metadata));
        }
        let mut end = 0u64;
        for tensor in order {
            let bad = |reason: String| WeightError::tensor(path, tensor.name, reason);
            if tensor.name == METADATA {
                return Err(bad("the name is reserved by the format".into()));
            }
            if !tensor.dtype.in_safetensors() {
                return Err(bad(format!("safetensors cannot hold {}; decode it first", tensor.dtype)));
            }
            let (_, len) = extent(tensor.dtype, tensor.shape).map_err(&bad)?;
            let start = end;
            end = end.checked_add(len as u64).ok_or_else(|| bad("the file would be too large".into()))?;
            let place = Place { start, len, written: false };
            if places.insert(tensor.name.to_owned(), place).is_some() {
                return Err(bad("the name comes twice".into()));
            }
            let info =
                json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [start, end]});
            header.insert(tensor.name.to_owned(), info);
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        // Padded so that the data section, hence every tensor, is aligned to 8 bytes.
        header.resize(header.len().next_multiple_of(8), b' ');
        if header.len() > MAX_HEADER {
            let reason =
                format!("the header would have {} bytes, more than the limit of {MAX_HEADER}", header.len());
            return Err(WeightError::file(path, reason));
        }
        let data = (LENGTH_BYTES + header.len()) as u64;
        for place in places.values_mut() {
            place.start += data;
        }

        let mut writer = Self {
            out: BufWriter::with_capacity(1 << 20, out),
            path: path.to_owned(),
            places,
            position: data,
        };
        writer
            .out
            .write_all(&(header.len() as u64).to_le_bytes())
            .and_then(|()| writer.out.write_all(&header))
            .map_err(|e| writer.io(e))?;
        Ok(writer)
    }

    /// Writes the bytes of the tensor `name`, little-endian and row-major.
    ///
    /// # Errors
    /// [`WeightError`] if the name was not announced or was written before, the length is not that of its shape,
    /// or the output fails (a full disk, most often).
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), WeightError> {
        let bad = |reason: String| WeightError::tensor(&self.path, name, reason);
        let place =
            self.places.get_mut(name).ok_or_else(|| bad("it was not announced to the writer".into()))?;
        if place.written {
            return Err(bad("it was written before".into()));
        }
        if place.len != bytes.len() {
            return Err(bad(format!("{} bytes were given, its shape needs {}", bytes.len(), place.len)));
        }
        place.written = true;
        let start = place.start;
        // A seek flushes the buffer, so only where the order is not the file's.
        let moved =
            if start == self.position { Ok(()) } else { self.out.seek(SeekFrom::Start(start)).map(|_| ()) };
        moved.and_then(|()| self.out.write_all(bytes)).map_err(|e| self.io(e))?;
        self.position = start + bytes.len() as u64;
        Ok(())
    }

    /// Flushes, and gives the output back. The caller syncs it to the disk.
    ///
    /// # Errors
    /// [`WeightError`] if a tensor was announced and not written, or the output fails.
    pub fn finish(self) -> Result<W, WeightError> {
        let path = self.path;
        if let Some(name) = self.places.iter().filter(|(_, p)| !p.written).map(|(name, _)| name).min() {
            return Err(WeightError::tensor(&path, name, "it was announced but not written"));
        }
        self.out.into_inner().map_err(|e| WeightError::io(&path, "write", e.into_error()))
    }

    fn io(&self, e: io::Error) -> WeightError {
        WeightError::io(&self.path, "write", e)
    }
}

/// Writes tensors, given as name, type, shape and bytes, to a safetensors file at `path`, as
/// [`replace_file`] does: wholly or not at all. Their bytes are not copied on the way.
///
/// # Errors
/// As [`SafetensorsWriter`].
pub fn write_safetensors<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'a str, FileDType, &'a [usize], &'a [u8])>,
    metadata: &BTreeMap<String, String>,
) -> Result<(), WeightError> {
    let path = path.as_ref();
    let (specs, bytes): (Vec<_>, Vec<_>) = tensors
        .into_iter()
        .map(|(name, dtype, shape, bytes)| (TensorSpec { name, dtype, shape }, bytes))
        .unzip();
    // In the order of the file, so that the disk is written in one sweep.
    let mut order: Vec<usize> = (0..specs.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(specs[i].dtype.align()));
    replace_file(path, |file| {
        let mut writer = SafetensorsWriter::new(file, path, &specs, metadata)?;
        for i in order {
            writer.write(specs[i].name, bytes[i])?;
        }
        writer.finish()?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Full<'a> {
        file: &'a mut File,
        left: usize,
    }

    impl Write for Full<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.left == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let n = self.file.write(&bytes[..bytes.len().min(self.left)])?;
            self.left -= n;
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.file.flush()
        }
    }

    impl Seek for Full<'_> {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.file.seek(to)
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let specs = [TensorSpec { name: "w", dtype: FileDType::F32, shape: &[1000, 1000] }];
        let bytes = vec![1; 4_000_000];
        // In the header, in the tensor (beyond the buffer), and in the last flush.
        for room in [0, 20, 2_000_000, 3_999_999] {
            fs::write(&path, b"old").unwrap();
            let error = replace_file(&path, |file| {
                let mut writer =
                    SafetensorsWriter::new(Full { file, left: room }, &path, &specs, &BTreeMap::new())?;
                writer.write("w", &bytes)?;
                writer.finish()?;
                Ok(())
            })
            .unwrap_err();
            let text = error.to_string();
            assert!(text.contains("model.safetensors: cannot write: no storage space"), "{text}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a partial file was left behind");
        }
    }

    #[test]
    fn refuses_what_does_not_fit_together() {
        let path = Path::new("m.safetensors");
        let none = BTreeMap::new();
        let f32s = |name, shape| TensorSpec { name, dtype: FileDType::F32, shape };
        let new = |specs: &[TensorSpec]| {
            SafetensorsWriter::new(io::Cursor::new(Vec::new()), path, specs, &none).map(|_| ())
        };
        let said = |result: Result<(), WeightError>| result.unwrap_err().to_string();

        let q = TensorSpec { name: "q", dtype: FileDType::Q4_0, shape: &[32] };
        assert!(said(new(&[q])).contains("tensor \"q\": safetensors cannot hold Q4_0"));
        assert!(
            said(new(&[f32s("a", &[1]), f32s("a", &[2])])).contains("tensor \"a\": the name comes twice")
        );
        assert!(said(new(&[f32s(METADATA, &[1])])).contains("reserved"));
        assert!(said(new(&[f32s("big", &[usize::MAX, 2])])).contains("tensor \"big\": shape"));
        let huge: Vec<_> = ["v", "w", "x", "y", "z"].map(|name| f32s(name, &[1 << 60])).into();
        assert!(said(new(&huge)).contains("tensor \"y\": the file would be too large"));
    }

    #[test]
    fn wants_every_tensor_once_and_whole() {
        let specs = ["a", "b"].map(|name| TensorSpec { name, dtype: FileDType::U8, shape: &[2] });
        let out = io::Cursor::new(Vec::new());
        let mut writer =
            SafetensorsWriter::new(out, Path::new("m.safetensors"), &specs, &BTreeMap::new()).unwrap();
        let said = |result: Result<(), WeightError>| result.unwrap_err().to_string();
        assert!(
            said(writer.write("a", &[1])).contains("tensor \"a\": 1 bytes were given, its shape needs 2")
        );
        assert!(said(writer.write("c", &[1, 2])).contains("tensor \"c\": it was not announced"));
        writer.write("b", &[3, 4]).unwrap();
        assert!(said(writer.write("b", &[3, 4])).contains("tensor \"b\": it was written before"));
        let said = writer.finish().map(|_| ()).unwrap_err().to_string();
        assert!(said.contains("tensor \"a\": it was announced but not written"), "{said}");
    }
}
