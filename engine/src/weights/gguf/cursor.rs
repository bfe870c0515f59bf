//! Reading from a slice that may end anywhere.

use std::fmt::Display;
use std::path::Path;

use crate::weights::WeightError;

/// A place in a file that is read from front to back. Every read is checked, and `what` names it in the error.
pub(super) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, bytes, position: 0 }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.path
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(super) fn take(&mut self, n: usize, what: &(impl Display + ?Sized)) -> Result<&'a [u8], WeightError> {
        let taken = self.bytes[self.position..].get(..n).ok_or_else(|| {
            self.error(format!(
                "{what} at byte {} reaches past the end of the file ({} bytes); the file is cut short or damaged",
                self.position,
                self.bytes.len()
            ))
        })?;
        self.position += n;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &(impl Display + ?Sized),
    ) -> Result<[u8; N], WeightError> {
        let taken = self.take(N, what)?;
        let mut array = [0; N];
        array.copy_from_slice(taken);
        Ok(array)
    }

    pub(super) fn u32(&mut self, what: &(impl Display + ?Sized)) -> Result<u32, WeightError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &(impl Display + ?Sized)) -> Result<u64, WeightError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things of at least `size` bytes each: never more than the rest of the file can hold, so that
    /// memory in proportion to it may be taken.
    pub(super) fn count(
        &mut self,
        size: usize,
        what: &(impl Display + ?Sized),
    ) -> Result<usize, WeightError> {
        let count = self.u64(&format_args!("the number of {what}"))?;
        usize::try_from(count).ok().filter(|&n| n <= self.left() / size.max(1)).ok_or_else(|| {
            self.error(format!(
                "{count} {what} cannot fit into the {} bytes that are left at byte {}; the file is cut short or \
                 damaged",
                self.left(),
                self.position
            ))
        })
    }

    /// A length and so many bytes of UTF-8.
    pub(super) fn string(&mut self, what: &(impl Display + ?Sized)) -> Result<String, WeightError> {
        let length = self.u64(what)?;
        let length = usize::try_from(length).ok().filter(|&n| n <= self.left()).ok_or_else(|| {
            self.error(format!(
                "{what} at byte {} claims {length} bytes, {} are left; the file is cut short or damaged",
                self.position,
                self.left()
            ))
        })?;
        let at = self.position;
        let bytes = self.take(length, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.error(format!("{what} at byte {at} is not UTF-8"))),
        }
    }

    fn error(&self, reason: String) -> WeightError {
        WeightError::file(self.path, reason)
    }
}
