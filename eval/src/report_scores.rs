//! Scores of structured reports: `Image Labels: … | Gender: … | Age: … | Image Caption: …`.
//!
//! A whole line scores high for its fixed words alone, and gender and age stand in most clinical cases, ready to be
//! copied. So the caption is also scored by itself, and the other fields one by one.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Measure, Samples};
use crate::clinical::set_f1;
use crate::error::paired;
use crate::ngram::{mean, ratio};
use crate::table::Metric;
use crate::text::{TextSamples, TextScorer, TextScores};
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Share of the references with an age whose hypothesis is at most so many years off: (years, share).
    pub age_within: Vec<(f64, f64)>,
    /// Mean distance in years over the pairs with two numbers; `None` if there are none.
    pub age_error: Option<f64>,
    /// Share of pairs with the same set of labels.
    pub labels_exact: f64,
    /// Mean over pairs of the F1 of the label sets.
    pub labels_f1: f64,
    /// Precision, recall and F1 over all labels of the corpus at once.
    pub labels_micro: Prf,
}

/// Distances in years that count as near, unless others are asked for.
pub const AGE_WITHIN: [f64; 2] = [1.0, 5.0];

/// Scores reports pair by pair, ages near within [`AGE_WITHIN`].
///
/// # Errors
/// As [`samples`].
pub fn score(
    scorer: &TextScorer,
    hypotheses: &[Report],
    references: &[Report],
) -> Result<ReportScores, Error> {
    Ok(samples(scorer, hypotheses, references, &AGE_WITHIN)?.scores())
}

/// The numbers of each pair, of which corpus scores and their intervals are made. `age_within` are the distances in
/// years that count as near.
///
/// # Errors
/// [`Error::Unpaired`] if the two sides differ in number, [`Error::Encoder`] if the scorer's encoder fails.
pub fn samples(
    scorer: &TextScorer,
    hypotheses: &[Report],
    references: &[Report],
    age_within: &[f64],
) -> Result<ReportSamples, Error> {
    paired(hypotheses.len(), references.len())?;
    let lines = |reports: &[Report]| -> Vec<String> { reports.iter().map(|r| r.line.clone()).collect() };
    let captions = |reports: &[Report]| -> Vec<String> {
        reports.iter().map(|r| r.caption.clone().unwrap_or_default()).collect()
    };
    Ok(ReportSamples {
        line: scorer.samples(&lines(hypotheses), &lines(references))?,
        caption: scorer.samples(&captions(hypotheses), &captions(references))?,
        fields: FieldSamples::of(hypotheses, references, age_within)?,
    })
}

/// Numbers of each pair of a corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportSamples {
    /// Whole lines.
    pub line: TextSamples,
    /// Captions alone.
    pub caption: TextSamples,
    /// Labels, gender, age.
    pub fields: FieldSamples,
}

/// Agreement of the fields of each pair of a corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldSamples {
    pairs: Vec<Fields>,
    age_within: Vec<f64>,
}

/// Agreement of the fields of one pair.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fields {
    well_formed: bool,
    gender: Agreement,
    age: Agreement,
    /// Years between two numbers.
    age_distance: Option<f64>,
    /// Labels of both sides, of the hypothesis, of the reference.
    labels: [usize; 3],
    labels_f1: f64,
}

/// Agreement of one field of one pair.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Agreement {
    equal: bool,
    given: bool,
    invented: bool,
}

impl Agreement {
    fn of(hypothesis: Option<&str>, reference: Option<&str>) -> Self {
        let (h, r) = (known(hypothesis), known(reference));
        Self { equal: h == r, given: r.is_some(), invented: r.is_none() && h.is_some() }
    }
}

impl Fields {
    fn of(hypothesis: &Report, reference: &Report) -> Self {
        let (h, r) = (hypothesis, reference);
        let (labels, expected) = (label_set(h), label_set(r));
        let years = |report: &Report| number(report.age.as_deref()?);
        Self {
            well_formed: h.labels.is_some() && h.gender.is_some() && h.age.is_some() && h.caption.is_some(),
            gender: Agreement::of(h.gender.as_deref(), r.gender.as_deref()),
            age: Agreement::of(h.age.as_deref(), r.age.as_deref()),
            age_distance: years(h).zip(years(r)).map(|(h, r)| (h - r).abs()),
            labels: [labels.intersection(&expected).count(), labels.len(), expected.len()],
            labels_f1: set_f1(&Vec::from_iter(&labels), &Vec::from_iter(&expected)),
        }
    }

    /// Both have exactly the same labels.
    fn same_labels(&self) -> bool {
        self.labels == [self.labels[0]; 3]
    }

    /// Whether the age is at most `years` off; an age without a number is where it is equal.
    fn age_near(&self, years: f64) -> bool {
        self.age.given && (self.age.equal || self.age_distance.is_some_and(|d| d <= years))
    }
}

impl ReportSamples {
    /// The corpus scores.
    pub fn scores(&self) -> ReportScores {
        let pairs = &self.fields.pairs;
        let share =
            |pick: &dyn Fn(&Fields) -> bool| ratio(pairs.iter().filter(|f| pick(f)).count(), pairs.len());
        let field = |pick: fn(&Fields) -> Agreement| {
            let count = |test: fn(&Agreement) -> bool| pairs.iter().filter(|f| test(&pick(f))).count();
            let given = count(|a| a.given);
            FieldScore {
                exact: ratio(count(|a| a.equal), pairs.len()),
                exact_where_given: ratio(count(|a| a.given && a.equal), given),
                given,
                invented: count(|a| a.invented),
            }
        };
        let distances: Vec<f64> = pairs.iter().filter_map(|f| f.age_distance).collect();
        let ages = pairs.iter().filter(|f| f.age.given).count();
        let near = |years: f64| ratio(pairs.iter().filter(|f| f.age_near(years)).count(), ages);
        let labels = |i: usize| pairs.iter().map(|f| f.labels[i]).sum();
        ReportScores {
            line: self.line.scores(),
            caption: self.caption.scores(),
            well_formed: share(&|f| f.well_formed),
            gender: field(|f| f.gender),
            age: field(|f| f.age),
            age_within: self.fields.age_within.iter().map(|&years| (years, near(years))).collect(),
            age_error: (!distances.is_empty()).then(|| mean(distances)),
            labels_exact: share(&Fields::same_labels),
            labels_f1: mean(pairs.iter().map(|f| f.labels_f1)),
            labels_micro: Prf::of_counts(labels(0), labels(1), labels(2)),
        }
    }

    /// Rows of a result table: whole line, caption, fields.
    pub fn measures(&self) -> Vec<Measure> {
        let mut rows = Vec::new();
        for (part, samples) in [("line", &self.line), ("caption", &self.caption)] {
            rows.extend(samples.measures().into_iter().map(|mut measure| {
                measure.metric.name = format!("{} ({part})", measure.metric.name);
                measure
            }));
        }
        rows.extend(self.fields.measures());
        rows
    }
}

impl FieldSamples {
    /// Compares the fields pair by pair. `age_within` are the distances in years that count as near.
    ///
    /// # Errors
    /// [`Error::Unpaired`] if the two sides differ in number.
    pub fn of(hypotheses: &[Report], references: &[Report], age_within: &[f64]) -> Result<Self, Error> {
        paired(hypotheses.len(), references.len())?;
        let pairs = hypotheses.iter().zip(references).map(|(h, r)| Fields::of(h, r)).collect();
        Ok(Self { pairs, age_within: age_within.to_vec() })
    }

    /// Rows of a result table.
    pub fn measures(&self) -> Vec<Measure> {
        let own = |name: &str, how: &str, samples| Measure::new(Metric::new(name, how).decimals(4), samples);
        let number = |b: bool| f64::from(u8::from(b));
        let all = |pick: &dyn Fn(&Fields) -> f64| Samples::Mean(self.pairs.iter().map(pick).collect());
        let some =
            |pick: &dyn Fn(&Fields) -> (f64, f64)| Samples::Ratio(self.pairs.iter().map(pick).collect());
        let given = |pick: fn(&Fields) -> Agreement| {
            some(&|f| (number(pick(f).given && pick(f).equal), number(pick(f).given)))
        };
        let where_given = "share, where the reference has one";
        let mut rows = vec![
            own("Well-formed", "share with all four fields", all(&|f| number(f.well_formed))),
            own("Gender exact", where_given, given(|f| f.gender)),
            own("Age exact", where_given, given(|f| f.age)),
        ];
        for &years in &self.age_within {
            let name = format!("Age within {years} year{}", if years == 1.0 { "" } else { "s" });
            rows.push(own(&name, where_given, some(&|f| (number(f.age_near(years)), number(f.age.given)))));
        }
        let distance = |f: &Fields| f.age_distance.map_or((0.0, 0.0), |d| (d, 1.0));
        rows.push(Measure::new(
            Metric::new("Age error", "mean distance in years").decimals(2).lower_is_better(),
            some(&distance),
        ));
        rows.extend([
            own("Labels exact", "share of equal sets", all(&|f| number(f.same_labels()))),
            own("Labels F1", "mean over reports", all(&|f| f.labels_f1)),
            // F1 = 2·hits / (labels of both sides).
            own(
                "Labels micro-F1",
                "over all labels",
                some(&|f| (2.0 * f.labels[0] as f64, (f.labels[1] + f.labels[2]) as f64)),
            ),
        ]);
        rows
    }
}

/// Labels trimmed, in lower case, each once.
fn label_set(report: &Report) -> BTreeSet<String> {
    let labels = report.labels.iter().flatten().map(|l| l.trim().to_lowercase()).filter(|l| !l.is_empty());
    labels.collect()
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
        assert_eq!(scores.age_within, [(1.0, 0.5), (5.0, 0.5)]);
        assert_eq!(scores.well_formed, 2.0 / 3.0);
        assert_eq!(scores.labels_exact, 1.0 / 3.0);
        assert!((scores.labels_f1 - (1.0 + 2.0 / 3.0) / 3.0).abs() < 1e-12);
        assert_eq!(scores.labels_micro, Prf::of_counts(3, 3, 5));
        assert!((scores.caption.rouge.rouge1.f1 - 2.0 / 3.0).abs() < 1e-12);
        assert!(score(&TextScorer::new(None), &hypotheses[1..], &references).is_err());
    }
    #[test]
    fn ages_are_near_within_the_years_asked_for() {
        let of = |ages: [&str; 6]| ages.map(|age| report(&[], "Male", age, "x"));
        let references = of(["30.0", "30.0", "30.0", "30.0", "unknown", "newborn"]);
        let hypotheses = of(["30", "31", "34.0", "unknown", "30", "Newborn"]);
        let samples = samples(&TextScorer::new(None), &hypotheses, &references, &[0.5, 1.0, 4.0]).unwrap();
        let scores = samples.scores();
        assert_eq!(scores.age_within, [(0.5, 0.4), (1.0, 0.6), (4.0, 0.8)]);
        assert_eq!((scores.age.given, scores.age.invented, scores.age_error), (5, 1, Some(5.0 / 3.0)));
        let names: Vec<String> = samples.fields.measures().into_iter().map(|m| m.metric.name).collect();
        assert!(names.contains(&"Age within 0.5 years".to_owned()), "{names:?}");
        assert!(names.contains(&"Age within 1 year".to_owned()), "{names:?}");
    }

    #[test]
    fn rows_of_a_table_are_the_scores() {
        let references =
            [report(&["a", "b"], "F", "3", "one two three"), report(&["a"], "M", "4", "four five")];
        let hypotheses = [report(&["a", "c"], "F", "5", "one two"), report(&["a"], "F", "x", "four five")];
        let samples = samples(&TextScorer::new(None), &hypotheses, &references, &AGE_WITHIN).unwrap();
        let scores = samples.scores();
        let rows = samples.measures();
        let value = |name: &str| rows.iter().find(|m| m.metric.name == name).unwrap().value();
        for (name, wanted) in [
            ("ROUGE-1 (line)", scores.line.rouge.rouge1.f1),
            ("ROUGE-L (caption)", scores.caption.rouge.rouge_l.f1),
            ("BLEU (line)", scores.line.bleu),
            ("METEOR (caption)", scores.caption.meteor),
            ("Well-formed", scores.well_formed),
            ("Gender exact", scores.gender.exact_where_given),
            ("Age exact", scores.age.exact_where_given),
            ("Age error", scores.age_error.unwrap()),
            ("Labels exact", scores.labels_exact),
            ("Labels F1", scores.labels_f1),
            ("Labels micro-F1", scores.labels_micro.f1),
        ] {
            assert!((value(name) - wanted).abs() < 1e-12, "{name}: {} {wanted}", value(name));
        }
    }
}
