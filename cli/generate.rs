//! `generate`: plain generation with every option of sampling.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use model::bundle::Bundle;
use model::generate::{Finish, Generation, Options, Prompt, Timings, generate};
use model::image::{DecodeOptions, Idefics3Processor, decode_file};
use model::prompt::{Message, Role};
use model::sample::Sampling;
use serde_json::{Value, json};

use crate::global::Global;
use crate::open::ModelArgs;
use crate::{interrupt, output, system};

/// Continue a prompt, or answer it
///
/// The prompt is continued as it stands; with --chat, --system or --image it goes through the model's chat
/// template. Several prompts are generated as one batch.
#[derive(Debug, clap::Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// The text; - reads stdin. May be given several times
    #[arg(long, required = true, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Vec<String>,
    /// An image (PNG, JPEG or WebP) that comes before the text of every prompt. May be given several times
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Put the prompt into the model's chat template
    #[arg(long)]
    chat: bool,
    /// What the system turn says before the prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens to write
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = positive)]
    max_new_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token
    #[arg(long, value_name = "T", default_value_t = 0.0, help_heading = "Sampling")]
    temperature: f32,
    /// Choose among the K likeliest tokens; 0 is off
    #[arg(long, value_name = "K", default_value_t = 0, help_heading = "Sampling")]
    top_k: usize,
    /// Choose among the likeliest tokens that sum to this probability; 1 is off
    #[arg(long, value_name = "P", default_value_t = 1.0, help_heading = "Sampling")]
    top_p: f32,
    /// Choose among tokens at least this fraction as likely as the likeliest; 0 is off
    #[arg(long, value_name = "P", default_value_t = 0.0, help_heading = "Sampling")]
    min_p: f32,
    /// Makes tokens that the text already has less likely; 1 is off
    #[arg(long, value_name = "R", default_value_t = 1.0, help_heading = "Sampling")]
    repetition_penalty: f32,
    /// Start of the random numbers
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Sampling")]
    seed: u64,
    /// A text that ends the answer, and is not part of it. May be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Print token ids instead of text
    #[arg(long)]
    ids: bool,
}

/// A number above zero, for clap.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(n) => Ok(n),
        Err(_) => Err("expected a whole number".into()),
    }
}

/// A finish reason as it stands in JSON.
pub(crate) fn finish_name(finish: &Finish) -> &'static str {
    match finish {
        Finish::StopToken(_) => "stop_token",
        Finish::StopText(_) => "stop_text",
        Finish::Length => "length",
        Finish::Cancelled => "cancelled",
    }
}

pub(crate) fn run(args: &GenerateArgs, global: &Global) -> Result<ExitCode> {
    let device = global.device()?;
    args.sampling().validate()?;
    let texts = args.texts()?;
    let bundle = args.model.open(&device)?;
    interrupt::watch()?;
    let started = Instant::now();
    let prompts = args.prompts(&bundle, &texts)?;
    let embedding = started.elapsed();
    let options = args.options(&bundle);
    // Several answers at once would mix their pieces: each is shown when all are there.
    let stream = prompts.len() == 1 && !global.json && !args.ids;
    let mut failed = None;
    let model = bundle.decoder();
    let generated = generate(model, Some(&bundle.tokenizer), &prompts, &options, &mut |_, piece| {
        if stream && failed.is_none() {
            failed = output::text(piece).err();
        }
        if failed.is_some() || interrupt::asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    let (answers, timings) = generated.map_err(|e| bundle.explain(e))?;
    if let Some(error) = failed {
        return Err(error);
    }
    if global.json {
        output::json(&result(&bundle, &prompts, &answers, embedding, &timings))?;
    } else if stream {
        output::text("\n")?;
    } else {
        show(&answers, args.ids)?;
    }
    log(&bundle, &answers, embedding, &timings);
    let cancelled = answers.iter().any(|answer| answer.finish == Finish::Cancelled);
    Ok(if cancelled { interrupt::exit_code() } else { ExitCode::SUCCESS })
}

impl GenerateArgs {
    fn sampling(&self) -> Sampling {
        let filters = self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0;
        if self.temperature == 0.0 && filters {
            tracing::warn!("--top-k, --top-p and --min-p do nothing at temperature 0; give --temperature");
        }
        Sampling {
            repetition_penalty: self.repetition_penalty,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
        }
    }

    fn options(&self, bundle: &Bundle) -> Options {
        Options {
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling(),
            seed: self.seed,
            stop_tokens: bundle.stop_tokens(),
            stop: self.stop.clone(),
        }
    }

    /// The prompts, stdin in the place of `-`.
    fn texts(&self) -> Result<Vec<String>> {
        let from_stdin = self.prompt.iter().filter(|text| *text == "-").count();
        ensure!(from_stdin <= 1, "--prompt -: stdin can be read once only");
        let mut texts = self.prompt.clone();
        if let Some(text) = texts.iter_mut().find(|text| *text == "-") {
            text.clear();
            std::io::stdin()
                .read_to_string(text)
                .context("--prompt -: stdin cannot be read as UTF-8 text")?;
        }
        Ok(texts)
    }

    fn prompts(&self, bundle: &Bundle, texts: &[String]) -> Result<Vec<Prompt>> {
        if !(self.chat || self.system.is_some() || !self.image.is_empty()) {
            return Ok(texts.iter().map(|text| bundle.raw_prompt(text)).collect::<Result<_, _>>()?);
        }
        let decode = |path: &PathBuf| decode_file(path, &DecodeOptions::default());
        let images = self.image.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
        ensure!(
            images.is_empty() || bundle.processor.is_some(),
            "{}: a text model takes no --image",
            bundle.origin
        );
        let cut = |processor| images.iter().map(move |image| Idefics3Processor::process(processor, image));
        let tiles: Vec<_> = bundle.processor.iter().flat_map(cut).collect();
        let system = self.system.iter().map(|text| Message::text(Role::System, text));
        let system: Vec<_> = system.collect();
        let prompt = |text: &String| {
            let mut messages = system.clone();
            messages.push(Message::user(tiles.len(), text));
            bundle.prompt(&messages, &tiles)
        };
        Ok(texts.iter().map(prompt).collect::<Result<_, _>>()?)
    }
}

fn show(answers: &[Generation], ids: bool) -> Result<()> {
    for (i, answer) in answers.iter().enumerate() {
        if answers.len() > 1 && !ids {
            output::line(&format!("[{i}]"))?;
        }
        if ids {
            let ids: Vec<_> = answer.ids.iter().map(u32::to_string).collect();
            output::line(&ids.join(" "))?;
        } else {
            output::line(&answer.text)?;
        }
    }
    Ok(())
}

fn result(
    bundle: &Bundle,
    prompts: &[Prompt],
    answers: &[Generation],
    embedding: Duration,
    timings: &Timings,
) -> Value {
    let answer = |(prompt, answer): (&Prompt, &Generation)| {
        let stop = match &answer.finish {
            Finish::StopToken(id) => json!(id),
            Finish::StopText(text) => json!(text),
            Finish::Length | Finish::Cancelled => Value::Null,
        };
        json!({
            "prompt_ids": prompt.ids,
            "ids": answer.ids,
            "text": answer.text,
            "finish": finish_name(&answer.finish),
            "stop": stop,
        })
    };
    json!({
        "model": bundle.origin,
        "answers": prompts.iter().zip(answers).map(answer).collect::<Vec<_>>(),
        "timings": {
            "embedding_s": embedding.as_secs_f64(),
            "prompt_tokens": timings.prompt_tokens,
            "prefill_s": timings.prefill.as_secs_f64(),
            "prefill_tokens_per_s": timings.prefill_rate(),
            "decode_steps": timings.decode_steps,
            "decode_s": timings.decode.as_secs_f64(),
            "decode_tokens_per_s": timings.decode_rate(),
        },
        "peak_memory": {
            "process_bytes": system::peak_resident(),
            "tensor_bytes": bundle.device().memory().total().peak,
        },
    })
}

/// Times, rates and memory, with `-v`.
fn log(bundle: &Bundle, answers: &[Generation], embedding: Duration, timings: &Timings) {
    tracing::info!(
        "embedding (with images) {:.3} s; {} prompt tokens {:.3} s, {:.1} tokens/s",
        embedding.as_secs_f64(),
        timings.prompt_tokens,
        timings.prefill.as_secs_f64(),
        timings.prefill_rate()
    );
    if let Some(rate) = timings.decode_rate() {
        tracing::info!(
            "{} decode steps, {} at a time: {rate:.1} tokens/s each",
            timings.decode_steps,
            answers.len()
        );
    }
    let process = system::peak_resident().map_or_else(|| "unknown".into(), output::bytes);
    let tensors = output::bytes(bundle.device().memory().total().peak as u64);
    tracing::info!("peak memory: process {process}, tensors {tensors}");
}
