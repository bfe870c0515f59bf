//! What can go wrong in the engine.

use std::path::PathBuf;

use crate::DType;

/// An error of the engine. The text names the operation or file, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Inputs that break an operation's shape or dtype rule.
    #[error("{op}: {message}")]
    Rule {
        /// Name of the operation.
        op: &'static str,
        /// What was given and what the rule is.
        message: String,
    },
    /// A tensor has another element type than the caller asked for.
    #[error("{what}: the tensor holds {found}, not {wanted}; convert it with `to_dtype`")]
    DType {
        /// The call.
        what: &'static str,
        /// Element type of the tensor.
        found: DType,
        /// Element type asked for.
        wanted: DType,
    },
    /// Tensors of one operation live on different devices.
    #[error("{op}: inputs on different devices ({a} and {b}); move them with `to_device`")]
    Devices {
        /// Name of the operation.
        op: &'static str,
        /// One device.
        a: String,
        /// The other.
        b: String,
    },
    /// The device could not give memory.
    #[error("{device}: cannot allocate {bytes} bytes ({in_use} in use)")]
    OutOfMemory {
        /// Device name.
        device: String,
        /// Bytes asked for.
        bytes: usize,
        /// Bytes in use before the call.
        in_use: usize,
    },
    /// The system refused a file that was to hold tensors.
    #[error("{}: cannot {action} this file for tensors: {source}; free space, or choose another path", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried, as it follows "cannot".
        action: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The gradient tape was used in a way it cannot serve.
    #[error("autograd: {0}")]
    Autograd(String),
    /// A device is absent or failed.
    #[error("device: {0}")]
    Device(String),
}

/// Result of an engine call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An [`Error::Rule`] of operation `op`.
macro_rules! rule {
    ($op:expr, $($arg:tt)*) => { $crate::Error::Rule { op: $op, message: format!($($arg)*) } };
}
pub(crate) use rule;
