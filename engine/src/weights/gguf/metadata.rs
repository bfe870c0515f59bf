//! GGUF metadata: typed values by key.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use super::tokenizer::TokenizerInfo;
use crate::weights::WeightError;
use crate::weights::error::shorten;

/// Arrays within arrays deeper than this are refused; real files have none.
const MAX_DEPTH: usize = 4;
/// Smallest key-value pair: empty key, type, one byte.
const MIN_PAIR: usize = 8 + 4 + 1;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each is what its name says
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of values of one type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each is what its name says
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::I8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::I16(v) => v.len(),
            Self::U32(v) => v.len(),
            Self::I32(v) => v.len(),
            Self::U64(v) => v.len(),
            Self::I64(v) => v.len(),
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::Bool(v) => v.len(),
            Self::String(v) => v.len(),
            Self::Array(v) => v.len(),
        }
    }

    /// True if there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "array of u8",
            Self::I8(_) => "array of i8",
            Self::U16(_) => "array of u16",
            Self::I16(_) => "array of i16",
            Self::U32(_) => "array of u32",
            Self::I32(_) => "array of i32",
            Self::U64(_) => "array of u64",
            Self::I64(_) => "array of i64",
            Self::F32(_) => "array of f32",
            Self::F64(_) => "array of f64",
            Self::Bool(_) => "array of booleans",
            Self::String(_) => "array of strings",
            Self::Array(_) => "array of arrays",
        }
    }
}

impl Value {
    /// The type in words.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "boolean",
            Self::String(_) => "string",
            Self::Array(array) => array.type_name(),
        }
    }

    /// The value of any of the integer types.
    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(x) => x.into(),
            Self::I8(x) => x.into(),
            Self::U16(x) => x.into(),
            Self::I16(x) => x.into(),
            Self::U32(x) => x.into(),
            Self::I32(x) => x.into(),
            Self::U64(x) => x.into(),
            Self::I64(x) => x.into(),
            _ => return None,
        })
    }
}

/// The key-value pairs of a GGUF file.
///
/// The typed getters give `None` for a key that is not there and an error, naming file and key, for one that holds
/// something else; [`required`](Self::required) makes the first an error too.
#[derive(Clone, Debug)]
pub struct Metadata {
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    pub(super) fn read(at: &mut Cursor) -> Result<Self, WeightError> {
        let pairs = at.count(MIN_PAIR, "metadata pairs")?;
        let mut values = BTreeMap::new();
        for index in 0..pairs {
            let key = at.string(&format_args!("metadata key {index}"))?;
            let what = format!("the value of metadata key {:?}", shorten(&key));
            let kind = at.u32(&what)?;
            let value = read_value(at, &key, kind, &what)?;
            match values.entry(key) {
                Entry::Vacant(place) => place.insert(value),
                Entry::Occupied(old) => return Err(WeightError::key(at.path(), old.key(), "it comes twice")),
            };
        }
        Ok(Self { path: at.path().to_owned(), values })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys and values, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.values.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of any type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// What `getter` finds under `key`, which must be there: `metadata.required("llama.block_count",
    /// Metadata::u32)`.
    ///
    /// # Errors
    /// [`WeightError::Key`] if it is not there, or as `getter`.
    pub fn required<'a, T>(
        &'a self,
        key: &str,
        getter: impl FnOnce(&'a Self, &str) -> Result<Option<T>, WeightError>,
    ) -> Result<T, WeightError> {
        getter(self, key)?.ok_or_else(|| self.error(key, "is needed and not there"))
    }

    /// An integer of any stored type that fits.
    ///
    /// # Errors
    /// [`WeightError::Key`] if it is another type or does not fit.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, WeightError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let integer = value.integer().ok_or_else(|| self.wrong(key, value, "an integer"))?;
        match u32::try_from(integer) {
            Ok(x) => Ok(Some(x)),
            Err(_) => Err(self.error(key, format!("{integer} does not fit into an unsigned 32-bit integer"))),
        }
    }

    /// A float of either stored type, as f32.
    ///
    /// # Errors
    /// [`WeightError::Key`] if it is another type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, WeightError> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::F32(x)) => Ok(Some(x)),
            Some(&Value::F64(x)) => Ok(Some(x as f32)),
            Some(other) => Err(self.wrong(key, other, "a float")),
        }
    }

    /// A boolean.
    ///
    /// # Errors
    /// [`WeightError::Key`] if it is another type.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, WeightError> {
        match self.get(key) {
            None => Ok(None),
            Some(&Value::Bool(x)) => Ok(Some(x)),
            Some(other) => Err(self.wrong(key, other, "a boolean")),
        }
    }

    /// A string.
    ///
    /// # Errors
    /// [`WeightError::Key`] if it is another type.
    pub fn str(&self, key: &str) -> Result<Option<&str>, WeightError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(x)) => Ok(Some(x)),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    /// An array of strings.
    ///
    /// # Errors
    /// [`WeightError::Key`] if it is another type.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, WeightError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(x))) => Ok(Some(x)),
            Some(other) => Err(self.wrong(key, other, "an array of strings")),
        }
    }

    /// An array of f32.
    ///
    /// # Errors
    /// [`WeightError::Key`] if it is another type.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, WeightError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::F32(x))) => Ok(Some(x)),
            Some(other) => Err(self.wrong(key, other, "an array of f32")),
        }
    }

    /// An array of i32.
    ///
    /// # Errors
    /// [`WeightError::Key`] if it is another type.
    pub fn i32s(&self, key: &str) -> Result<Option<&[i32]>, WeightError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::I32(x))) => Ok(Some(x)),
            Some(other) => Err(self.wrong(key, other, "an array of i32")),
        }
    }

    /// The tokenizer, if the file has one.
    ///
    /// # Errors
    /// [`WeightError::Key`] if its parts are of wrong types or contradict each other.
    pub fn tokenizer(&self) -> Result<Option<TokenizerInfo>, WeightError> {
        TokenizerInfo::read(self)
    }

    /// An error about `key`, for callers that find more wrong with its value than this layer can.
    pub fn error(&self, key: &str, reason: impl Into<String>) -> WeightError {
        WeightError::key(&self.path, key, reason)
    }

    fn wrong(&self, key: &str, value: &Value, wanted: &str) -> WeightError {
        self.error(key, format!("{wanted} was expected, the file has {}", value.type_name()))
    }
}

/// Type numbers of `gguf_metadata_value_type`.
mod kind {
    pub(super) const U8: u32 = 0;
    pub(super) const I8: u32 = 1;
    pub(super) const U16: u32 = 2;
    pub(super) const I16: u32 = 3;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const STRING: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
    pub(super) const F64: u32 = 12;
}

fn read_value(at: &mut Cursor, key: &str, kind: u32, what: &str) -> Result<Value, WeightError> {
    Ok(match kind {
        kind::U8 => Value::U8(u8::from_le_bytes(at.array(what)?)),
        kind::I8 => Value::I8(i8::from_le_bytes(at.array(what)?)),
        kind::U16 => Value::U16(u16::from_le_bytes(at.array(what)?)),
        kind::I16 => Value::I16(i16::from_le_bytes(at.array(what)?)),
        kind::U32 => Value::U32(u32::from_le_bytes(at.array(what)?)),
        kind::I32 => Value::I32(i32::from_le_bytes(at.array(what)?)),
        kind::U64 => Value::U64(u64::from_le_bytes(at.array(what)?)),
        kind::I64 => Value::I64(i64::from_le_bytes(at.array(what)?)),
        kind::F32 => Value::F32(f32::from_le_bytes(at.array(what)?)),
        kind::F64 => Value::F64(f64::from_le_bytes(at.array(what)?)),
        kind::BOOL => {
            let [byte] = at.array(what)?;
            Value::Bool(boolean(at, key, byte)?)
        }
        kind::STRING => Value::String(at.string(what)?),
        kind::ARRAY => Value::Array(read_array(at, key, what, 1)?),
        other => return Err(WeightError::key(at.path(), key, format!("unknown value type {other}"))),
    })
}

fn boolean(at: &Cursor, key: &str, byte: u8) -> Result<bool, WeightError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => {
            Err(WeightError::key(at.path(), key, format!("a boolean is stored as {other}, not as 0 or 1")))
        }
    }
}

fn read_array(at: &mut Cursor, key: &str, what: &str, depth: usize) -> Result<Array, WeightError> {
    fn plain<const N: usize, T>(
        at: &mut Cursor,
        what: &str,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, WeightError> {
        let n = at.count(N, &format_args!("array elements in {what}"))?;
        let bytes = at.take(n * N, what)?; // cannot overflow: `count` compared with the bytes that are left
        Ok(bytes.as_chunks::<N>().0.iter().map(|&b| read(b)).collect())
    }

    if depth > MAX_DEPTH {
        return Err(WeightError::key(at.path(), key, format!("arrays are nested deeper than {MAX_DEPTH}")));
    }
    Ok(match at.u32(what)? {
        kind::U8 => Array::U8(plain(at, what, u8::from_le_bytes)?),
        kind::I8 => Array::I8(plain(at, what, i8::from_le_bytes)?),
        kind::U16 => Array::U16(plain(at, what, u16::from_le_bytes)?),
        kind::I16 => Array::I16(plain(at, what, i16::from_le_bytes)?),
        kind::U32 => Array::U32(plain(at, what, u32::from_le_bytes)?),
        kind::I32 => Array::I32(plain(at, what, i32::from_le_bytes)?),
        kind::U64 => Array::U64(plain(at, what, u64::from_le_bytes)?),
        kind::I64 => Array::I64(plain(at, what, i64::from_le_bytes)?),
        kind::F32 => Array::F32(plain(at, what, f32::from_le_bytes)?),
        kind::F64 => Array::F64(plain(at, what, f64::from_le_bytes)?),
        kind::BOOL => {
            let bytes = plain(at, what, |[byte]: [u8; 1]| byte)?;
            Array::Bool(bytes.into_iter().map(|b| boolean(at, key, b)).collect::<Result<_, _>>()?)
        }
        kind::STRING => {
            let n = at.count(8, &format_args!("strings in {what}"))?;
            Array::String((0..n).map(|_| at.string(what)).collect::<Result<_, _>>()?)
        }
        kind::ARRAY => {
            let n = at.count(4 + 8, &format_args!("arrays in {what}"))?;
            Array::Array((0..n).map(|_| read_array(at, key, what, depth + 1)).collect::<Result<_, _>>()?)
        }
        other => {
            let reason = format!("unknown array element type {other}");
            return Err(WeightError::key(at.path(), key, reason));
        }
    })
}
