//! The `model` crate.
//! Configurations, image processors, tokenizers and prompts. Knows no backend.

pub mod config;
pub mod image;
pub mod prompt;
pub mod tokenizer;
