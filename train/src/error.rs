//! What can go wrong in a run.

use std::path::{Path, PathBuf};

use engine::weights::WeightError;

/// An error of this crate, with the text of its cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation refused its inputs, or the device failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The model, its tokenizer or its prompts.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A weight file could not be read or written (a full disk, most often).
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// The system refused.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What was tried, as it follows "cannot".
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The run's configuration is wrong.
    #[error("{origin}: {reason}")]
    Config {
        /// File name, or another name of the text's source.
        origin: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The data cannot be trained on.
    #[error("{0}")]
    Data(String),
    /// Loss, gradient or output is NaN or infinite. No checkpoint is written after such a step.
    #[error(
        "step {step}: {what} is {value}; rows of this step: {}; {last_good}. Lower the learning rate, clip lower, \
         or look at these rows",
        rows.join(", ")
    )]
    NotFinite {
        /// The step, from 1.
        step: usize,
        /// Loss, gradient norm, or what came out after the step.
        what: &'static str,
        /// Its value.
        value: f64,
        /// Ids of the rows of the step.
        rows: Vec<String>,
        /// Where the last good checkpoint is, in words.
        last_good: String,
    },
    /// A checkpoint cannot be continued from.
    #[error("{}: {reason}", path.display())]
    Checkpoint {
        /// Folder of the checkpoint or of the run.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, action: &'static str, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }

    pub(crate) fn config(origin: &str, reason: impl Into<String>) -> Self {
        Self::Config { origin: origin.into(), reason: reason.into() }
    }

    pub(crate) fn checkpoint(path: &Path, reason: impl Into<String>) -> Self {
        Self::Checkpoint { path: path.to_owned(), reason: reason.into() }
    }
}

macro_rules! from_model {
    ($($source:ty),*) => {
        $(impl From<$source> for Error {
            fn from(error: $source) -> Self {
                Self::Model(error.into())
            }
        })*
    };
}
from_model!(model::config::ConfigError, model::tokenizer::TokenizerError, model::prompt::PromptError);

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
