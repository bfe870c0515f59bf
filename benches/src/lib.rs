//! Measurements: the ceilings of a machine, operations and models against them, runs against each other and against
//! rivals, and profiles of any command. `roentgen bench` and `roentgen profile` show what this crate finds.
//!
//! | module | what is in it |
//! |---|---|
//! | [`machine`] | peak arithmetic, bandwidth by working set, latencies; kept under a fingerprint of the device |
//! | [`stats`] | repeats, medians, and verdicts that know their noise |
//! | [`op`] | single operations by the shapes of models: checked, timed, held against the roofline |
//! | [`compare`] | two programs in turns, or a run against an earlier one |
//! | [`profile`] | a recording as tables, as a page and as a trace |
//! | [`record`] | the file format of a run |
//! | [`units`] | numbers for people |
//! | [`model`] | whole models: vision, prefill, decoding, a training step |
//! | [`rivals`] | us beside other systems, in turns |
//! | [`work`] | what a run of anything costs |
//!
//! Nothing here knows what an operation costs: that it says itself ([`engine::Op::cost`]).

pub mod compare;
mod error;
pub mod machine;
pub mod model;
pub mod op;
pub mod profile;
pub mod record;
pub mod rivals;
pub mod stats;
pub mod units;
pub mod work;

pub use error::{Error, Result};
