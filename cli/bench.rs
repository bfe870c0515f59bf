//! `roentgen bench`: the machine, operations and models against it, runs against runs, rivals.

mod compare;
mod machine;
mod model;
mod op;
mod rivals;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use bench::compare::default_cache;
use bench::record::Run;
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
    Model(model::ModelArgs),
    Compare(compare::CompareArgs),
    Rivals(rivals::RivalsArgs),
}

pub(crate) fn run(args: &BenchArgs, global: &Global) -> Result<ExitCode> {
    match &args.command {
        BenchCommand::Machine(args) => machine::run(args, global),
        BenchCommand::Op(args) => op::run(args, global),
        BenchCommand::Model(args) => model::run(args, global),
        BenchCommand::Compare(args) => compare::run(args, global),
        BenchCommand::Rivals(args) => rivals::run(args, global),
    }
}

/// Writes a run, and keeps a copy of this program: `bench compare` lets both take turns when it has been built anew.
fn save(run: &Run, path: &Path) -> Result<()> {
    let mut run = run.clone();
    if let Some(cache) = default_cache() {
        run.program = run.program.kept_in(&cache);
    }
    Ok(run.save(path)?)
}
