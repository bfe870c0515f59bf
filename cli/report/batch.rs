//! Many images: one JSON object a line, with progress; a broken image does not end the run.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use engine::Device;
use indicatif::{ProgressBar, ProgressStyle};
use model::generate::Finish;
use serde_json::{Value, json};

use super::ReportArgs;
use super::lines::Lines;
use super::reader::{Failure, Reader};
use crate::{interrupt, output};

pub(super) fn run(
    args: &ReportArgs,
    images: &[PathBuf],
    case: Option<String>,
    device: &Device,
) -> Result<ExitCode> {
    // The file first: no model is opened for an output that cannot be written.
    let mut lines = args.out.as_deref().map(|path| Lines::open(path, args.resume)).transpose()?;
    let todo: Vec<&Path> = images
        .iter()
        .map(PathBuf::as_path)
        .filter(|image| lines.as_ref().is_none_or(|lines| !lines.has(&image.display().to_string())))
        .collect();
    if todo.len() < images.len() {
        tracing::warn!("{} of {} images have a report already", images.len() - todo.len(), images.len());
    }
    if todo.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let bundle = args.model.open(device)?;
    let reader = Reader::new(&bundle, case, args.max_new_tokens)?;
    if let Some(lines) = &lines {
        lines.check_model(&bundle.origin)?;
    }
    let bar = progress(todo.len());
    let (mut failed, mut incomplete) = (0, 0);
    for path in &todo {
        bar.set_message(path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default());
        let line = match reader.read(path, &mut |_| ControlFlow::Continue(())) {
            Ok(answer) if answer.finish == Finish::Cancelled => break,
            Ok(answer) => {
                incomplete += usize::from(!answer.parsed.complete());
                answer.to_json(&bundle)
            }
            Err(Failure::Image(error)) => {
                failed += 1;
                let error = output::chain(&error);
                bar.suspend(|| tracing::warn!("{error}"));
                json!({ "file": path.display().to_string(), "model": bundle.origin, "error": error })
            }
            Err(Failure::Model(error)) => {
                bar.finish_and_clear();
                return Err(error);
            }
        };
        bar.suspend(|| write(lines.as_mut(), &line))?;
        bar.inc(1);
        if interrupt::asked() {
            break;
        }
    }
    let done = bar.position();
    bar.finish_and_clear();
    if incomplete > 0 {
        tracing::warn!("{incomplete} of {done} answers lack a field (see `missing` and `unreadable`)");
    }
    if failed > 0 {
        anyhow::bail!("{failed} of {} images could not be read; their lines have an `error`", todo.len());
    }
    if interrupt::asked() {
        let go_on = if args.out.is_some() { "; --resume goes on" } else { "" };
        tracing::warn!("ended by Ctrl-C after {done} of {} images{go_on}", todo.len());
        return Ok(interrupt::exit_code());
    }
    Ok(ExitCode::SUCCESS)
}

fn write(lines: Option<&mut Lines>, value: &Value) -> Result<()> {
    match lines {
        Some(lines) => lines.push(value),
        None => output::line(&value.to_string()),
    }
}

/// A bar on stderr; nothing where stderr is no terminal.
fn progress(images: usize) -> ProgressBar {
    let bar = ProgressBar::new(images as u64);
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} images, {eta} left  {wide_msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
