//! The program from outside: what it prints, how it ends, and what it does with broken input.

mod batch;
mod bench;
mod bench_model;
mod cuda;
mod eval;
mod general;
mod generate;
mod gpu;
mod hostile;
mod inspect;
mod kill;
mod nvtx;
mod profile;
mod program;
mod qlora;
mod quantize;
mod report;
mod rivals;
mod score;
mod tiny;
mod train;
