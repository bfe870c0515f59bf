//! The evaluation of a run: reports of the base and of the tuned model on one part of the data, scored side by side.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use engine::Device;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::answer::{Answer, Answerer};
use super::page::{Example, page};
use super::predictions::{AnswerFile, Line};
use super::{Inputs, Prediction, Row, Scoring, SystemSpec, Tables, open_system};
use crate::config::TrainConfig;
use crate::data::{Cases, Split};
use crate::error::{Error, Result};
use crate::metrics::write;

/// The paper's Table III, base model (spec smolvlm §8). Which implementations it used is not stated.
pub const PAPER_BASE: [(&str, f64); 8] = [
    ("ROUGE-1", 0.154_92),
    ("ROUGE-2", 0.046_85),
    ("ROUGE-L", 0.128_45),
    ("BLEU", 0.019_42),
    ("METEOR", 0.141_99),
    ("BERTScore P", 0.828_58),
    ("BERTScore R", 0.813_84),
    ("BERTScore F1", 0.820_36),
];

/// The same, fine-tuned model.
pub const PAPER_TUNED: [(&str, f64); 8] = [
    ("ROUGE-1", 0.582_34),
    ("ROUGE-2", 0.540_41),
    ("ROUGE-L", 0.580_47),
    ("BLEU", 0.378_54),
    ("METEOR", 0.450_04),
    ("BERTScore P", 0.974_21),
    ("BERTScore R", 0.904_36),
    ("BERTScore F1", 0.9375),
];

/// What is evaluated, and how.
pub struct Evaluation<'a> {
    /// The run.
    pub config: &'a TrainConfig,
    /// The part of the data.
    pub split: Split,
    /// At most so many rows, the first of the part.
    pub limit: Option<usize>,
    /// The model before training; `None`: the tuned one stands alone.
    pub base: Option<SystemSpec>,
    /// The model after training.
    pub tuned: SystemSpec,
    /// Folder of the results.
    pub out: PathBuf,
    /// Most tokens of an answer.
    pub longest: usize,
    /// Continue an evaluation that was stopped.
    pub resume: bool,
    /// Rows that the page shows.
    pub examples: usize,
    /// Metrics.
    pub scoring: Scoring,
    /// When this becomes true the run ends after the answer in work (Ctrl-C).
    pub stop: Option<&'a AtomicBool>,
    /// Draw a progress bar on stderr.
    pub progress: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Everything is written.
    Done(Box<Results>),
    /// It was stopped; so many answers are missing.
    Stopped {
        /// Answers that are missing, of both models.
        missing: usize,
    },
}

/// The results of an evaluation.
#[derive(Clone, Debug)]
pub struct Results {
    /// Scores.
    pub tables: Tables,
    /// Rows scored.
    pub rows: usize,
    /// Rows without an answer, with the reason: ids and words.
    pub failed: Vec<(String, String)>,
    /// Rows of the data that could not be used at all.
    pub bad_rows: usize,
    /// The page.
    pub page: PathBuf,
}

/// One model's answers.
struct Answers {
    name: &'static str,
    lines: HashMap<String, Line>,
}

impl Evaluation<'_> {
    /// Generates, scores and writes `base.jsonl`, `tuned.jsonl`, `table.json` and `index.html` into the folder.
    ///
    /// # Errors
    /// If the data, a model or a file cannot be used.
    pub fn run(self, device: &Device) -> Result<Outcome> {
        let all = Cases::read(&self.config.data)?;
        for bad in &all.bad {
            tracing::warn!("bad row left out: {bad}");
        }
        let data = &self.config.data;
        let rows: Vec<Row> = all
            .of(self.split)
            .take(self.limit.unwrap_or(usize::MAX))
            .map(|case| Row::of(case, &data.instruction, data.limit()))
            .collect();
        if rows.is_empty() {
            return Err(Error::Data(format!("the data have no rows of the part {:?}", self.split)));
        }
        std::fs::create_dir_all(&self.out).map_err(|e| Error::io(&self.out, "create", e))?;
        let systems = self.base.iter().map(|spec| ("base", spec)).chain([("tuned", &self.tuned)]);
        let systems: Vec<(&'static str, &SystemSpec)> = systems.collect();
        // Both files first: no model is opened for a file that cannot be written.
        let mut files = Vec::new();
        for &(name, spec) in &systems {
            let path = self.out.join(format!("{name}.jsonl"));
            files.push(AnswerFile::open(&path, self.resume, &spec.origin(), &rows)?);
        }
        let todo = |file: &AnswerFile| rows.iter().filter(|row| !file.has(&row.id)).count();
        let bar = self.bar(files.iter().map(todo).sum());
        for ((name, spec), file) in systems.iter().zip(&mut files) {
            if todo(file) > 0 && !self.stopped() {
                bar.set_message(format!("{name}: {}", spec.origin()));
                self.answer(spec, &rows, file, &bar, device)?;
            }
        }
        bar.finish_and_clear();
        let answers: Vec<Answers> = (systems.iter().zip(files))
            .map(|((name, _), file)| Answers {
                name,
                lines: file.into_lines().into_iter().map(|line| (line.id.clone(), line)).collect(),
            })
            .collect();
        let missing =
            answers.iter().flat_map(|a| rows.iter().filter(|row| !a.lines.contains_key(&row.id))).count();
        if missing > 0 {
            return Ok(Outcome::Stopped { missing });
        }
        self.finish(&rows, &answers, all.bad.len()).map(|results| Outcome::Done(Box::new(results)))
    }

    fn bar(&self, length: usize) -> ProgressBar {
        let target = if self.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} reports, {eta} left  {wide_msg}");
        ProgressBar::with_draw_target(Some(length as u64), target)
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    }

    fn stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// The answers of one model that its file lacks.
    fn answer(
        &self,
        spec: &SystemSpec,
        rows: &[Row],
        file: &mut AnswerFile,
        bar: &ProgressBar,
        device: &Device,
    ) -> Result<()> {
        let bundle = open_system(spec, device)?;
        let answerer = Answerer::new(&bundle, self.longest, self.stop);
        for row in rows {
            if file.has(&row.id) {
                continue;
            }
            let mut line = Line {
                id: row.id.clone(),
                expected: row.expected.clone(),
                generated: None,
                cut: false,
                error: None,
                model: spec.origin(),
            };
            match answerer.answer(row, Inputs::ALL)? {
                Answer::Stopped => break,
                Answer::Text { text, cut } => (line.generated, line.cut) = (Some(text), cut),
                Answer::BadImage(error) => {
                    bar.suspend(|| tracing::warn!("{}: {error}", row.id));
                    line.error = Some(error);
                }
            }
            file.push(line)?;
            bar.inc(1);
            if self.stopped() {
                break;
            }
        }
        Ok(())
    }

    /// Scores and writes.
    fn finish(&self, rows: &[Row], answers: &[Answers], bad_rows: usize) -> Result<Results> {
        let line = |a: &'_ Answers, row: &Row| a.lines[&row.id].clone();
        let failed: Vec<(String, String)> = (rows.iter())
            .filter_map(|row| answers.iter().find_map(|a| Some((row.id.clone(), line(a, row).error?))))
            .collect();
        let good: Vec<&Row> = rows.iter().filter(|row| failed.iter().all(|(id, _)| *id != row.id)).collect();
        if good.is_empty() {
            let first = failed.first().map_or_else(String::new, |(id, error)| format!(": {id}: {error}"));
            return Err(Error::Data(format!("no row has an answer{first}")));
        }
        let predictions: Vec<(&str, Vec<Prediction>)> = (answers.iter())
            .map(|a| (a.name, good.iter().map(|row| prediction(line(a, row))).collect()))
            .collect();
        let systems: Vec<_> = predictions.iter().map(|(name, p)| (*name, &p[..])).collect();
        let mut tables = Tables::of(&systems, &self.scoring)?;
        tables.whole.cite("paper, base", &PAPER_BASE);
        tables.whole.cite("paper, tuned", &PAPER_TUNED);
        tables.whole.note(
            "paper: Table III of the SmolVLM chest X-ray report article, on other data; its implementations are not stated",
        );
        for note in self.notes(rows.len(), good.len(), answers, bad_rows) {
            tables.whole.note(&note);
        }

        let table = serde_json::json!({
            "split": format!("{:?}", self.split).to_lowercase(),
            "rows": good.len(),
            "failed": failed.iter().map(|(id, error)| serde_json::json!({ "id": id, "error": error })).collect::<Vec<_>>(),
            "bad_rows": bad_rows,
            "base": self.base.as_ref().map(SystemSpec::origin),
            "tuned": self.tuned.origin(),
            "bootstrap": self.scoring.bootstrap,
            "tables": tables.to_json(),
        });
        write(&self.out.join("table.json"), format!("{table:#}\n").as_bytes())?;
        let examples: Vec<Example<'_>> = (good.iter().take(self.examples))
            .map(|row| Example {
                row,
                answers: answers
                    .iter()
                    .map(|a| (a.name, line(a, row).generated.unwrap_or_default()))
                    .collect(),
            })
            .collect();
        let path = self.out.join("index.html");
        write(&path, page(&tables, &examples, good.len()).as_bytes())?;
        Ok(Results { tables, rows: good.len(), failed, bad_rows, page: path })
    }

    /// Lines under the first table.
    fn notes(&self, rows: usize, good: usize, answers: &[Answers], bad_rows: usize) -> Vec<String> {
        let part = format!("{:?}", self.split).to_lowercase();
        let mut notes =
            vec![format!("{good} rows ({part}), greedy, at most {} tokens an answer", self.longest)];
        if let Some(spec) = &self.base {
            notes.push(format!("base: {}", spec.origin()));
        }
        notes.push(format!("tuned: {}", self.tuned.origin()));
        if good < rows {
            notes
                .push(format!("{} rows have no answer (image not readable) and are not scored", rows - good));
        }
        if bad_rows > 0 {
            notes.push(format!("{bad_rows} rows of the data files could not be used"));
        }
        for a in answers {
            let cut = a.lines.values().filter(|line| line.cut).count();
            if cut > 0 {
                notes.push(format!("{cut} answers of {} were cut at the longest length", a.name));
            }
        }
        notes
    }
}

fn prediction(line: Line) -> Prediction {
    Prediction { id: line.id, expected: line.expected, generated: line.generated.unwrap_or_default() }
}

/// Where an evaluation's results go, unless another folder is asked for.
pub fn default_folder(config: &TrainConfig) -> PathBuf {
    config.out.join("eval")
}

/// The tuned model of a run.
pub fn default_tuned(config: &TrainConfig) -> Result<PathBuf> {
    let folder = config.out.join(if config.lora.is_some() { "adapter" } else { "model" });
    if Path::is_dir(&folder) {
        return Ok(folder);
    }
    Err(Error::Data(format!(
        "{}: is not there; finish the run with `train`, or name a model with --tuned",
        folder.display()
    )))
}
