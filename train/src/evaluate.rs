//! Generated reports against expected ones, with all inputs or without some of them.

use std::ops::ControlFlow;

use eval::report_scores::{self, ReportScores};
use eval::text::TextScorer;
use model::bundle::Bundle;
use model::generate::{Options as Generation, generate};
use model::image::{DecodeOptions, Image, decode_file};
use model::prompt::report::{Limit, Report, message};
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
    let processor = bundle
        .processor
        .as_ref()
        .ok_or_else(|| Error::Data(format!("{}: a text model reads no images", bundle.origin)))?;
    let options = Generation {
        max_new_tokens: LONGEST_ANSWER,
        stop_tokens: bundle.stop_tokens(),
        ..Generation::default()
    };
    let mut predictions = Vec::new();
    for case in cases {
        let mut image = decode_file(&case.image, &DecodeOptions::default())
            .map_err(|e| Error::Data(format!("{}: {e}", case.id)))?;
        if !inputs.image {
            image = blank(image.width(), image.height());
        }
        let text = Some(case.clinical_case.as_str()).filter(|text| inputs.case && !text.is_empty());
        let messages = [message(text, Limit::default())];
        let prompt = bundle.prompt(&messages, &[processor.process(&image)])?;
        let (mut answers, _) =
            generate(bundle.decoder(), Some(&bundle.tokenizer), &[prompt], &options, &mut |_, _| {
                ControlFlow::Continue(())
            })
            .map_err(|e| bundle.explain(e))?;
        let generated = answers.pop().map(|a| a.text.trim().to_owned()).unwrap_or_default();
        let prediction = Prediction { id: case.id.clone(), expected: case.report.format(), generated };
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

/// Scores predictions.
///
/// # Errors
/// Never for predictions made here: the two sides are paired.
pub fn score(scorer: &TextScorer, predictions: &[Prediction]) -> Result<Scores> {
    let parse = |line: &str| Report::parse(line).report;
    let (mut views, mut right) = (0, 0);
    let (mut hits, mut made, mut wanted) = (0, 0, 0);
    let (mut hypotheses, mut references) = (Vec::new(), Vec::new());
    for p in predictions {
        let (h, r) = (parse(&p.generated), parse(&p.expected));
        if let Some(expected) = view(&r) {
            views += 1;
            right += usize::from(view(&h) == Some(expected));
        }
        let (found, expected) = (findings(&h), findings(&r));
        hits += found.iter().filter(|f| expected.contains(f)).count();
        made += found.len();
        wanted += expected.len();
        hypotheses.push(for_scores(&p.generated, &h));
        references.push(for_scores(&p.expected, &r));
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

fn for_scores(line: &str, report: &Report) -> report_scores::Report {
    report_scores::Report {
        line: line.to_owned(),
        labels: (!report.labels.is_empty()).then(|| report.labels.clone()),
        gender: report.gender.clone(),
        age: report.age.map(|age| format!("{age:.1}")),
        caption: report.caption.clone(),
    }
}

/// The report that says what training rows say most often: a baseline that reads nothing.
pub fn majority<'c>(training: impl IntoIterator<Item = &'c Case>) -> Report {
    let cases: Vec<&Case> = training.into_iter().collect();
    let mut ages: Vec<f32> = cases.iter().filter_map(|c| c.report.age).collect();
    ages.sort_by(f32::total_cmp);
    Report {
        labels: most_frequent(cases.iter().map(|c| c.report.labels.clone())).unwrap_or_default(),
        gender: most_frequent(cases.iter().filter_map(|c| c.report.gender.clone())),
        age: ages.get(ages.len() / 2).copied(),
        caption: most_frequent(cases.iter().filter_map(|c| c.report.caption.clone())),
    }
}

fn most_frequent<T: Ord>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut counts = std::collections::BTreeMap::new();
    for item in items {
        *counts.entry(item).or_insert(0usize) += 1;
    }
    counts.into_iter().max_by_key(|(_, n)| *n).map(|(item, _)| item)
}
