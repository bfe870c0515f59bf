//! `train`: a run by a configuration file.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value, json};
use train::{Options, Program, Summary, TrainConfig};

use crate::global::Global;
use crate::{interrupt, output};

/// Train a model as a configuration file says
///
/// Ctrl-C ends the run after its step with a checkpoint; --resume continues it bit for bit.
#[derive(Debug, clap::Args)]
pub(crate) struct TrainArgs {
    /// The run's configuration
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Continue from the newest checkpoint of the run folder
    #[arg(long)]
    resume: bool,
    /// Print the configuration with every default, and train nothing
    #[arg(long)]
    print_config: bool,
    /// Another value for a key of the configuration, as training.epochs=3. May be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

/// `KEY=VALUE` in two.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().into(), value.trim().into())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

pub(crate) fn run(args: &TrainArgs, global: &Global) -> Result<ExitCode> {
    let config = TrainConfig::from_file(&args.config, &args.set)?;
    if args.print_config {
        if global.json {
            output::json(&config)?;
        } else {
            output::text(&config.to_toml())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let device = global.device()?;
    interrupt::watch()?;
    let options = Options {
        device: Some(&device),
        resume: args.resume,
        stop: Some(interrupt::flag()),
        progress: true,
        program: Program { version: env!("CARGO_PKG_VERSION"), commit: option_env!("ROENTGEN_COMMIT") },
        on_step: Some(&|step| {
            tracing::info!(
                "step {} (epoch {:.2}): loss {:.4}, learning rate {:.3e}, gradient norm {:.3}, {:.0} tokens/s",
                step.step,
                step.epoch,
                step.loss,
                step.lr,
                step.grad_norm,
                step.tokens_per_second
            );
        }),
    };
    let summary = train::run(&config, &options)?;
    if global.json {
        output::json(&to_json(&summary, &config))?;
    } else {
        output::text(&text(&summary, &config))?;
    }
    Ok(if summary.stopped { interrupt::exit_code() } else { ExitCode::SUCCESS })
}

fn to_json(summary: &Summary, config: &TrainConfig) -> Value {
    json!({
        "out": config.out,
        "steps": summary.steps,
        "total_steps": summary.total_steps,
        "stopped": summary.stopped,
        "parameters": summary.parameters,
        "rows": summary.rows,
        "text_rows": summary.text_rows,
        "bad_rows": summary.bad.len(),
        "unlisted_rows": summary.unlisted,
        "loss": summary.loss,
        "validation_loss": summary.validation.as_ref().map(|v| v.loss),
        "validation_loss_without_case": summary.validation.as_ref().and_then(|v| v.loss_without_case),
        "model": summary.model,
    })
}

fn rows_text(summary: &Summary) -> String {
    let mut notes = vec![format!("{} could not be used", summary.bad.len())];
    if summary.unlisted > 0 {
        notes.push(format!("{} in no list", summary.unlisted));
    }
    if summary.text_rows > 0 {
        notes.push(format!("{} of text alone", summary.text_rows));
    }
    format!("{} ({})", summary.rows, notes.join(", "))
}

fn text(summary: &Summary, config: &TrainConfig) -> String {
    let mut rows = vec![
        ("steps", format!("{} of {}", summary.steps, summary.total_steps)),
        ("parameters", output::grouped(summary.parameters as u64)),
        ("rows", rows_text(summary)),
    ];
    if let Some(loss) = summary.loss {
        rows.push(("loss", format!("{loss:.4}")));
    }
    if let Some(validation) = &summary.validation {
        let without = validation.loss_without_case.map(|loss| format!(" ({loss:.4} without the case)"));
        rows.push(("validation", format!("{:.4}{}", validation.loss, without.unwrap_or_default())));
    }
    rows.push(match &summary.model {
        Some(folder) => ("model", folder.display().to_string()),
        None => ("stopped", format!("{}; --resume continues it", config.out.display())),
    });
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    output::table(&[("", output::Align::Left), ("", output::Align::Left)], &rows)
}
