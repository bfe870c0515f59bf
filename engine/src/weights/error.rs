//! What can go wrong with a weight file.

use std::io;
use std::path::{Path, PathBuf};

/// A weight file could not be opened, read or written. Every message names the file, then the tensor or
/// metadata key where there is one, and says what to do where that is not plain.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried, as it follows "cannot".
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The file as a whole is wrong.
    #[error("{}: {reason}", path.display())]
    File {
        /// File or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// One tensor is wrong, or cannot be read as asked.
    #[error("{}: tensor {tensor:?}: {reason}", path.display())]
    Tensor {
        /// File that holds the tensor.
        path: PathBuf,
        /// Its name, shortened where it is very long.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// One metadata key is wrong, or does not hold what was asked for.
    #[error("{}: metadata key {key:?}: {reason}", path.display())]
    Key {
        /// File that holds the key.
        path: PathBuf,
        /// The key, shortened where it is very long.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the caller needs is not there.
    #[error("{}: tensor {tensor:?} is not there{hint}", path.display())]
    Missing {
        /// File or folder.
        path: PathBuf,
        /// The name asked for.
        tensor: String,
        /// Names that end alike, ready to follow the message; may be empty.
        hint: String,
    },
}

impl WeightError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }

    pub(super) fn file(path: &Path, reason: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), reason: reason.into() }
    }

    pub(super) fn tensor(path: &Path, tensor: &str, reason: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_owned(), tensor: shorten(tensor), reason: reason.into() }
    }

    pub(super) fn key(path: &Path, key: &str, reason: impl Into<String>) -> Self {
        Self::Key { path: path.to_owned(), key: shorten(key), reason: reason.into() }
    }
}

/// A name out of a hostile file may be megabytes long; a message should not.
pub(super) fn shorten(name: &str) -> String {
    const LONGEST: usize = 200;
    match name.char_indices().nth(LONGEST) {
        None => name.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes)", &name[..end], name.len()),
    }
}
