//! A few reports in the course of training: what the loss does not show.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use model::generate::{Options, Prompt, generate};
use model::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};

use crate::data::sample::{Reader, Sample};
use crate::error::{Error, Result};
use crate::metrics::write;
use crate::trainer::Trainer;

/// A line of `samples/step-000120.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Id of the row.
    pub id: String,
    /// Its answer.
    pub expected: String,
    /// The model's, greedily.
    pub generated: String,
}

/// How answers end.
pub(crate) struct Endings {
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) most_tokens: usize,
}

/// Answers to `samples` as the model stands.
///
/// # Errors
/// If an image cannot be read any more or the model fails.
pub(crate) fn answer(
    trainer: &Trainer<'_>,
    tokenizer: &Tokenizer,
    reader: &Reader<'_>,
    samples: &[Sample],
    endings: &Endings,
) -> Result<Vec<Report>> {
    let options = Options {
        max_new_tokens: endings.most_tokens,
        stop_tokens: endings.stop_tokens.clone(),
        ..Options::default()
    };
    let one = |sample: &Sample| {
        let example = sample.example(true);
        let ids = example.ids[..example.answer_start].to_vec();
        let sight: Vec<_> = reader.sight(sample, None)?.into_iter().collect();
        let embeds = engine::no_grad(|| trainer.embed(&ids, 1, &sight))?;
        let prompt = Prompt { embeds, ids };
        let decoder = trainer.network.decoder();
        let (mut answers, _) =
            generate(decoder, Some(tokenizer), &[prompt], &options, &mut |_, _| ControlFlow::Continue(()))?;
        let generated = answers.pop().map(|a| a.text.trim().to_owned()).unwrap_or_default();
        Ok(Report { id: sample.id.clone(), expected: sample.answer.clone(), generated })
    };
    samples.iter().map(one).collect()
}

fn path(out: &Path, step: usize) -> PathBuf {
    out.join("samples").join(format!("step-{step:06}.jsonl"))
}

/// Writes the reports after `step`.
pub(crate) fn save(out: &Path, step: usize, reports: &[Report]) -> Result<()> {
    let path = path(out, step);
    let folder = out.join("samples");
    fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create", e))?;
    // Texts only: always JSON.
    let lines: String =
        reports.iter().filter_map(|r| serde_json::to_string(r).ok()).map(|json| json + "\n").collect();
    write(&path, lines.as_bytes())
}

/// All reports of a run by step, oldest first; a file that is no such thing is left out.
pub(crate) fn read(out: &Path) -> Vec<(usize, Vec<Report>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(out.join("samples")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let step =
            name.strip_prefix("step-").and_then(|n| n.strip_suffix(".jsonl")).and_then(|n| n.parse().ok());
        let (Some(step), Ok(text)) = (step, fs::read_to_string(entry.path())) else { continue };
        let reports = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        all.push((step, reports));
    }
    all.sort_by_key(|(step, _)| *step);
    all
}

/// Removes reports after step `from`: a run that continues writes them again.
pub(crate) fn forget(out: &Path, from: usize) -> Result<()> {
    for (step, _) in read(out).into_iter().filter(|(step, _)| *step > from) {
        let path = path(out, step);
        fs::remove_file(&path).map_err(|e| Error::io(&path, "remove", e))?;
    }
    Ok(())
}
