//! The `eval` crate.
