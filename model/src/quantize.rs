//! 4-bit weights in the files of bitsandbytes and transformers (spec qlora §6): reading, writing, and which layers.
//!
//! A quantised weight `P.weight` is several tensors: the codes under its own name, and beside it `.absmax`,
//! `.quant_map`, with double quantisation `.nested_absmax` and `.nested_quant_map`, and `.quant_state.bitsandbytes__nf4`,
//! a JSON text as bytes.

mod config;
mod files;
mod folder;
mod state;

pub use config::{SKIPPED, quantization_config, skips};
pub use files::{Written, is_quantized, read, tensors};
pub use folder::quantize_folder;
pub use state::{NestedState, QuantState};
