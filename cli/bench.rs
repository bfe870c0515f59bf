//! `roentgen bench`: the machine, operations and models against it, runs against runs, rivals.

mod compare;
mod machine;
mod op;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::global::Global;

/// Measure kernels and models against this machine, against earlier runs and against others
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    Machine(machine::MachineArgs),
    Op(op::OpArgs),
    Compare(compare::CompareArgs),
}

pub(crate) fn run(args: &BenchArgs, global: &Global) -> Result<ExitCode> {
    match &args.command {
        BenchCommand::Machine(args) => machine::run(args, global),
        BenchCommand::Op(args) => op::run(args, global),
        BenchCommand::Compare(args) => compare::run(args, global),
    }
}
