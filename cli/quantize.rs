//! `quantize`: a model's linear layers into 4 bits.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use engine::{Codebook, QuantConfig};
use indicatif::{ProgressBar, ProgressStyle};
use model::export::QuantError;
use model::quantize::{SKIPPED, quantize_folder};
use serde::Serialize;

use crate::global::Global;
use crate::output::{self, Align};

/// Write a model's linear layers in 4 bits, as bitsandbytes does
///
/// The folder that comes out opens here and in transformers. Embeddings, norms, biases and the output projection stay as
/// they are.
#[derive(Debug, clap::Args)]
pub(crate) struct QuantizeArgs {
    /// A folder in Hugging Face layout, in f32, bf16 or f16
    model: PathBuf,
    /// The folder to write
    out: PathBuf,
    #[command(flatten)]
    form: FormArgs,
}

/// How layers are quantised.
#[derive(Debug, clap::Args)]
pub(crate) struct FormArgs {
    /// Table of values
    #[arg(long, value_name = "TABLE", value_enum, default_value_t = Format::Nf4)]
    format: Format,
    /// Weights that share a scale: a power of two from 32 to 4096
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = block)]
    block: usize,
    /// Keep the scales in f32 instead of quantising them too
    #[arg(long)]
    no_double: bool,
    /// Modules to leave as they are, by a part of their path; may be given several times
    #[arg(long, value_name = "MODULE", default_values_t = SKIPPED.map(str::to_owned))]
    skip: Vec<String>,
}

/// Table of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// 4-bit NormalFloat
    Nf4,
    /// 4-bit float
    Fp4,
}

fn block(text: &str) -> Result<usize, String> {
    let n = text.parse().ok().filter(|n: &usize| n.is_power_of_two() && (32..=4096).contains(n));
    n.ok_or_else(|| "expected a power of two from 32 to 4096".into())
}

impl FormArgs {
    pub(crate) fn config(&self) -> QuantConfig {
        let codebook = match self.format {
            Format::Nf4 => Codebook::Nf4,
            Format::Fp4 => Codebook::Fp4,
        };
        QuantConfig { codebook, block: self.block, double: !self.no_double }
    }

    pub(crate) fn skip(&self) -> &[String] {
        &self.skip
    }
}

#[derive(Serialize)]
struct Shown<'a> {
    out: &'a Path,
    bytes: u64,
    tensors: &'a [QuantError],
}

pub(crate) fn run(args: &QuantizeArgs, global: &Global) -> Result<ExitCode> {
    global.processor_alone("quantize")?;
    let bar = progress();
    let rows = quantize_folder(
        &args.model,
        &args.out,
        &args.form.config(),
        args.form.skip(),
        &mut |total, name| {
            bar.set_length(total as u64);
            bar.set_message(name.to_owned());
            bar.inc(1);
        },
    )?;
    bar.finish_and_clear();
    show(&args.out, &rows, global)?;
    Ok(ExitCode::SUCCESS)
}

/// A bar on stderr; nothing where that is no terminal.
pub(crate) fn progress() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} {msg}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The table of rounding errors, and the size of what was written.
pub(crate) fn show(out: &Path, rows: &[QuantError], global: &Global) -> Result<()> {
    let bytes = std::fs::metadata(out.join("model.safetensors"))?.len();
    if global.json {
        return output::json(&Shown { out, bytes, tensors: rows });
    }
    let head = [
        ("weight", Align::Left),
        ("shape", Align::Left),
        ("bytes", Align::Right),
        ("RMSE", Align::Right),
        ("largest", Align::Right),
        ("relative", Align::Right),
    ];
    let table: Vec<_> = rows
        .iter()
        .map(|row| {
            vec![
                row.name.clone(),
                format!("{:?}", row.shape),
                output::grouped(row.bytes as u64),
                format!("{:.3e}", row.rmse),
                format!("{:.3e}", row.max),
                format!("{:.4}", row.relative),
            ]
        })
        .collect();
    if !table.is_empty() {
        output::text(&output::table(&head, &table))?;
    }
    output::line(&format!("{}: {}", out.join("model.safetensors").display(), output::bytes(bytes)))
}
