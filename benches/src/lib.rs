//! Measurements: the ceilings of a machine, operations and models against them, runs against each other and against
//! rivals, and profiles of any command. `roentgen bench` and `roentgen profile` show what this crate finds.
//!
//! Nothing here knows an operation by name: what an operation costs it says itself ([`engine::Op::cost`]).

pub mod profile;
