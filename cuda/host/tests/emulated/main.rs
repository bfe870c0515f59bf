//! Everything that runs under the stand-in driver, and what it and the emulator catch.

mod driver;
mod faults;
mod graphs;
mod kernels;
mod sanitized;
mod session;
mod warpgroup;
