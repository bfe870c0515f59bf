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
mod loading;
mod merge;
mod nvtx;
mod open;
mod output;
mod parity;
mod profile;
mod quantize;
mod report;
mod score;
mod scoring;
mod system;
mod train;

use std::io;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use engine::profile::Nvtx;
use tracing::Subscriber;
use tracing::subscriber::set_global_default;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};

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
    command: Top,
}

#[derive(Debug, Subcommand)]
enum Top {
    #[command(flatten)]
    Plain(Command),
    Profile(profile::ProfileArgs),
}

/// The commands that `profile` can run, too.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match &cli.command {
        Top::Plain(command) => {
            // Nobody else listens: this cannot fail.
            let _ = match Nvtx::from_environment() {
                Ok(Some(tool)) => set_global_default(log_lines_and_ranges(cli.global.verbose, tool)),
                Ok(None) => set_global_default(log_lines(cli.global.verbose)),
                Err(error) => {
                    let _ = set_global_default(log_lines(cli.global.verbose));
                    tracing::warn!("{error}");
                    Ok(())
                }
            };
            run(command, &cli.global, started)
        }
        Top::Profile(args) => {
            let profiled = matches.subcommand().and_then(|(_, matches)| matches.subcommand_name());
            profile::run(args, profiled.unwrap_or("command"), &cli.global, started)
        }
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

fn run(command: &Command, global: &Global, started: Instant) -> Result<ExitCode> {
    match command {
        Command::Report(args) => report::run(args, global, started),
        Command::Generate(args) => generate::run(args, global),
        Command::Inspect(args) => inspect::run(args, global),
        Command::Train(args) => train::run(args, global),
        Command::Data(args) => data::run(args, global),
        Command::Eval(args) => eval::run(args, global),
        Command::Score(args) => score::run(args, global),
        Command::Devices(args) => devices::run(args, global),
        Command::Parity(args) => parity::run(args, global),
        Command::Quantize(args) => quantize::run(args, global),
        Command::Merge(args) => merge::run(args, global),
        Command::Convert(args) => convert::run(args, global),
        Command::Bench(args) => bench::run(args, global),
    }
}

fn level(verbose: u8) -> LevelFilter {
    match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// As [`log_lines`], and tells a tool of operations, modules and phases.
fn log_lines_and_ranges(verbose: u8, tool: Nvtx) -> impl Subscriber + Send + Sync + 'static {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .without_time();
    let ranges = nvtx::Ranges(tool).with_filter(filter_fn(nvtx::is_range));
    tracing_subscriber::registry().with(lines.with_filter(level(verbose))).with(ranges)
}

/// Writes log lines to stderr.
fn log_lines(verbose: u8) -> impl Subscriber + Send + Sync + 'static {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_max_level(level(verbose))
        .with_target(false)
        .without_time()
        .finish()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
