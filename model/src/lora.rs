//! Low-rank adapters in the files of PEFT (spec qlora §8): which layers, their factors, reading and writing.

mod adapter;
mod config;
mod files;
mod matching;
mod merge;

pub use adapter::{Adapter, Module};
pub use config::{LoraConfig, LoraInit, Targets};
pub use matching::{Target, TargetKind};
pub use merge::{MergedForm, merge_folder, merged};
