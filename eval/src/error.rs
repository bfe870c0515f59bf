use std::path::PathBuf;

/// What a metric or a renderer can refuse.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Hypotheses and references are not pairs.
    #[error("{hypotheses} hypotheses for {references} references: each hypothesis needs its own reference")]
    Unpaired {
        /// Number of hypotheses.
        hypotheses: usize,
        /// Number of references.
        references: usize,
    },
    /// A slice's length does not fit the shape it should have.
    #[error("{what}: expected {expected} values, found {found}")]
    Shape {
        /// Which input.
        what: String,
        /// Values the shape asks for.
        expected: usize,
        /// Values given.
        found: usize,
    },
    /// A data file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A data file has a line in a form it should not have.
    #[error("{path}, line {line}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Line number, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The text encoder behind a metric failed.
    #[error("the text encoder failed: {0}")]
    Encoder(String),
    /// A result table was given a value for a system or metric it does not have.
    #[error("the table has no {kind} named \"{name}\"; it has: {known}")]
    Unknown {
        /// `system` or `metric`.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
}

/// Refuses a corpus whose two sides differ in number.
pub(crate) fn paired(hypotheses: usize, references: usize) -> Result<(), Error> {
    if hypotheses == references { Ok(()) } else { Err(Error::Unpaired { hypotheses, references }) }
}
