//! The CPU backend.

pub mod flash;
pub mod isa;
pub mod threads;
