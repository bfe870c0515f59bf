//! `report`: the structured report of a chest X-ray.

mod batch;
mod lines;
mod reader;

use std::fs;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use model::generate::Finish;
use model::prompt::report::{CASE_LIMIT, Field, Parsed};

use crate::global::Global;
use crate::open::ModelArgs;
use crate::output::{self, Align};
use crate::report::reader::{Answer, Reader};
use crate::{interrupt, system};

/// Write the structured report of a chest X-ray, or of many
///
/// One image: the answer as it is written, then its four fields as a table, or with --json one object.
/// Several images or a folder: one JSON object a line.
#[derive(Debug, clap::Args)]
pub(crate) struct ReportArgs {
    /// PNG, JPEG or WebP files, or folders of them
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// The clinical case: what is known besides the image (the first 500 characters are read)
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// The clinical case from a text file
    #[arg(long, value_name = "FILE", conflicts_with = "case")]
    case_file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = crate::generate::positive)]
    max_new_tokens: usize,
    /// Write the lines to this file instead of stdout
    #[arg(long, value_name = "FILE.jsonl")]
    out: Option<PathBuf>,
    /// Go on with the file of --out: only images without a report in it are read
    #[arg(long, requires = "out")]
    resume: bool,
}

pub(crate) fn run(args: &ReportArgs, global: &Global, started: Instant) -> Result<ExitCode> {
    let device = global.device()?;
    let case = args.clinical_case()?;
    let images = find_images(&args.images)?;
    let many = args.out.is_some() || args.images.len() > 1 || args.images[0].is_dir();
    interrupt::watch()?;
    if many {
        return batch::run(args, &images, case, &device);
    }
    let bundle = args.model.open(&device)?;
    let reader = Reader::new(&bundle, case, args.max_new_tokens)?;
    tracing::info!("ready after {:.3} s", started.elapsed().as_secs_f64());
    single(&reader, &images[0], global, started)
}

impl ReportArgs {
    fn clinical_case(&self) -> Result<Option<String>> {
        let text = match (&self.case, &self.case_file) {
            (Some(text), _) => text.clone(),
            (None, Some(path)) => read_text(path).with_context(|| {
                format!("{}: the clinical case cannot be read as UTF-8 text", path.display())
            })?,
            (None, None) => return Ok(None),
        };
        let length = text.trim().chars().count();
        if length > CASE_LIMIT {
            tracing::warn!("the clinical case has {length} characters; the first {CASE_LIMIT} are read");
        }
        Ok(Some(text))
    }
}

/// Bytes of a clinical case that are looked at; far more than the model reads.
const LONGEST_CASE: u64 = 1 << 20;

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(LONGEST_CASE).read_to_string(&mut text)?;
    Ok(text)
}

/// One image: streamed to a terminal, then as a table; or as one JSON object.
fn single(reader: &Reader<'_>, path: &Path, global: &Global, started: Instant) -> Result<ExitCode> {
    let stream = output::to_terminal() && !global.json;
    let mut first = true;
    let mut failed = None;
    let answer = reader.read(path, &mut |piece| {
        if first {
            first = false;
            tracing::info!("first token {:.3} s after the start", started.elapsed().as_secs_f64());
            if stream {
                failed = output::text(piece.trim_start()).err();
            }
        } else if stream {
            failed = output::text(piece).err();
        }
        if failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if global.json {
        output::json(&answer.to_json(reader.bundle()))?;
    } else {
        if stream {
            output::text("\n\n")?;
        }
        output::text(&table(&answer.parsed))?;
    }
    log(&answer, reader);
    match answer.finish {
        Finish::Cancelled => {
            tracing::warn!("ended by Ctrl-C; the report is what was written until then");
            Ok(interrupt::exit_code())
        }
        Finish::Length => {
            tracing::warn!(
                "the answer was cut after {} tokens; --max-new-tokens gives it more",
                answer.tokens
            );
            Ok(ExitCode::SUCCESS)
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Times, rates and memory, with `-v`.
fn log(answer: &Answer, reader: &Reader<'_>) {
    let times = &answer.times;
    tracing::info!(
        "image {:.3} s, vision {:.3} s, {} prompt tokens {:.3} s; first token after {:.3} s",
        times.image.as_secs_f64(),
        times.vision.as_secs_f64(),
        times.generation.prompt_tokens,
        times.generation.prefill.as_secs_f64(),
        times.first_token().as_secs_f64()
    );
    if let Some(rate) = times.generation.decode_rate() {
        tracing::info!("{} tokens, {rate:.1} tokens/s", answer.tokens);
    }
    let tensors = reader.bundle().device().memory().total().peak as u64;
    let process = system::peak_resident().map_or_else(|| "unknown".into(), output::bytes);
    tracing::info!("peak memory: process {process}, tensors {}", output::bytes(tensors));
}

/// The four fields, one a line.
fn table(parsed: &Parsed) -> String {
    let report = &parsed.report;
    let value = |field: Field| match field {
        Field::Labels => Some(report.labels.join(", ")).filter(|labels| !labels.is_empty()),
        Field::Gender => report.gender.clone(),
        Field::Age => report.age.map(|age| format!("{age:.1}")),
        Field::Caption => report.caption.clone(),
    };
    let cell = |field: Field| {
        if parsed.missing.contains(&field) {
            "(not in the answer)".into()
        } else if let Some((_, text)) = parsed.unreadable.iter().find(|(f, _)| *f == field) {
            format!("(not readable: {text})")
        } else {
            value(field).unwrap_or_else(|| "unknown".into())
        }
    };
    let rows: Vec<_> = Field::ALL.iter().map(|&field| vec![field.name().to_owned(), cell(field)]).collect();
    output::table(&[("", Align::Left), ("", Align::Left)], &rows)
}

/// The images that were named, those of a folder in the order of their names.
fn find_images(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for path in paths {
        let kind = fs::metadata(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        if kind.is_dir() {
            let before = images.len();
            images.extend(images_in(path)?);
            ensure!(images.len() > before, "{}: no PNG, JPEG or WebP image in this folder", path.display());
        } else {
            images.push(path.clone());
        }
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = images.iter().find(|image| !seen.insert(*image)) {
        bail!("{}: named twice; each image gives one line", twice.display());
    }
    Ok(images)
}

/// Files of a folder that begin as PNG, JPEG or WebP do, whatever their names end with.
fn images_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("{}: the folder cannot be read", folder.display());
    let mut images = Vec::new();
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        if path.is_file() && (has_image_name(&path) || begins_as_image(&path)) {
            images.push(path);
        }
    }
    images.sort();
    Ok(images)
}

/// A file that is named as an image is taken even if it is none: its line then says what is wrong.
fn has_image_name(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    ["png", "jpg", "jpeg", "webp"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

fn begins_as_image(path: &Path) -> bool {
    let mut head = [0; 12];
    let Ok(mut file) = fs::File::open(path) else { return false };
    file.read_exact(&mut head).is_ok()
        && (head.starts_with(b"\x89PNG\r\n\x1a\n")
            || head.starts_with(b"\xff\xd8\xff")
            || (head.starts_with(b"RIFF") && head.ends_with(b"WEBP")))
}
