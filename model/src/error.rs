//! What can go wrong in a model.

use engine::weights::WeightError;

use crate::config::ConfigError;
use crate::image::ImageError;
use crate::prompt::PromptError;
use crate::tokenizer::TokenizerError;

/// An error of this crate, with the text of its cause.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation refused its inputs, or the device failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A weight file is broken, or lacks a tensor.
    #[error(transparent)]
    Weights(#[from] WeightError),
    /// A configuration is broken.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tokenizer is broken.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A prompt cannot be built.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// An image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A tensor of the file has not the shape that the configuration asks for.
    #[error("{path}: tensor `{name}` has shape {found:?}, the configuration asks for {wanted:?}")]
    Shape {
        /// The file.
        path: String,
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        wanted: Vec<usize>,
    },
    /// The model computed NaN or infinity.
    #[error("the model's output is not finite ({0})")]
    NotFinite(String),
    /// Inputs that do not fit together or do not fit the model.
    #[error("{0}")]
    Input(String),
}

/// Result of a call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
