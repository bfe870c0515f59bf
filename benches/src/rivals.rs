//! roentgen beside other systems on this very machine: the same work, the same weights, the same threads, in turns.
//!
//! A rival is a small program of ours under `benches/rivals` that runs the other system and prints a [`Line`] for each
//! figure. Our own side runs as a process too, so that memory and start are counted alike. Within a round every rival
//! is measured right before or right after us, in alternating order; a ratio is taken within such a turn, so that what
//! slows the machine for a while slows both.

mod busy;
mod line;
mod own;
mod page;
mod process;
mod registry;
mod report;
mod schedule;
mod weights;

pub use busy::Load;
pub use line::Line;
pub use own::own;
pub use page::page;
pub use process::{Failure, Job, Measured, Processes, Runner};
pub use registry::{Jobs, Lengths, Need, RIVALS, Rival, Setup, Suite, scripts};
pub use report::{Report, Row, Side, State, Status};
pub use schedule::{Plan, run};
pub use weights::Weights;
