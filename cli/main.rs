//! `roentgen`: radiology vision-language models from the command line.
//!
//! Every command parses its options, calls a crate and shows what came back. Results go to stdout; progress,
//! logs and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 ended by Ctrl-C.

mod bench;
mod convert;
mod data;
mod demo;
mod devices;
mod eval;
mod generate;
mod global;
mod inspect;
mod interrupt;
mod merge;
mod open;
mod output;
mod parity;
mod quantize;
mod report;
mod score;
mod scoring;
mod system;
mod train;

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::global::Global;

/// Structured reports of chest X-rays, by a tensor engine written from scratch.
///
/// For research and teaching; not a medical device.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Report(report::ReportArgs),
    Generate(generate::GenerateArgs),
    Inspect(inspect::InspectArgs),
    Train(train::TrainArgs),
    Data(data::DataArgs),
    Eval(eval::EvalArgs),
    Score(score::ScoreArgs),
    Devices(devices::DevicesArgs),
    Parity(parity::ParityArgs),
    Quantize(quantize::QuantizeArgs),
    Merge(merge::MergeArgs),
    Convert(convert::ConvertArgs),
    Bench(bench::BenchArgs),
}

fn main() -> ExitCode {
    let started = Instant::now();
    let cli = Cli::parse();
    log_to_stderr(cli.global.verbose);
    let result = match cli.command {
        Command::Report(args) => report::run(&args, &cli.global, started),
        Command::Generate(args) => generate::run(&args, &cli.global),
        Command::Inspect(args) => inspect::run(&args, &cli.global),
        Command::Train(args) => train::run(&args, &cli.global),
        Command::Data(args) => data::run(&args, &cli.global),
        Command::Eval(args) => eval::run(&args, &cli.global),
        Command::Score(args) => score::run(&args, &cli.global),
        Command::Devices(args) => devices::run(&args, &cli.global),
        Command::Parity(args) => parity::run(&args, &cli.global),
        Command::Quantize(args) => quantize::run(&args, &cli.global),
        Command::Merge(args) => merge::run(&args, &cli.global),
        Command::Convert(args) => convert::run(&args, &cli.global),
        Command::Bench(args) => bench::run(&args, &cli.global),
    };
    result.unwrap_or_else(|error| {
        // Whoever reads the output has seen enough (`roentgen … | head`): no failure.
        if is_broken_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        output::error(&error);
        ExitCode::FAILURE
    })
}

fn log_to_stderr(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_max_level(level)
        .with_target(false)
        .without_time()
        .init();
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
