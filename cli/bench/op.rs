//! `bench op`: operations against the roofline.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bench::machine::{Machine, default_path};
use bench::op::{self, Case, Residence, Settings, given, models};
use bench::record::{Run, write_text};
use engine::{DType, Device};
use indicatif::{ProgressBar, ProgressStyle};

use crate::global::Global;
use crate::open::FloatType;
use crate::output;

/// Measure an operation against this machine's roofline
///
/// The cases are the shapes that a named model really uses (--model), or given ones (--shape). Each is first compared
/// with the f64 oracle: a wrong kernel gets its error instead of a time.
///
/// Example: roentgen bench op attention --model smolvlm-256m --html attention.html
#[derive(Debug, clap::Args)]
pub(crate) struct OpArgs {
    /// An operation by its name in traces (`attention`, `matmul`, `linear_nf4`, …), or `all`
    name: String,
    /// The model whose shapes count: smolvlm-256m, smolvlm, smollm2-135m, smollm2-1.7b, vicuna-7b, …, or a config.json
    #[arg(long, value_name = "MODEL", conflicts_with = "shape")]
    model: Option<String>,
    /// Shapes of the inputs instead, as 1024x576,1536x576 (a type may follow: 1024x576:f32)
    #[arg(long, value_name = "SHAPES")]
    shape: Option<String>,
    /// A setting of the operation, with --shape: causal=false, rank=8, …
    #[arg(long, value_name = "KEY=VALUE", requires = "shape", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Element type of weights and activations
    #[arg(long, value_name = "TYPE", default_value = "bf16")]
    dtype: FloatType,
    /// Linear layers of the model in NF4 with double quantisation
    #[arg(long, requires = "model")]
    nf4: bool,
    /// A training step of the model too: of an adapter with --nf4, else of all weights
    #[arg(long, requires = "model")]
    train: bool,
    /// Tokens of the prompt [default: a tile's and 100, or 512 for a text model]
    #[arg(long, value_name = "N", requires = "model", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tokens: Option<u32>,
    /// Tokens before the decoded one [default: those of the prompt]
    #[arg(long, value_name = "N", requires = "model", value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    depth: Option<u32>,
    /// Paths side by side: all (instruction sets), portable, avx2, avx512, avx512bf16, reference (plain loops, slow), or
    /// several with commas
    /// [default: the one in use]
    #[arg(long, value_name = "PATHS")]
    variant: Option<String>,
    /// Inputs where the last repeat left them, in a cache if they fit, instead of from memory
    #[arg(long)]
    warm: bool,
    /// Seconds of repeats for each case and path
    #[arg(long, value_name = "S", default_value_t = 0.5, value_parser = seconds)]
    seconds: f64,
    /// Write the run to this file, for `bench compare`
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Write one page with the roofline, the table and bars to this file
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Earlier runs to show beside this one on the page
    #[arg(long, value_name = "FILE.json", requires = "html")]
    history: Vec<PathBuf>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|s| (0.001..=600.0).contains(s))
        .ok_or_else(|| "expected 0.001 to 600 seconds".into())
}

impl OpArgs {
    /// Words that ask for the same again.
    fn command(&self, global: &Global) -> Vec<String> {
        let mut words = vec!["op".to_owned(), self.name.clone()];
        let mut option = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                words.extend([format!("--{name}"), value]);
            }
        };
        option("model", self.model.clone());
        option("shape", self.shape.clone());
        for (key, value) in &self.set {
            option("set", Some(format!("{key}={value}")));
        }
        option("dtype", Some(self.dtype().name().into()));
        option("tokens", self.tokens.map(|n| n.to_string()));
        option("depth", self.depth.map(|n| n.to_string()));
        option("variant", self.variant.clone());
        option("seconds", Some(self.seconds.to_string()));
        option("threads", global.threads.map(|n| n.to_string()));
        option("device", global.gpu());
        for (name, on) in [("--nf4", self.nf4), ("--train", self.train), ("--warm", self.warm)] {
            if on {
                words.push(name.into());
            }
        }
        words
    }

    fn dtype(&self) -> DType {
        match self.dtype {
            FloatType::F32 => DType::F32,
            FloatType::Bf16 => DType::BF16,
        }
    }

    fn cases(&self, device: &Device) -> Result<Vec<Case>> {
        if let Some(text) = &self.shape {
            let settings: BTreeMap<String, String> = self.set.iter().cloned().collect();
            return Ok(given::cases(&self.name, &given::shapes(text)?, &settings, self.dtype(), device)?);
        }
        let Some(name) = &self.model else {
            bail!(
                "`bench op {}` needs shapes: --model smolvlm-256m takes those of a model, --shape given ones",
                self.name
            )
        };
        let workload = models::Workload {
            config: models::config(name)?,
            dtype: self.dtype(),
            nf4: self.nf4,
            tokens: self.tokens.map(|n| n as usize),
            depth: self.depth.map(|n| n as usize),
            train: self.train,
        };
        let all = workload.cases(device)?;
        let wanted = if self.name == "linear" { "matmul" } else { &self.name };
        let mut names: Vec<&str> = all.iter().map(|c| c.application.name()).collect();
        names.sort_unstable();
        names.dedup();
        if wanted != "all" && !names.contains(&wanted) {
            let hint = match (self.train, self.nf4) {
                (false, _) => "; --train adds a training step",
                (true, false) => "; --nf4 quantises its layers",
                _ => "",
            };
            bail!("{name} applies no {wanted} here, but {}{hint}", names.join(", "));
        }
        let chosen = all.into_iter().filter(|c| wanted == "all" || c.application.name() == wanted);
        Ok(chosen.collect())
    }
}

pub(crate) fn run(args: &OpArgs, global: &Global) -> Result<ExitCode> {
    let device = global.device()?;
    if !op::valid(&args.name) {
        bail!(op::suggestion(&args.name));
    }
    let variants = match &args.variant {
        Some(text) => Settings::variants(text)?,
        None => vec![engine::cpu::isa::isa()],
    };
    let residence = if args.warm { Residence::Warm } else { Residence::Memory };
    let settings = Settings { seconds: args.seconds, residence, variants };
    let history = args
        .history
        .iter()
        .map(|path| {
            Ok((path.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into()), Run::load(path)?))
        })
        .collect::<Result<Vec<_>>>()?;

    // Hidden where stderr is no terminal.
    let bar = ProgressBar::new_spinner().with_message("building the model's layers");
    let cases = args.cases(&device)?;
    bar.set_message("measuring the machine");
    let path = default_path(&device);
    let mut machine = Machine::known(&device, path.as_deref())?;
    bar.set_length(cases.len() as u64);
    bar.set_style(ProgressStyle::with_template("{pos}/{len} {wide_msg}")?);
    let command = args.command(global);
    let run = op::run(&cases, &settings, &mut machine, command, |i, case| {
        bar.set_position(i as u64);
        bar.set_message(format!("{:?}", case.application));
    })?;
    bar.finish_and_clear();
    if let Some(path) = path
        && let Err(error) = machine.save(&path)
    {
        tracing::warn!("the machine's ceilings are not kept: {error}");
    }
    if let Some(path) = &args.out {
        super::save(&run, path)?;
    }
    if let Some(path) = &args.html {
        write_text(path, &op::page(&run, &history))
            .with_context(|| format!("{}: no page", path.display()))?;
    }
    if global.json {
        output::json(&run)?;
    } else {
        output::text(&op::text(&run))?;
    }
    let wrong = run.rows.iter().filter(|row| row.samples.is_empty()).count();
    if wrong > 0 {
        bail!("{wrong} of {} results disagree with the oracle", run.rows.len());
    }
    Ok(ExitCode::SUCCESS)
}
