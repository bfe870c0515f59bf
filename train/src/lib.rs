//! Training: configuration, data, optimiser, schedule, checkpoints, the loop, and the exported model.
//!
//! A run is a function of its configuration, its data and nothing else: every random choice is drawn from the
//! seed, the epoch and the row, so that a run continued from a checkpoint gives the bytes of one that was never
//! stopped, for any number of threads.

pub mod config;
mod error;
pub mod schedule;

pub use config::TrainConfig;
pub use error::{Error, Result};
