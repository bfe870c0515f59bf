//! What can go wrong in a measurement.

use std::path::PathBuf;

/// An error of this crate: what was wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine refused an operation.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A model could not be built or run.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A file cannot be read or written, or a program not be started.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, as it follows "cannot".
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A file is there but is not what it should be.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A request that makes no sense.
    #[error("{0}")]
    Input(String),
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
