//! A mapped file, and one tensor in it.

use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use super::{FileDType, WeightError, blocks};
use crate::{Element, Float};

// Both formats are little-endian and tensors are handed out as they lie in the file.
const _: () = assert!(cfg!(target_endian = "little"), "weight files need a little-endian machine");

/// Deepest shape accepted: `PyTorch`'s own limit.
const MAX_RANK: usize = 64;

/// A weight file, mapped read-only into memory. Tensors hold it alive through an [`Arc`].
///
/// The bytes are the file's own: a file that another program writes into changes under the reader, and one that
/// is cut short ends the process with a bus error at the next access. Programs that replace weight files must
/// write a new file and rename it over the old, as [`replace_file`](super::replace_file) does; the mapping then
/// keeps the old content.
#[derive(Debug)]
pub struct Mapping {
    path: PathBuf,
    content: Content,
}

/// Where the bytes of a weight file are.
#[derive(Debug)]
enum Content {
    Map(Mmap),
    /// In the program itself.
    Embedded(&'static [u8]),
}

impl Mapping {
    /// Maps a whole file.
    ///
    /// # Errors
    /// [`WeightError`] if it is no regular file, empty, or cannot be mapped.
    pub fn open(path: &Path) -> Result<Arc<Self>, WeightError> {
        let meta = fs::metadata(path).map_err(|e| WeightError::io(path, "open", e))?;
        if !meta.is_file() {
            // A pipe would wait for ever, a folder fails obscurely.
            return Err(WeightError::file(path, "is not a regular file"));
        }
        if meta.len() == 0 {
            return Err(WeightError::file(path, "the file is empty"));
        }
        let file = File::open(path).map_err(|e| WeightError::io(path, "open", e))?;
        // SAFETY: the map is read-only and nothing in this process writes weight files in place (`replace_file`
        // renames). Another process that truncates or rewrites the file is the documented limit above.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| WeightError::io(path, "map", e))?;
        Ok(Arc::new(Self { path: path.to_owned(), content: Content::Map(map) }))
    }

    /// A file that is part of the program; `name` stands for its path in messages.
    pub(super) fn embedded(name: &str, bytes: &'static [u8]) -> Arc<Self> {
        Arc::new(Self { path: PathBuf::from(name), content: Content::Embedded(bytes) })
    }

    /// Path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Map(map) => map,
            Content::Embedded(bytes) => bytes,
        }
    }
}

/// One tensor of a weight file: what it is, and where its bytes lie.
///
/// An entry keeps its file mapped, so it may outlive the [`Weights`](super::Weights) it came from. Its byte range
/// lies inside the file and is exactly as long as shape and type say.
#[derive(Clone, Debug)]
pub struct Entry {
    name: String,
    dtype: FileDType,
    shape: Vec<usize>,
    numel: usize,
    range: Range<usize>,
    mapping: Arc<Mapping>,
}

impl Entry {
    /// Checks shape, type and place against each other and against the file. `start` counts from the file's
    /// first byte.
    pub(super) fn new(
        mapping: &Arc<Mapping>,
        name: String,
        dtype: FileDType,
        shape: Vec<usize>,
        start: usize,
    ) -> Result<Self, WeightError> {
        let bad = |reason: String| WeightError::tensor(mapping.path(), &name, reason);
        let (numel, len) = extent(dtype, &shape).map_err(&bad)?;
        let size = mapping.bytes().len();
        let end = start.checked_add(len).filter(|&end| end <= size).ok_or_else(|| {
            bad(format!(
                "its {len} bytes from byte {start} on reach past the end of the file ({size} bytes); the file is \
                 cut short or damaged: download or write it again"
            ))
        })?;
        Ok(Self { name, dtype, shape, numel, range: start..end, mapping: Arc::clone(mapping) })
    }

    /// Name, as the file has it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Type of the stored values.
    pub fn dtype(&self) -> FileDType {
        self.dtype
    }

    /// Shape in row-major order, slowest dimension first. (GGUF stores it the other way round; it is turned
    /// when read.)
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub fn numel(&self) -> usize {
        self.numel
    }

    /// Length of a row: the last dimension, 1 for a scalar.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows: the product of all dimensions but the last, 1 for vectors and scalars.
    pub fn rows(&self) -> usize {
        // `extent` checked the product of the non-zero dimensions.
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// The tensor's bytes in the file, little-endian, row-major, not copied.
    pub fn bytes(&self) -> &[u8] {
        &self.mapping.bytes()[self.range.clone()]
    }

    /// Place of [`bytes`](Self::bytes) in the file.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The mapped file. Whoever keeps a pointer into [`bytes`](Self::bytes) keeps a clone of this.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }

    /// File that holds the tensor (the shard, for a sharded model).
    pub fn path(&self) -> &Path {
        self.mapping.path()
    }

    /// True where the bytes may be viewed as elements of their type in place; if not, they must be copied.
    pub fn aligned(&self) -> bool {
        self.bytes().as_ptr().addr().is_multiple_of(self.dtype.align())
    }

    /// The values in place; `None` where the file holds another type than `T` or they are not
    /// [aligned](Self::aligned).
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        if self.dtype.element() == Some(T::DTYPE) {
            bytemuck::try_cast_slice(self.bytes()).ok()
        } else {
            None
        }
    }

    /// All values as f32, rounded to nearest even where the file holds f64.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows).
    pub fn to_f32(&self) -> Result<Vec<f32>, WeightError> {
        self.to_vec()
    }

    /// All values as `T`, decoded and rounded to nearest even.
    ///
    /// # Errors
    /// As [`read_rows`](Self::read_rows).
    pub fn to_vec<T: Float>(&self) -> Result<Vec<T>, WeightError> {
        self.check_float()?;
        let mut out = vec![T::zeroed(); self.numel];
        self.read_rows(0..self.rows(), &mut out)?;
        Ok(out)
    }

    /// Decodes rows `rows` into `out`, which holds `rows.len() * row_len()` values, without allocating.
    /// Floats and blocks of them are converted by way of f32 and rounded to nearest even.
    ///
    /// # Errors
    /// [`WeightError::Tensor`] if the type is no float type or is not decoded by this library (use a file in
    /// another quantisation), or if the range or the buffer does not fit.
    pub fn read_rows<T: Float>(&self, rows: Range<usize>, out: &mut [T]) -> Result<(), WeightError> {
        self.check_float()?;
        let (have, len) = (self.rows(), self.row_len());
        if rows.start > rows.end || rows.end > have {
            return Err(self.error(format!("rows {}..{} asked for, it has {have}", rows.start, rows.end)));
        }
        if rows.len().checked_mul(len) != Some(out.len()) {
            let reason =
                format!("a buffer of {} values was given for {} rows of {len} values", out.len(), rows.len());
            return Err(self.error(reason));
        }
        // In range: the products are within those of the whole tensor, which were checked.
        let row_bytes = self.dtype.byte_len(len).ok_or_else(|| {
            self.error(format!("rows of {len} values do not fill whole blocks of type {}", self.dtype))
        })?;
        let bytes = &self.bytes()[rows.start * row_bytes..rows.end * row_bytes];
        if blocks::decode(self.dtype, bytes, out) { Ok(()) } else { Err(self.not_decoded()) }
    }

    /// All values of an integer or boolean tensor as i64.
    ///
    /// # Errors
    /// [`WeightError::Tensor`] if the type is no integer type, or a `U64` value exceeds `i64::MAX`.
    pub fn to_i64(&self) -> Result<Vec<i64>, WeightError> {
        fn each<const N: usize>(bytes: &[u8], read: impl Fn([u8; N]) -> i64) -> Vec<i64> {
            bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).collect()
        }
        let bytes = self.bytes();
        Ok(match self.dtype {
            FileDType::I64 => each(bytes, i64::from_le_bytes),
            FileDType::I32 => each(bytes, |b| i32::from_le_bytes(b).into()),
            FileDType::U32 => each(bytes, |b| u32::from_le_bytes(b).into()),
            FileDType::I16 => each(bytes, |b| i16::from_le_bytes(b).into()),
            FileDType::U16 => each(bytes, |b| u16::from_le_bytes(b).into()),
            FileDType::I8 => each(bytes, |b| i8::from_le_bytes(b).into()),
            FileDType::U8 => each(bytes, |b| u8::from_le_bytes(b).into()),
            FileDType::Bool => each(bytes, |[b]| (b != 0).into()),
            FileDType::U64 => {
                let values = bytes.as_chunks().0.iter().map(|&b| i64::try_from(u64::from_le_bytes(b)));
                let values: Result<_, _> = values.collect();
                values.map_err(|_| self.error("a value does not fit into i64"))?
            }
            other => return Err(self.error(format!("holds {other}, where integers are needed"))),
        })
    }

    /// An error about this tensor, for callers that find more wrong with it than this layer can.
    pub fn error(&self, reason: impl Into<String>) -> WeightError {
        WeightError::tensor(self.path(), &self.name, reason)
    }

    fn check_float(&self) -> Result<(), WeightError> {
        if self.dtype.is_float() { Ok(()) } else { Err(self.not_decoded()) }
    }

    fn not_decoded(&self) -> WeightError {
        self.error(match self.dtype {
            FileDType::Opaque(_) => format!(
                "holds {}, which is not decoded; use a file with F32, F16, BF16, Q8_0, Q4_0 or Q4_1 weights",
                self.dtype
            ),
            other => format!("holds {other}, where floats are needed"),
        })
    }
}

/// Number of values and of bytes of a tensor, or what is wrong with it.
pub(super) fn extent(dtype: FileDType, shape: &[usize]) -> Result<(usize, usize), String> {
    if shape.len() > MAX_RANK {
        return Err(format!("it has {} dimensions, more than {MAX_RANK}", shape.len()));
    }
    // Without the zeros, so that strides cannot overflow either.
    let product = shape.iter().filter(|&&d| d != 0).try_fold(1usize, |n, &d| n.checked_mul(d));
    let overflow = || format!("shape {shape:?} of {dtype} has more bytes than this machine can address");
    let product = product.filter(|&n| isize::try_from(n).is_ok()).ok_or_else(overflow)?;
    let numel = if shape.contains(&0) { 0 } else { product };
    let block = dtype.block_values();
    if !numel.is_multiple_of(block) {
        return Err(format!("shape {shape:?} does not fill whole blocks of {block} values of type {dtype}"));
    }
    let bytes = dtype.byte_len(numel).filter(|&n| isize::try_from(n).is_ok()).ok_or_else(overflow)?;
    Ok((numel, bytes))
}
