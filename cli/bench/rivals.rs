//! `bench rivals`: us beside the others, on this machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bench::machine::Fingerprint;
use bench::record::{write_json, write_text};
use bench::rivals::{
    self, Jobs, Lengths, Plan, Processes, RIVALS, Report, Rival, Setup, State, Suite, Weights,
};

use engine::Device;

use crate::global::Global;
use crate::interrupt;
use crate::output::{self, Align};

/// Measure roentgen beside llama.cpp, PyTorch, candle and others
///
/// Every rival that is installed here does the same work as roentgen, with the same weights and threads, and both take
/// turns: ratios are taken within a turn. What is absent is named, with how to install it. On the processor, unless
/// --device names a GPU: then beside those that run on it too.
#[derive(Debug, clap::Args)]
pub(crate) struct RivalsArgs {
    /// Weights of the text suites: a Hugging Face folder or .gguf file of SmolLM2-135M
    #[arg(long, value_name = "PATH")]
    weights: Option<PathBuf>,
    /// Folder of llama.cpp's programs (`benches/rivals/llama_build.sh` makes one)
    #[arg(long, value_name = "FOLDER")]
    llama: Option<PathBuf>,
    /// Python with the packages of the rivals
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: PathBuf,
    /// Only these suites
    #[arg(long, value_name = "SUITE", value_delimiter = ',')]
    suites: Vec<String>,
    /// Only these rivals
    #[arg(long, value_name = "RIVAL", value_delimiter = ',')]
    rivals: Vec<String>,
    /// Tokens of the text suites' prompt
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=8192))]
    prefill: u16,
    /// Tokens that the text suites decode
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=8192))]
    decode: u16,
    /// With --device wgpu: the same GPU by its number in llama.cpp's Vulkan backend, software ones counted
    #[arg(long, value_name = "N", default_value_t = 0)]
    vulkan: u16,
    /// Turns of each rival
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// Measured runs in a turn, after one that is not
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// Longest that one process may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    limit: u64,
    /// List suites and rivals, and what is missing here
    #[arg(long)]
    list: bool,
    /// Renew what is measured in this earlier report (made if absent), and show all of it
    #[arg(long, value_name = "FILE.json")]
    update: Option<PathBuf>,
    /// Print the table in Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// Write bars and table to this page, too
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Where weights are put that are made for a rival [default: a folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    work: Option<PathBuf>,
    /// The rivals' programs [default: benches/rivals of the source that this program was built from]
    #[arg(long, value_name = "FOLDER")]
    scripts: Option<PathBuf>,
    /// Our own side of a suite, as a rival's program prints it
    #[arg(long, value_name = "SUITE", hide = true)]
    own: Option<String>,
}

pub(crate) fn run(args: &RivalsArgs, global: &Global) -> Result<ExitCode> {
    let lengths = Lengths { prefill: args.prefill.into(), decode: args.decode.into() };
    let gpu = global.gpu();
    let device = if gpu.is_some() {
        global.device()?
    } else {
        global.processor()?;
        Device::cpu()
    };
    if let Some(name) = &args.own {
        let mut failed = None;
        let repeats = usize::from(args.repeats);
        rivals::own(suite(name)?, args.weights.as_deref(), lengths, repeats, &device, &mut |line| {
            let text = serde_json::to_string(line).map_err(anyhow::Error::from);
            failed = text.and_then(|text| output::line(&text)).err();
        })?;
        return failed.map_or(Ok(ExitCode::SUCCESS), Err);
    }
    let setup = setup(args, lengths, gpu.unwrap_or_else(|| device.name().into()))?;
    let chosen = chosen(&args.rivals)?;
    if args.list {
        return list(&chosen, &setup, global);
    }
    let mut suites: Vec<Suite> = args.suites.iter().map(|name| suite(name)).collect::<Result<_>>()?;
    if suites.is_empty() {
        suites = Suite::ALL.to_vec();
        if setup.weights.is_none() {
            tracing::warn!("without --weights the text suites are left out");
            suites.retain(|suite| !suite.needs_weights());
        }
    } else if setup.weights.is_none() && suites.iter().any(|suite| suite.needs_weights()) {
        bail!("the text suites need --weights: a Hugging Face folder or .gguf file of SmolLM2-135M");
    }
    let earlier =
        args.update.as_ref().filter(|path| path.exists()).map(|path| Report::load(path)).transpose()?;

    interrupt::watch()?;
    let machine = Fingerprint::of(&device);
    // Its memory is for the programs that are measured.
    drop(device);
    let plan = Plan { suites, rivals: chosen, rounds: usize::from(args.rounds), machine };
    let mut runner = Processes { limit: Duration::from_secs(args.limit), stop: interrupt::flag() };
    let found = rivals::run(&plan, &setup, &mut runner, &mut |text| eprintln!("{text}"));
    let report = match earlier {
        None => found,
        Some(mut earlier) => {
            earlier.update(found)?;
            earlier
        }
    };
    if let Some(path) = &args.update {
        write_json(path, &report)?;
    }
    if let Some(path) = &args.html {
        write_text(path, &rivals::page(&report))?;
    }
    if global.json {
        output::json(&report)?;
    } else if args.markdown {
        output::text(&report.markdown())?;
    } else {
        output::text(&text(&report))?;
    }
    Ok(if report.interrupted {
        interrupt::exit_code()
    } else if report.statuses.iter().any(|s| matches!(s.state, State::Measured { .. })) {
        ExitCode::SUCCESS
    } else {
        output::error(&anyhow::anyhow!("no rival could be measured; `--list` says what each one needs"));
        ExitCode::FAILURE
    })
}

fn suite(name: &str) -> Result<Suite> {
    let found = Suite::ALL.into_iter().find(|suite| suite.name() == name);
    found.with_context(|| {
        let all: Vec<_> = Suite::ALL.iter().map(|suite| suite.name()).collect();
        format!("there is no suite `{name}`; there are {}", all.join(", "))
    })
}

fn chosen(names: &[String]) -> Result<Vec<&'static Rival>> {
    if names.is_empty() {
        return Ok(RIVALS.iter().collect());
    }
    let find = |name: &String| {
        let found = RIVALS.iter().find(|rival| rival.name.eq_ignore_ascii_case(name));
        found.with_context(|| {
            let all: Vec<_> = RIVALS.iter().map(|rival| rival.name).collect();
            format!("there is no rival `{name}`; there are {}", all.join(", "))
        })
    };
    names.iter().map(find).collect()
}

fn setup(args: &RivalsArgs, lengths: Lengths, device: String) -> Result<Setup> {
    let whole = |path: &PathBuf| std::path::absolute(path).with_context(|| format!("{}", path.display()));
    let scripts = match &args.scripts {
        Some(folder) => whole(folder)?,
        None => rivals::scripts(),
    };
    if !scripts.join("rival_bench.py").is_file() {
        bail!(
            "{}: the rivals' programs are not there; give benches/rivals of a checkout by --scripts",
            scripts.display()
        );
    }
    let work = args.work.clone().unwrap_or_else(|| std::env::temp_dir().join("roentgen-rivals"));
    // A bare name is looked up in PATH, a path is one from here.
    let python =
        if args.python.components().count() > 1 { whole(&args.python)? } else { args.python.clone() };
    Ok(Setup {
        program: std::env::current_exe().context("this program's own path")?,
        scripts,
        llama: args.llama.as_ref().map(whole).transpose()?,
        python,
        weights: args.weights.as_ref().map(|path| Weights::new(path, &work)).transpose()?,
        threads: engine::cpu::threads::threads(),
        repeats: usize::from(args.repeats),
        device,
        vulkan: args.vulkan,
        lengths,
    })
}

fn list(chosen: &[&'static Rival], setup: &Setup, global: &Global) -> Result<ExitCode> {
    let suites = |rival: &Rival| rival.suites.iter().map(|s| s.name()).collect::<Vec<_>>();
    if global.json {
        let all: Vec<_> = chosen
            .iter()
            .map(|rival| {
                let missing = setup.missing(rival);
                serde_json::json!({
                    "rival": rival.name,
                    "suites": suites(rival),
                    "missing": missing,
                    "install": rival.install,
                })
            })
            .collect();
        output::json(&all)?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<Vec<String>> = chosen
        .iter()
        .map(|rival| {
            let state = match setup.missing(rival) {
                None => "here".into(),
                Some(why) => format!("absent: {why}. To have it: {}", rival.install),
            };
            vec![rival.name.into(), suites(rival).join(", "), state]
        })
        .collect();
    output::text(&output::table(
        &[("rival", Align::Left), ("suites", Align::Left), ("", Align::Left)],
        &rows,
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn text(report: &Report) -> String {
    let (heads, rows) = report.table();
    let align = |i: usize| if matches!(i, 3 | 5 | 6) { Align::Right } else { Align::Left };
    let heads: Vec<_> = heads.into_iter().enumerate().map(|(i, head)| (head, align(i))).collect();
    let mut text = if rows.is_empty() { String::new() } else { output::table(&heads, &rows) };
    text.extend(report.notes().iter().map(|note| format!("\n{note}\n")));
    text
}
