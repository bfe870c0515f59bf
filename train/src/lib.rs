//! Training: configuration, data, optimiser, schedule, checkpoints, the loop, and the exported model.
//!
//! A run is a function of its configuration and its data: every random choice is drawn from the seed, the epoch
//! and the row, so that a run continued from a checkpoint gives the bytes of one that was never stopped, for any
//! number of threads.

pub mod baseline;
pub mod checkpoint;
pub mod config;
pub mod data;
mod error;
pub mod evaluate;
pub mod export;
mod folder;
pub mod metrics;
pub mod optimizer;
mod plan;
mod plots;
mod run;
pub mod samples;
pub mod schedule;
mod session;
pub mod setup;
pub mod trainer;

pub use config::TrainConfig;
pub use error::{Error, Result};
pub use evaluate::evaluate_reports;
pub use folder::Program;
pub use run::{Options, Summary, run};
