//! `bench compare`: what a change did.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bench::compare::{build, default_cache, in_turns, with_stored};
use bench::record::{Program, Run, write_json};
use indicatif::{ProgressBar, ProgressStyle};

use crate::global::Global;
use crate::output::{self, Align};

/// Say what a change did: this program against a stored run, or against another commit
///
/// The base's program takes turns with this one: `--out` kept a copy of it (the last eight are kept), --against builds
/// it. If it is gone, as many new runs are compared with the stored one. A verdict is given only where the 95 % interval of the speedup leaves 1 out.
///
/// Example: roentgen bench op matmul --model smollm2-135m --out base.json; …; roentgen bench compare base.json
///
/// Example: roentgen bench compare --against HEAD~1 -- op attention --model smolvlm-256m
#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// A run that `bench op --out` or `bench model --out` wrote
    #[arg(value_name = "BASE.json", required_unless_present = "against")]
    base: Option<PathBuf>,
    /// Build this commit of the repository in the current folder, and take turns with it
    #[arg(long, value_name = "COMMIT")]
    against: Option<String>,
    /// Turns that both programs take, or new runs
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    turns: u16,
    /// Write the comparison to this file
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// What to measure, after `--`, if there is no BASE.json: op attention --model smolvlm-256m
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(args: &CompareArgs, global: &Global) -> Result<ExitCode> {
    global.processor()?;
    let base = args.base.as_deref().map(Run::load).transpose()?;
    let command = match &base {
        Some(run) if args.command.is_empty() => run.command.clone(),
        Some(_) => bail!("BASE.json says what to measure; leave out what stands after `--`"),
        None if args.command.is_empty() => {
            bail!("what to measure? Give a BASE.json, or `-- op attention --model smolvlm-256m`")
        }
        None => args.command.clone(),
    };
    let this = Program::this()?;
    let rival = match (&args.against, &base) {
        (Some(commit), _) => {
            let cache = default_cache().context("there is no home folder to build in; set XDG_CACHE_HOME")?;
            tracing::info!("building {commit} below {}", cache.display());
            Some(build(&std::env::current_dir()?, commit, &cache)?)
        }
        // Another build, still there: take turns. This very build: only its stored samples are another run.
        (None, Some(run)) => Some(&run.program).filter(|p| p.digest != this.digest && p.is_there()).cloned(),
        (None, None) => None,
    };
    let turns = usize::from(args.turns);
    // Hidden where stderr is no terminal.
    let bar = ProgressBar::new(turns as u64)
        .with_style(ProgressStyle::with_template("turn {pos} of {len}: {msg}")?);
    let progress = |turn: usize, side: &str| {
        bar.set_position(turn as u64 + 1);
        bar.set_message(side.to_owned());
    };
    let report = match (&rival, &base) {
        (Some(rival), _) => in_turns(rival, &this, &command, turns, progress)?,
        (None, Some(run)) => with_stored(run, &this, turns, progress)?,
        (None, None) => bail!("nothing to compare with: give a BASE.json or --against COMMIT"),
    };
    bar.finish_and_clear();
    if let Some(path) = &args.out {
        write_json(path, &report)?;
    }
    if global.json {
        output::json(&report)?;
    } else {
        let head = [
            ("case", Align::Left),
            ("base", Align::Right),
            ("new", Align::Right),
            ("speedup", Align::Right),
            ("95 % interval", Align::Right),
            ("verdict", Align::Left),
        ];
        let mut text = output::table(&head, &report.cells());
        for line in &report.left_out {
            let _ = writeln!(text, "left out: {line}");
        }
        let _ = writeln!(text, "\n{}.", report.note());
        output::text(&text)?;
    }
    Ok(ExitCode::SUCCESS)
}
