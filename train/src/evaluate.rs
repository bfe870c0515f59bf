//! Generated reports against expected ones, with all inputs or without some of them.

use std::ops::ControlFlow;

use eval::report_scores::{self, ReportScores};
use eval::text::TextScorer;
use model::bundle::Bundle;
use model::generate::{Options as Generation, generate};
use model::image::{DecodeOptions, Image, decode_file};
use model::prompt::Message;
use model::prompt::report::{Field, INSTRUCTION, Limit, Parsed, Report, question};
use serde::Serialize;

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

/// Most tokens of an answer.
const LONGEST_ANSWER: usize = 256;

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
    let options = Generation {
        max_new_tokens: LONGEST_ANSWER,
        stop_tokens: bundle.stop_tokens(),
        ..Generation::default()
    };
    let mut predictions = Vec::new();
    for case in cases {
        let mut tiles = Vec::new();
        if let Some(path) = &case.image {
            let processor = bundle
                .processor
                .as_ref()
                .ok_or_else(|| Error::Data(format!("{}: a text model reads no images", bundle.origin)))?;
            let mut image = decode_file(path, &DecodeOptions::default())
                .map_err(|e| Error::Data(format!("{}: {e}", case.id)))?;
            if !inputs.image {
                image = blank(image.width(), image.height());
            }
            tiles.push(processor.process(&image));
        }
        let text = Some(case.clinical_case.as_str()).filter(|text| inputs.case && !text.is_empty());
        let messages = [Message::user(tiles.len(), question(INSTRUCTION, text, Limit::default()))];
        let prompt = bundle.prompt(&messages, &tiles)?;
        let (mut answers, _) =
            generate(bundle.decoder(), Some(&bundle.tokenizer), &[prompt], &options, &mut |_, _| {
                ControlFlow::Continue(())
            })
            .map_err(|e| bundle.explain(e))?;
        let generated = answers.pop().map(|a| a.text.trim().to_owned()).unwrap_or_default();
        let prediction = Prediction { id: case.id.clone(), expected: case.answer.clone(), generated };
        done(&prediction);
        predictions.push(prediction);
    }
    Ok(predictions)
}

/// Mid-grey.
fn blank(width: usize, height: usize) -> Image {
    // An image that was decoded is not empty, so its size makes an image again.
    Image::from_grey(width, height, vec![128; width * height]).unwrap_or_else(|| unreachable!())
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
