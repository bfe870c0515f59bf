//! `eval`: base against tuned on a part of a run's data.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::ValueEnum;
use engine::DType;
use serde_json::json;
use train::TrainConfig;
use train::data::Split;
use train::evaluate::{
    Evaluation, LONGEST_ANSWER, Outcome, Results, Source, SystemSpec, default_folder, default_tuned,
};

use crate::global::Global;
use crate::open::FloatType;
use crate::scoring::ScoringArgs;
use crate::{demo, interrupt, output};

/// Generate reports on a part of the data and score them: base against tuned
///
/// Writes base.jsonl, tuned.jsonl, table.json and index.html (tables, images, all texts side by side) into the
/// folder `eval` of the run. Ctrl-C keeps what was generated; --resume goes on.
#[derive(Debug, clap::Args)]
pub(crate) struct EvalArgs {
    /// The run's configuration, as `train` takes it
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Another value for a key of the configuration, as data.root=FOLDER. May be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = crate::train::key_value)]
    set: Vec<(String, String)>,
    /// Which part of the data
    #[arg(long, value_name = "PART", default_value = "test")]
    split: Part,
    /// Only the first rows
    #[arg(long, value_name = "N", value_parser = crate::generate::positive)]
    limit: Option<usize>,
    /// The model before training; `demo` is the one of this program [default: `model.folder` of the configuration]
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// The model after training; `demo` as above [default: the folder `model` of the run]
    #[arg(long, value_name = "PATH")]
    tuned: Option<PathBuf>,
    /// Type to hold weights and compute in [default: as the files have them]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<FloatType>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = LONGEST_ANSWER, value_parser = crate::generate::positive)]
    max_new_tokens: usize,
    /// Folder of the results [default: the folder `eval` of the run]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Rows with image and texts on the page
    #[arg(long, value_name = "N", default_value_t = 100)]
    examples: usize,
    /// Go on with the answers that are there
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    scoring: ScoringArgs,
}

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Train,
    Val,
    Test,
}

pub(crate) fn run(args: &EvalArgs, global: &Global) -> Result<ExitCode> {
    let device = global.device()?;
    let config = TrainConfig::from_file(&args.config, &args.set)?;
    let dtype = args.dtype.map(DType::from);
    // Both sides see the weights as the run did.
    let quantized = config.quantization.as_ref().map(|q| (q.config(), q.skipped()));
    let dtype = dtype.or_else(|| config.lora.as_ref().map(|_| DType::from(config.precision)));
    let spec = |path: PathBuf| SystemSpec {
        source: source(path),
        dtype,
        quantized: quantized.clone(),
        image: config.image.clone(),
        adapter: None,
    };
    let base = args.base.clone().or_else(|| config.model.folder.clone());
    if base.is_none() {
        tracing::warn!("the run starts from no model: without --base the tuned one stands alone");
    }
    let tuned = args.tuned.clone().map_or_else(|| default_tuned(&config), Ok)?;
    let tuned = if tuned.join("adapter_config.json").is_file() {
        let base = base.clone().ok_or_else(|| {
            anyhow!("{}: an adapter needs the model that it was trained on; give --base", tuned.display())
        })?;
        SystemSpec { adapter: Some(tuned), ..spec(base) }
    } else {
        spec(tuned)
    };
    let scoring = args.scoring.open(&device)?;
    interrupt::watch()?;
    let evaluation = Evaluation {
        split: match args.split {
            Part::Train => Split::Train,
            Part::Val => Split::Validation,
            Part::Test => Split::Test,
        },
        limit: args.limit,
        base: base.map(spec),
        tuned,
        out: args.out.clone().unwrap_or_else(|| default_folder(&config)),
        longest: args.max_new_tokens,
        resume: args.resume,
        examples: args.examples,
        scoring,
        stop: Some(interrupt::flag()),
        progress: true,
        config: &config,
    };
    match evaluation.run(&device)? {
        Outcome::Stopped { missing } => {
            tracing::warn!("ended by Ctrl-C; {missing} answers are missing; --resume goes on");
            Ok(interrupt::exit_code())
        }
        Outcome::Done(results) => {
            show(&results, global).context("the results are written, but cannot be shown")?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `demo` is the model of this program, unless there is something of that name.
fn source(path: PathBuf) -> Source {
    match demo::model() {
        Some(files) if path.as_os_str() == "demo" && !path.exists() => Source::Embedded(files),
        _ => Source::Path(path),
    }
}

fn show(results: &Results, global: &Global) -> Result<()> {
    if global.json {
        return output::json(&json!({
            "rows": results.rows,
            "failed": results.failed.len(),
            "bad_rows": results.bad_rows,
            "page": results.page,
            "tables": results.tables.to_json(),
        }));
    }
    output::text(&results.tables.to_text())?;
    output::line(&format!("\nimages and texts: {}", results.page.display()))
}
