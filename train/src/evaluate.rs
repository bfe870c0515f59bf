//! Generated reports against expected ones, with all inputs or without some of them.

mod answer;
mod bertscore;
mod page;
mod predictions;
mod row;
mod session;
mod system;
mod tables;

use eval::report_scores::{self, ReportScores};
use eval::text::TextScorer;
use model::bundle::Bundle;
use model::prompt::report::{Field, INSTRUCTION, Limit, Parsed, Report};
use serde::Serialize;

pub use answer::{Answer, Answerer, LONGEST_ANSWER};
pub use bertscore::{BertScoreOptions, Rescale, open_bertscore};
pub use predictions::{AnswerFile, BadLine, FieldNames, Line, Pairs};
pub use row::Row;
pub use session::{Evaluation, Outcome, PAPER_BASE, PAPER_TUNED, Results, default_folder, default_tuned};
pub use system::{Source, SystemSpec, open_system};
pub use tables::{Scoring, System, Tables};

use crate::data::Case;
use crate::error::{Error, Result};

/// What the model is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// The image; otherwise an even grey one of its size.
    pub image: bool,
    /// The clinical case; otherwise the instruction alone.
    pub case: bool,
}

impl Inputs {
    /// Both.
    pub const ALL: Self = Self { image: true, case: true };
}

/// One generated report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Id of the row.
    pub id: String,
    /// The line that was expected.
    pub expected: String,
    /// The line that was generated, greedily.
    pub generated: String,
}

/// Writes a report for each case, greedily. `done` sees each.
///
/// # Errors
/// If an image cannot be read or the model fails; nothing is left out.
pub fn generate_reports<'c>(
    bundle: &Bundle,
    cases: impl IntoIterator<Item = &'c Case>,
    inputs: Inputs,
    done: &mut dyn FnMut(&Prediction),
) -> Result<Vec<Prediction>> {
    let answerer = Answerer::new(bundle, LONGEST_ANSWER, None);
    let mut predictions = Vec::new();
    for case in cases {
        let row = Row::of(case, INSTRUCTION, Limit::default());
        let generated = match answerer.answer(&row, inputs)? {
            Answer::Text { text, .. } => text,
            Answer::BadImage(error) => return Err(Error::Data(format!("{}: {error}", row.id))),
            Answer::Stopped => break,
        };
        let prediction = Prediction { id: row.id, expected: row.expected, generated };
        done(&prediction);
        predictions.push(prediction);
    }
    Ok(predictions)
}

/// All scores of a set of reports.
#[derive(Clone, Debug, Serialize)]
pub struct Scores {
    /// Text metrics of the whole line and of the caption, and the fields.
    pub report: ReportScores,
    /// Share of the right projection among those that name one (label `posteroanterior` or `anteroposterior`).
    pub view: f64,
    /// Findings, as labels beside the ones that every chest X-ray carries: precision, recall, F1 over all of them.
    pub findings: eval::Prf,
}

/// Labels that say what kind of picture it is, and not what is to be seen.
const KIND: [&str; 6] = ["radiology", "x_ray", "thorax", "frontal", "posteroanterior", "anteroposterior"];

/// Reports for `cases` as the model writes them with `inputs`, and their scores.
///
/// # Errors
/// As [`generate_reports`].
pub fn evaluate_reports<'c>(
    bundle: &Bundle,
    cases: impl IntoIterator<Item = &'c Case>,
    inputs: Inputs,
    scorer: &TextScorer,
    done: &mut dyn FnMut(&Prediction),
) -> Result<(Vec<Prediction>, Scores)> {
    let predictions = generate_reports(bundle, cases, inputs, done)?;
    let scores = score(scorer, &predictions)?;
    Ok((predictions, scores))
}

/// Scores predictions.
///
/// # Errors
/// Never for predictions made here: the two sides are paired.
pub fn score(scorer: &TextScorer, predictions: &[Prediction]) -> Result<Scores> {
    let (mut views, mut right) = (0, 0);
    let (mut hits, mut made, mut wanted) = (0, 0, 0);
    let (mut hypotheses, mut references) = (Vec::new(), Vec::new());
    for p in predictions {
        let (parsed, expected) = (Report::parse(&p.generated), Report::parse(&p.expected));
        hypotheses.push(for_scores(&p.generated, &parsed));
        references.push(for_scores(&p.expected, &expected));
        let (h, r) = (parsed.report, expected.report);
        if let Some(expected) = view(&r) {
            views += 1;
            right += usize::from(view(&h) == Some(expected));
        }
        let (found, expected) = (findings(&h), findings(&r));
        hits += found.iter().filter(|f| expected.contains(f)).count();
        made += found.len();
        wanted += expected.len();
    }
    Ok(Scores {
        report: report_scores::score(scorer, &hypotheses, &references)
            .map_err(|e| Error::Data(e.to_string()))?,
        view: right as f64 / views.max(1) as f64,
        findings: eval::Prf::of_counts(hits, made, wanted),
    })
}

fn view(report: &Report) -> Option<&str> {
    report.labels.iter().map(String::as_str).find(|l| KIND[4..].contains(l))
}

fn findings(report: &Report) -> Vec<&str> {
    let mut found: Vec<&str> =
        report.labels.iter().map(String::as_str).filter(|l| !KIND.contains(l)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// A field that says that it is unknown is there; one that is missing or senseless is not.
fn for_scores(line: &str, parsed: &Parsed) -> report_scores::Report {
    let report = &parsed.report;
    let there = |field: Field, value: Option<String>| {
        let absent = parsed.missing.contains(&field) || parsed.unreadable.iter().any(|(f, _)| *f == field);
        (!absent).then(|| value.unwrap_or_else(|| "unknown".into()))
    };
    let labels = there(Field::Labels, Some(String::new())).map(|_| report.labels.clone());
    report_scores::Report {
        line: line.to_owned(),
        labels,
        gender: there(Field::Gender, report.gender.clone()),
        age: there(Field::Age, report.age.map(|age| format!("{age:.1}"))),
        caption: there(Field::Caption, report.caption.clone()),
    }
}
