//! `convert`: a model into a Hugging Face folder.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use engine::DType;
use model::convert::{Conversion, Graft, convert};
use serde_json::json;

use crate::global::Global;
use crate::open::FloatType;
use crate::output;
use crate::quantize::progress;

/// Convert a GGUF file or a folder into a Hugging Face folder
///
/// With --into, a text decoder becomes that of a vision-language model whose vision tower, connector and new vocabulary
/// rows are random: a start for training where the published weights cannot be had.
#[derive(Debug, clap::Args)]
pub(crate) struct ConvertArgs {
    /// A .gguf file or a folder in Hugging Face layout
    model: PathBuf,
    /// The folder to write
    out: PathBuf,
    /// Type of the written weights
    #[arg(long, value_name = "TYPE", value_enum, default_value_t = FloatType::Bf16)]
    dtype: FloatType,
    /// Put the decoder into the shape of this published model, as smolvlm-256m
    #[arg(long, value_name = "MODEL")]
    into: Option<String>,
    /// Of the random parts
    #[arg(long, value_name = "N", default_value_t = 0, requires = "into")]
    seed: u64,
}

pub(crate) fn run(args: &ConvertArgs, global: &Global) -> Result<ExitCode> {
    global.processor_alone("convert")?;
    let into = args.into.as_ref().map(|shape| Graft { shape: shape.clone(), seed: args.seed });
    let how = Conversion { dtype: DType::from(args.dtype), into };
    let bar = progress();
    let mut tensors = 0;
    convert(&args.model, &args.out, &how, &mut |total, name| {
        tensors = total;
        bar.set_length(total as u64);
        bar.set_message(name.to_owned());
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    let bytes = std::fs::metadata(args.out.join("model.safetensors"))?.len();
    if global.json {
        output::json(&json!({ "out": args.out, "tensors": tensors, "bytes": bytes }))?;
    } else {
        output::line(&format!("{}: {tensors} tensors, {}", args.out.display(), output::bytes(bytes)))?;
    }
    Ok(ExitCode::SUCCESS)
}
