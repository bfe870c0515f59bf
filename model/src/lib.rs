//! Models: configurations, modules, image processors, tokenizers, prompts, generation. Knows no backend.

pub mod config;
mod error;
pub mod generate;
pub mod llama;
pub mod loader;
pub mod nn;
pub mod prompt;
pub mod sample;
pub mod siglip;
pub mod smolvlm;
pub mod stage;
pub mod tokenizer;

pub use error::{Error, Result};
