//! Models: configurations, modules, image processors, tokenizers, prompts, generation. Knows no backend.

pub mod bert;
pub mod bundle;
mod candidates;
pub mod config;
pub mod convert;
mod error;
pub mod export;
pub mod files;
pub mod generate;
pub mod image;
pub mod llama;
pub mod loader;
pub mod lora;
pub mod loss;
pub mod nn;
pub mod parity;
pub mod prompt;
pub mod quantize;
pub mod sample;
pub mod siglip;
pub mod smolvlm;
pub mod stage;
pub mod tokenizer;

pub use error::{Error, Result};
