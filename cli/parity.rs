//! `parity`: a model against a reference dump, stage by stage.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use engine::DType;
use engine::weights::Weights;
use model::bundle::network;
use model::config::Config;
use model::loader::Loader;
use model::lora::Adapter;
use model::parity::{Comparison, compare_on};
use serde::Serialize;

use crate::global::Global;
use crate::open::FloatType;
use crate::output::{self, Align};

/// Compare a model with a reference dump, stage by stage
///
/// The dump is a safetensors file with `input_ids` (and `attention_mask`, `pixel_values`, `pixel_attention_mask`,
/// `labels`, `labels_answer`) and any of the stages that the model names: `vision.embeddings`,
/// `vision.layer0.attention`, `connector.output`, `text.layer0.mlp`, `logits`, `loss`, `grad.<weight>` and so on.
#[derive(Debug, clap::Args)]
pub(crate) struct ParityArgs {
    /// Folder with config.json and model.safetensors; no tokenizer is needed
    model: PathBuf,
    /// The reference, a safetensors file
    reference: PathBuf,
    /// Type to compute in
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = FloatType::F32)]
    dtype: FloatType,
    /// A PEFT folder, put on the model; gradients are then those of its factors
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// A dump with the inputs and labels, where the reference has none
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Leave the gradients out: less memory
    #[arg(long)]
    no_gradients: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    within_tolerance: bool,
    first_out_of_tolerance: Option<&'a str>,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

/// Exit code 0 if every compared stage is within its tolerance, else 1.
pub(crate) fn run(args: &ParityArgs, global: &Global) -> Result<ExitCode> {
    let device = global.device()?;
    if !args.model.is_dir() {
        bail!("{}: is no folder; parity takes a model in Hugging Face layout", args.model.display());
    }
    let config = Config::from_file(args.model.join("config.json"))?;
    let reference = Weights::open(&args.reference)?;
    let dtype = DType::from(args.dtype);
    let loader = Loader::from_weights(Arc::new(Weights::open(&args.model)?), Some(dtype), &device);
    let gradients = !args.no_gradients && reference.names().any(|name| name.starts_with("grad."));
    let loader = if gradients && args.adapter.is_none() { loader.trainable() } else { loader };
    let network = network(&loader, &config)?;
    let tensors = match &args.adapter {
        None => loader.given(),
        Some(folder) => {
            let open = if gradients { Adapter::open_trainable } else { Adapter::open };
            let adapter = open(folder, &network)?;
            adapter.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            network.attach(&adapter)?;
            adapter.parameters()
        }
    };
    let given = args.inputs.as_ref().map(Weights::open).transpose()?;
    let given = given.as_ref().unwrap_or(&reference);
    let comparison = compare_on(&config, &network, &tensors, given, &reference, dtype)?;
    if comparison.rows.is_empty() {
        bail!(
            "{}: holds no stage that this model names; see `roentgen parity --help`",
            args.reference.display()
        );
    }
    let first_bad = comparison.first_bad().map(|row| row.name.as_str());
    if global.json {
        output::json(&Shown {
            within_tolerance: first_bad.is_none(),
            first_out_of_tolerance: first_bad,
            comparison: &comparison,
        })?;
    } else {
        show(&comparison, first_bad)?;
    }
    Ok(if first_bad.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(comparison: &Comparison, first_bad: Option<&str>) -> Result<()> {
    let head = [
        ("stage", Align::Left),
        ("max abs", Align::Right),
        ("relative", Align::Right),
        ("tolerance", Align::Right),
        ("", Align::Left),
    ];
    let rows: Vec<Vec<String>> = comparison
        .rows
        .iter()
        .map(|row| {
            vec![
                row.name.clone(),
                format!("{:.2e}", row.max_abs),
                format!("{:.2e}", row.relative),
                format!("{:.0e}", row.tolerance),
                if row.ok { "ok".into() } else { "OUT".into() },
            ]
        })
        .collect();
    output::text(&output::table(&head, &rows))?;
    if !comparison.skipped.is_empty() {
        output::line(&format!("not compared: {}", comparison.skipped.join(", ")))?;
    }
    output::line(&match first_bad {
        None => format!("all {} stages within tolerance", comparison.rows.len()),
        Some(name) => format!("first stage out of tolerance: {name}"),
    })?;
    Ok(())
}
