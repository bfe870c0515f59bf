//! Scores of structured reports: `Image Labels: … | Gender: … | Age: … | Image Caption: …`.
//!
//! A whole line scores high for its fixed words alone, and gender and age stand in most clinical cases, ready to be
//! copied. So the caption is also scored by itself, and the other fields one by one.

use serde::{Deserialize, Serialize};

use crate::clinical::mean_set_f1;
use crate::error::paired;
use crate::ngram::{mean, ratio};
use crate::table::Metric;
use crate::text::{TextScorer, TextScores};
use crate::{Error, Prf};

/// One report, already split. `None` is a field the line does not have.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// The whole line as generated or as expected.
    pub line: String,
    /// Image labels.
    pub labels: Option<Vec<String>>,
    /// Gender as written.
    pub gender: Option<String>,
    /// Age as written: `29`, `29.0` and `29.00` are one age.
    pub age: Option<String>,
    /// Caption. A missing one is scored as an empty text.
    pub caption: Option<String>,
}

/// Agreement in one field. "Unknown" stands for a field that is missing or says so (`unknown`, `none`, `nan`, empty).
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct FieldScore {
    /// Share of all pairs that agree; unknown on both sides agrees.
    pub exact: f64,
    /// Share that agrees of the pairs whose reference has a value.
    pub exact_where_given: f64,
    /// References with a value.
    pub given: usize,
    /// Pairs where the hypothesis gives a value and the reference has none.
    pub invented: usize,
}

/// All scores of a corpus of reports.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReportScores {
    /// Whole lines.
    pub line: TextScores,
    /// Captions alone.
    pub caption: TextScores,
    /// Share of hypotheses with all four fields.
    pub well_formed: f64,
    /// Gender, regardless of case.
    pub gender: FieldScore,
    /// Age, as a number where both sides are one.
    pub age: FieldScore,
    /// Mean distance in years over the pairs with two numbers; `None` if there are none.
    pub age_error: Option<f64>,
    /// Share of pairs with the same set of labels.
    pub labels_exact: f64,
    /// Mean over pairs of the F1 of the label sets.
    pub labels_f1: f64,
    /// Precision, recall and F1 over all labels of the corpus at once.
    pub labels_micro: Prf,
}

/// Scores reports pair by pair.
///
/// # Errors
/// [`Error::Unpaired`] if the two sides differ in number.
pub fn score(
    scorer: &TextScorer,
    hypotheses: &[Report],
    references: &[Report],
) -> Result<ReportScores, Error> {
    paired(hypotheses.len(), references.len())?;
    let lines = |reports: &[Report]| -> Vec<String> { reports.iter().map(|r| r.line.clone()).collect() };
    let captions = |reports: &[Report]| -> Vec<String> {
        reports.iter().map(|r| r.caption.clone().unwrap_or_default()).collect()
    };
    let labels = |reports: &[Report]| -> Vec<Vec<String>> { reports.iter().map(label_set).collect() };
    let (hyp_labels, ref_labels) = (labels(hypotheses), labels(references));
    let (mut hits, mut same) = (0, 0);
    for (h, r) in hyp_labels.iter().zip(&ref_labels) {
        hits += h.iter().filter(|l| r.contains(l)).count();
        same += usize::from(h == r);
    }
    let size = |sets: &[Vec<String>]| sets.iter().map(Vec::len).sum();
    let pairs = || hypotheses.iter().zip(references);
    let complete =
        |r: &Report| r.labels.is_some() && r.gender.is_some() && r.age.is_some() && r.caption.is_some();
    let distances: Vec<f64> = pairs()
        .filter_map(|(h, r)| Some((number(h.age.as_deref()?)? - number(r.age.as_deref()?)?).abs()))
        .collect();
    Ok(ReportScores {
        line: scorer.score(&lines(hypotheses), &lines(references))?,
        caption: scorer.score(&captions(hypotheses), &captions(references))?,
        well_formed: ratio(hypotheses.iter().filter(|h| complete(h)).count(), hypotheses.len()),
        gender: field(pairs().map(|(h, r)| (h.gender.as_deref(), r.gender.as_deref()))),
        age: field(pairs().map(|(h, r)| (h.age.as_deref(), r.age.as_deref()))),
        age_error: (!distances.is_empty()).then(|| mean(distances)),
        labels_exact: ratio(same, hypotheses.len()),
        labels_f1: mean_set_f1(&hyp_labels, &ref_labels)?,
        labels_micro: Prf::of_counts(hits, size(&hyp_labels), size(&ref_labels)),
    })
}

impl ReportScores {
    /// Rows of a result table: whole line, caption, fields.
    pub fn rows(&self) -> Vec<(Metric, f64)> {
        let mut rows = Vec::new();
        for (part, scores) in [("line", &self.line), ("caption", &self.caption)] {
            rows.extend(scores.rows().into_iter().map(|(mut metric, value)| {
                metric.name = format!("{} ({part})", metric.name);
                (metric, value)
            }));
        }
        let own = |name: &str, how: &str, value: f64| (Metric::new(name, how).decimals(4), value);
        rows.extend([
            own("Well-formed", "share with all four fields", self.well_formed),
            own("Gender exact", "share, where the reference has one", self.gender.exact_where_given),
            own("Age exact", "share, where the reference has one", self.age.exact_where_given),
        ]);
        if let Some(years) = self.age_error {
            let metric = Metric::new("Age error", "mean distance in years").decimals(2).lower_is_better();
            rows.push((metric, years));
        }
        rows.extend([
            own("Labels exact", "share of equal sets", self.labels_exact),
            own("Labels F1", "mean over reports", self.labels_f1),
            own("Labels micro-F1", "over all labels", self.labels_micro.f1),
        ]);
        rows
    }
}

/// Labels trimmed, in lower case, sorted, each once.
fn label_set(report: &Report) -> Vec<String> {
    let labels = report.labels.iter().flatten().map(|l| l.trim().to_lowercase()).filter(|l| !l.is_empty());
    labels.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

/// The value in a form to compare, `None` for unknown.
fn known(value: Option<&str>) -> Option<String> {
    let value = value?.trim().to_lowercase();
    if matches!(value.as_str(), "" | "unknown" | "none" | "nan" | "null" | "n/a") {
        return None;
    }
    Some(match number(&value) {
        Some(n) => n.to_string(),
        None => value,
    })
}

fn number(value: &str) -> Option<f64> {
    value.trim().parse().ok().filter(|n: &f64| n.is_finite())
}

fn field<'r>(pairs: impl Iterator<Item = (Option<&'r str>, Option<&'r str>)>) -> FieldScore {
    let (mut n, mut equal, mut given, mut equal_given, mut invented) = (0, 0, 0, 0, 0);
    for (h, r) in pairs {
        let (h, r) = (known(h), known(r));
        n += 1;
        equal += usize::from(h == r);
        given += usize::from(r.is_some());
        equal_given += usize::from(r.is_some() && h == r);
        invented += usize::from(r.is_none() && h.is_some());
    }
    FieldScore { exact: ratio(equal, n), exact_where_given: ratio(equal_given, given), given, invented }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(labels: &[&str], gender: &str, age: &str, caption: &str) -> Report {
        Report {
            line: format!(
                "Image Labels: {} | Gender: {gender} | Age: {age} | Image Caption: {caption}",
                labels.join(", ")
            ),
            labels: Some(labels.iter().map(|&l| l.to_owned()).collect()),
            gender: Some(gender.to_owned()),
            age: Some(age.to_owned()),
            caption: Some(caption.to_owned()),
        }
    }

    #[test]
    fn fields_are_compared_by_meaning() {
        let references = [
            report(&["x_ray", "thorax"], "Female", "29.0", "Clear lungs on both sides."),
            report(&["x_ray", "edema"], "Male", "unknown", "Pulmonary edema in both lungs."),
            report(&["x_ray"], "Male", "70.0", "Normal chest with no change."),
        ];
        let free_text = Report { line: "A chest X-ray.".into(), ..Report::default() };
        let hypotheses = [
            report(&["thorax", "X_ray"], "female", "29", "Clear lungs on both sides."),
            report(&["x_ray"], "Male", "45", "Pulmonary edema in both lungs."),
            free_text,
        ];
        let scores = score(&TextScorer::new(None), &hypotheses, &references).unwrap();
        assert_eq!(
            scores.gender,
            FieldScore { exact: 2.0 / 3.0, exact_where_given: 2.0 / 3.0, given: 3, invented: 0 }
        );
        assert_eq!(
            scores.age,
            FieldScore { exact: 1.0 / 3.0, exact_where_given: 0.5, given: 2, invented: 1 }
        );
        assert_eq!(scores.age_error, Some(0.0));
        assert_eq!(scores.well_formed, 2.0 / 3.0);
        assert_eq!(scores.labels_exact, 1.0 / 3.0);
        assert!((scores.labels_f1 - (1.0 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert_eq!(scores.labels_micro, Prf::of_counts(3, 3, 5));
        assert!((scores.caption.rouge.rouge1.f1 - 2.0 / 3.0).abs() < 1e-12);
        assert!(score(&TextScorer::new(None), &hypotheses[1..], &references).is_err());
    }
}
