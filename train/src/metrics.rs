//! `metrics.jsonl`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use engine::weights::replace_file;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A training step.
    Step(StepRecord),
    /// A measurement on the validation rows.
    Validation(ValidationRecord),
}

/// A training step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// From 1.
    pub step: usize,
    /// Epochs done, with the part of the current one.
    pub epoch: f64,
    /// Mean loss of the tokens that count.
    pub loss: f64,
    /// Rate of the step.
    pub lr: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Tokens of the step, image places included, padding not.
    pub tokens: usize,
    /// The same, a second.
    pub tokens_per_second: f64,
    /// Most bytes that tensors held so far.
    pub peak_memory: usize,
}

/// A measurement on the validation rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Steps done.
    pub step: usize,
    /// Mean loss of the tokens that count.
    pub loss: f64,
    /// The same with all clinical cases left out, where training leaves some out.
    pub loss_without_case: Option<f64>,
}

impl Record {
    /// Steps done when it was made.
    pub fn step(&self) -> usize {
        match self {
            Self::Step(record) => record.step,
            Self::Validation(record) => record.step,
        }
    }
}

/// The file and what is in it.
pub struct Metrics {
    folder: PathBuf,
    file: File,
    records: Vec<Record>,
}

impl Metrics {
    /// Opens `metrics.jsonl` in `folder` and keeps its lines up to step `from`: a run that continues writes the
    /// later ones again.
    pub fn open(folder: &Path, from: usize) -> Result<Self> {
        let path = folder.join("metrics.jsonl");
        let records: Vec<Record> = match fs::read_to_string(&path) {
            // A line that was cut off by a crash does not parse and goes.
            Ok(text) => text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(&path, "read", e)),
        };
        let records: Vec<Record> = records.into_iter().filter(|r| r.step() <= from).collect();
        replace_file(&path, |file| {
            let text: String = records.iter().map(line).collect();
            file.write_all(text.as_bytes()).map_err(|source| engine::weights::WeightError::Io {
                path: path.clone(),
                action: "write",
                source,
            })
        })?;
        let file = OpenOptions::new().append(true).open(&path).map_err(|e| Error::io(&path, "open", e))?;
        Ok(Self { folder: folder.to_owned(), file, records })
    }

    /// Adds a line.
    pub fn add(&mut self, record: Record) -> Result<()> {
        let path = || self.folder.join("metrics.jsonl");
        self.file.write_all(line(&record).as_bytes()).map_err(|e| Error::io(&path(), "write", e))?;
        self.records.push(record);
        Ok(())
    }

    /// All records.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

fn line(record: &Record) -> String {
    // Numbers and texts only: always JSON.
    serde_json::to_string(record).map(|json| json + "\n").unwrap_or_default()
}

/// Writes a file beside and renames it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(replace_file(path, |file| {
        file.write_all(bytes).map_err(|source| engine::weights::WeightError::Io {
            path: path.to_owned(),
            action: "write",
            source,
        })
    })?)
}
