//! `bench machine`: the ceilings of this device.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use bench::machine::{Effort, Machine, default_path};

use crate::global::Global;
use crate::output::{self, Align};

/// Measure what this machine, or a GPU (--device), can do at most
///
/// Peak arithmetic by instruction set, bandwidth by working set, and latencies, by loops that share nothing with the
/// engine's kernels. The figures are kept with a fingerprint of the device; `bench op`, `bench model` and `profile`
/// hold kernels against them.
#[derive(Debug, clap::Args)]
pub(crate) struct MachineArgs {
    /// Two seconds instead of ten: fewer working sets, shorter trials
    #[arg(long)]
    quick: bool,
    /// Keep the figures in this file [default: `$ROENTGEN_MACHINE`, else a file in the user's cache folder]
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &MachineArgs, global: &Global) -> Result<ExitCode> {
    let device = global.device()?;
    let machine = Machine::measure(&device, if args.quick { Effort::Quick } else { Effort::Full })?;
    let path = args.out.clone().or_else(|| default_path(&device));
    if let Some(path) = &path {
        machine.save(path)?;
    }
    if global.json {
        output::json(&machine)?;
    } else {
        output::text(&text(&machine))?;
        if let Some(path) = path {
            output::line(&format!("\nkept in {}", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(machine: &Machine) -> String {
    let f = &machine.fingerprint;
    let mut text = if f.gpu() {
        format!("{}, kernel {}\n\n", f.cpu, f.kernel)
    } else {
        format!("{} ({}), {} threads, {}, kernel {}\n\n", f.cpu, f.revision, f.threads, f.isa, f.kernel)
    };
    let rows: Vec<Vec<String>> = machine
        .peaks
        .iter()
        .map(|p| vec![p.isa.clone(), p.dtype.clone(), format!("{:.1}", p.flops / 1e9)])
        .collect();
    text += &output::table(
        &[("multiply-adds", Align::Left), ("factors", Align::Left), ("GFLOP/s", Align::Right)],
        &rows,
    );
    text.push('\n');
    let rows: Vec<Vec<String>> = machine
        .levels
        .iter()
        .map(|l| vec![binary(l.bytes), format!("{:.1}", l.read / 1e9), format!("{:.1}", l.triad / 1e9)])
        .collect();
    text += &output::table(
        &[("working set", Align::Right), ("read GB/s", Align::Right), ("triad GB/s", Align::Right)],
        &rows,
    );
    let micro = |seconds: f64| format!("{:.2} µs", seconds * 1e6);
    let short = if f.gpu() {
        ["smallest operation in a line of many", "the same, waited for"]
    } else {
        ["fork and join", "smallest operation"]
    };
    let _ = writeln!(
        text,
        "\n{} {} (best {})\n{} {} (best {})",
        short[0],
        micro(machine.fork_join.typical),
        micro(machine.fork_join.best),
        short[1],
        micro(machine.launch.typical),
        micro(machine.launch.best)
    );
    text
}

/// `65536` as `64 KiB`.
fn binary(bytes: usize) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}
