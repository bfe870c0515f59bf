//! `merge`: an adapter folded into its model.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use engine::DType;
use model::lora::{MergedForm, merge_folder};

use crate::global::Global;
use crate::quantize::{FormArgs, progress, show};

/// Fold a LoRA adapter into its model
///
/// The folder that comes out needs no adapter. A model in 4 bits is expanded; with --dtype nf4 the layers that the
/// adapter changes are rounded again, which costs accuracy.
#[derive(Debug, clap::Args)]
pub(crate) struct MergeArgs {
    /// The model: a folder in Hugging Face layout
    model: PathBuf,
    /// The adapter: a folder as PEFT writes it
    adapter: PathBuf,
    /// The folder to write
    out: PathBuf,
    /// Type of the written weights
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = MergeType::Bf16)]
    dtype: MergeType,
    #[command(flatten)]
    form: FormArgs,
}

/// Type of merged weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MergeType {
    /// IEEE single precision
    F32,
    /// bfloat16
    Bf16,
    /// Linear layers in 4 bits: see --format, --block, --no-double and --skip
    Nf4,
}

pub(crate) fn run(args: &MergeArgs, global: &Global) -> Result<ExitCode> {
    global.processor_alone("merge")?;
    let form = match args.dtype {
        MergeType::F32 => MergedForm::Float(DType::F32),
        MergeType::Bf16 => MergedForm::Float(DType::BF16),
        MergeType::Nf4 => MergedForm::Quantized(args.form.config(), args.form.skip().to_vec()),
    };
    let bar = progress();
    let rows = merge_folder(&args.model, &args.adapter, &args.out, &form, &mut |total, name| {
        bar.set_length(total as u64);
        bar.set_message(name.to_owned());
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    show(&args.out, &rows, global)?;
    Ok(ExitCode::SUCCESS)
}
