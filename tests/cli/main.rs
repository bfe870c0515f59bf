//! The program from outside: what it prints, how it ends, and what it does with broken input.

mod batch;
mod general;
mod generate;
mod hostile;
mod inspect;
mod program;
mod quantize;
mod report;
mod tiny;
mod train;
