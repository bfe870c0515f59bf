//! Tensors whose memory is a file: what does not fit in memory, or should not stay there, the system writes to the
//! disk and reads again when a kernel touches it. An optimiser's moments, read and written once a step, are such.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

use super::CpuBuffer;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::op::Spec;
use crate::{Cpu, Device, Tensor};

/// Tensors start on cache lines of their own.
const ALIGN: usize = 64;

/// A file mapped for reading and writing, gone when its last tensor is.
pub(super) struct ScratchFile {
    map: MmapRaw,
    /// After the map: some systems do not remove a mapped file.
    _name: Removed,
}

/// Removes a file when dropped, if it still has its name.
struct Removed(Option<PathBuf>);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // If this fails nothing depends on it.
            let _ = fs::remove_file(path);
        }
    }
}

impl ScratchFile {
    fn create(path: &Path, bytes: usize) -> Result<Arc<Self>> {
        let error = |action: String, source: io::Error| Error::File { path: path.to_owned(), action, source };
        let open = File::options().read(true).write(true).create_new(true).open(path);
        let mut file = open.map_err(|e| error("create".into(), e))?;
        #[allow(unused_mut, reason = "changed on Unix")]
        let mut name = Removed(Some(path.to_owned()));
        reserve(&mut file, bytes).map_err(|e| error(format!("reserve {bytes} bytes in"), e))?;
        let map = MmapOptions::new().len(bytes).map_raw(&file).map_err(|e| error("map".into(), e))?;
        // Without its name nobody can open it, and nothing of it stays however the process ends.
        #[cfg(unix)]
        if let Some(path) = name.0.take() {
            fs::remove_file(&path).map_err(|e| error("remove".into(), e))?;
        }
        Ok(Arc::new(Self { map, _name: name }))
    }

    pub(super) fn as_mut_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    pub(super) fn len(&self) -> usize {
        self.map.len()
    }
}

/// Fills with zeros. A length alone would make a file with holes, and a write into a hole that finds the disk full
/// ends the process; so the blocks are taken now, while that is an error like others.
fn reserve(file: &mut dyn Write, bytes: usize) -> io::Result<()> {
    let zeros = vec![0; bytes.min(1 << 20)];
    let mut left = bytes;
    while left > 0 {
        let n = left.min(zeros.len());
        file.write_all(&zeros[..n])?;
        left -= n;
    }
    file.flush()
}

impl Tensor {
    /// Tensors of zeros whose memory is a new file at `path`. On Unix the file loses its name at once and its
    /// room when the last of the tensors is dropped or the process ends; elsewhere it is removed with the last
    /// tensor. They are tensors like others: the same operations give the same bits.
    ///
    /// All blocks are written once, so that a full disk shows here. File systems that keep zeros, or every
    /// version of a block, elsewhere (compression, snapshots) may still run full later; the system then ends the
    /// process, as it does when the disk fails.
    ///
    /// # Errors
    /// If the file exists, the disk is full, a shape is too large, or the device is not the CPU.
    pub fn zeros_in_file(path: &Path, specs: &[Spec], device: &Device) -> Result<Vec<Self>> {
        let Some(cpu) = device.backend::<Cpu>() else {
            let reason = format!("{device}: tensors over a file ({}) need the CPU", path.display());
            return Err(Error::Device(reason));
        };
        let mut ranges = Vec::with_capacity(specs.len());
        let mut end = 0usize;
        for spec in specs {
            let next = end.checked_add(spec.bytes()).and_then(|n| n.checked_next_multiple_of(ALIGN));
            let next = next.filter(|&n| isize::try_from(n).is_ok()).ok_or_else(|| Error::OutOfMemory {
                device: path.display().to_string(),
                bytes: spec.bytes(),
                in_use: end,
            })?;
            ranges.push(end..end + spec.bytes());
            end = next;
        }
        let file = ScratchFile::create(path, end.max(ALIGN))?;
        let tensor = |(spec, range): (&Spec, std::ops::Range<usize>)| {
            let bytes = range.len();
            let storage = device.adopt(Box::new(cpu.scratch(&file, range)), bytes);
            Self::from_storage(storage, Layout::contiguous(spec.dims), spec.dtype)
        };
        Ok(specs.iter().zip(ranges).map(tensor).collect())
    }
}

impl Cpu {
    #[allow(clippy::unused_self, reason = "a buffer of this backend")]
    fn scratch(&self, file: &Arc<ScratchFile>, range: std::ops::Range<usize>) -> CpuBuffer {
        CpuBuffer::in_file(file.clone(), range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let n = bytes.len().min(self.0);
            self.0 -= n;
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_an_error_before_anything_is_mapped() {
        let need = (3 << 20) + 5;
        let mut disk = Full(need);
        reserve(&mut disk, need).unwrap();
        assert_eq!(disk.0, 0);
        for room in [0, 100, need - 1] {
            assert_eq!(reserve(&mut Full(room), need).unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
    }
}
