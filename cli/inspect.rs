//! `inspect`: what a model is, how large, and what it costs, with or without its weights.

mod plan;
mod source;
mod text;

use std::process::ExitCode;

use anyhow::Result;
use model::config::{Config, ParameterCount, Part, TensorShape, Work};
use model::image::{Grid, Idefics3Processor, Plan};
use serde::Serialize;

use crate::global::Global;
use crate::inspect::source::Source;
use crate::open::FloatType;
use crate::output;
use crate::quantize::Format;

/// Show a model's architecture, parameters, memory and work
///
/// Works from the sizes alone; where weights are there, their names and shapes are checked too.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// A model's folder, a .gguf file, a config.json, or the name of a published model
    /// [default: the demonstration model of this program]
    model: Option<String>,
    /// Size of the image to plan for
    #[arg(long, value_name = "WxH", default_value = "2544x3056")]
    image: ImageSize,
    /// Tokens of the prompt besides the image features: tags, instruction, case
    #[arg(long, value_name = "N", default_value_t = 256)]
    text_tokens: u32,
    /// Type of weights and cache in the memory plan [default: as the configuration says, else bf16]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<FloatType>,
    /// An adapter to plan for: a TOML or JSON file with PEFT's keys, or `paper`
    #[arg(long, value_name = "CONFIG")]
    lora: Option<String>,
    /// Plan for linear layers in 4 bits; with --lora also the memory of a training step
    #[arg(long, value_name = "TABLE", value_enum)]
    quantize: Option<Format>,
    /// Samples of a training step
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Tokens of a sample that the loss counts [default: those of --text-tokens]
    #[arg(long, value_name = "N")]
    counted: Option<u32>,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

/// `WIDTHxHEIGHT` in pixels.
#[derive(Clone, Copy, Debug)]
struct ImageSize {
    width: usize,
    height: usize,
}

impl std::str::FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let edge = |text: &str| text.trim().parse::<usize>().ok().filter(|n| (1..=1 << 20).contains(n));
        text.split_once(['x', 'X', '×'])
            .and_then(|(width, height)| Some(Self { width: edge(width)?, height: edge(height)? }))
            .ok_or_else(|| "expected WIDTHxHEIGHT in pixels, as 2544x3056".into())
    }
}

/// Everything that is shown; its JSON is the result with `--json`.
#[derive(Serialize)]
struct Inspection {
    origin: String,
    config: Config,
    parts: Vec<PartSize>,
    total: PartSize,
    memory: Memory,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImagePlan>,
    prefill: Prefill,
    decode_per_token: Work,
    /// What the file has otherwise than the configuration; `None` without a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<source::FileCheck>,
    #[serde(flatten)]
    plans: plan::Plans,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<TensorShape>>,
}

#[derive(Serialize)]
struct PartSize {
    part: &'static str,
    tensors: usize,
    parameters: u64,
    f32_bytes: u64,
    bf16_bytes: u64,
}

#[derive(Serialize)]
struct Memory {
    dtype: &'static str,
    weight_bytes: u64,
    kv_cache_bytes_per_token: u64,
    kv_cache_bytes_of_prompt: u64,
}

#[derive(Serialize)]
struct ImagePlan {
    width: usize,
    height: usize,
    rows: usize,
    cols: usize,
    tiles: u64,
    tokens_per_tile: u64,
    tokens: u64,
    vision: Work,
    connector: u64,
}

#[derive(Serialize)]
struct Prefill {
    image_tokens: u64,
    text_tokens: u64,
    tokens: u64,
    decoder: Work,
    head: u64,
    /// Vision, connector, decoder and the head on the last token.
    total_flops: u64,
}

pub(crate) fn run(args: &InspectArgs, global: &Global) -> Result<ExitCode> {
    global.processor()?;
    let source = Source::find(args.model.as_deref())?;
    let fits = source.file.as_ref().is_none_or(source::FileCheck::fits);
    let inspection = Inspection::new(source, args)?;
    if global.json {
        output::json(&inspection)?;
    } else {
        output::text(&inspection.text())?;
    }
    if !fits {
        anyhow::bail!("{}: the weights do not fit the configuration", inspection.origin);
    }
    Ok(ExitCode::SUCCESS)
}

impl Inspection {
    fn new(source: Source, args: &InspectArgs) -> Result<Self> {
        let config = source.config;
        let tensors = config.tensors();
        let image = match (&config.image, source.preprocessor) {
            (Some(_), Some(settings)) => {
                let processor = Idefics3Processor::new(settings, &source.origin)?;
                Some(ImagePlan::new(
                    &config,
                    args.image,
                    &processor.plan(args.image.width, args.image.height),
                ))
            }
            _ => None,
        };
        let (tiles, image_tokens) = image.as_ref().map_or((0, 0), |image| (image.tiles, image.tokens));
        let text_tokens = u64::from(args.text_tokens);
        let tokens = image_tokens + text_tokens;
        let decoder = config.prefill_work(tokens);
        let head = config.head_work();
        let dtype = args.dtype.unwrap_or(source.dtype);
        let (name, width) = match dtype {
            FloatType::F32 => ("f32", 4),
            FloatType::Bf16 => ("bf16", 2),
        };
        let total = config.parameter_count().total();
        let per_token = config.kv_cache_bytes_per_token(width);
        Ok(Self {
            parts: parts(&config.parameter_count(), &tensors),
            total: PartSize::new("total", tensors.len(), total),
            memory: Memory {
                dtype: name,
                weight_bytes: total * width,
                kv_cache_bytes_per_token: per_token,
                kv_cache_bytes_of_prompt: per_token * tokens,
            },
            prefill: Prefill {
                image_tokens,
                text_tokens,
                tokens,
                decoder,
                head,
                total_flops: config.vision_work(tiles).total()
                    + config.connector_work(tiles)
                    + decoder.total()
                    + head,
            },
            decode_per_token: config.decode_work(tokens),
            plans: plan::Plans::new(&config, args, tiles, tokens)?,
            image,
            file: source.file,
            tensors: args.tensors.then_some(tensors),
            origin: source.origin,
            config,
        })
    }
}

impl ImagePlan {
    fn new(config: &Config, size: ImageSize, plan: &Plan) -> Self {
        let Grid { rows, cols } = plan.grid;
        let tiles = plan.grid.tiles() as u64;
        let tokens_per_tile = config.image.as_ref().map_or(0, |image| image.tokens_per_tile() as u64);
        Self {
            width: size.width,
            height: size.height,
            rows,
            cols,
            tiles,
            tokens_per_tile,
            tokens: tiles * tokens_per_tile,
            vision: config.vision_work(tiles),
            connector: config.connector_work(tiles),
        }
    }
}

impl PartSize {
    fn new(part: &'static str, tensors: usize, parameters: u64) -> Self {
        Self { part, tensors, parameters, f32_bytes: 4 * parameters, bf16_bytes: 2 * parameters }
    }
}

/// The parts that a model has, in the order of the forward pass.
fn parts(count: &ParameterCount, tensors: &[TensorShape]) -> Vec<PartSize> {
    let all = [
        (Part::Vision, "vision", count.vision),
        (Part::Connector, "connector", count.connector),
        (Part::Embedding, "embedding", count.embedding),
        (Part::Decoder, "decoder", count.decoder),
        (Part::Head, "head", count.head),
    ];
    all.into_iter()
        .filter(|(_, _, parameters)| *parameters > 0)
        .map(|(part, name, parameters)| {
            PartSize::new(name, tensors.iter().filter(|t| t.part == part).count(), parameters)
        })
        .collect()
}
