//! Scores of one system, or of two on the same rows, as tables.

use eval::bootstrap::{Bootstrap, Measure};
use eval::report_scores::{self, FieldSamples};
use eval::table::ResultTable;
use eval::text::TextScorer;
use model::prompt::report::Report;

use super::{Prediction, for_scores};
use crate::error::{Error, Result};

/// What is computed.
pub struct Scoring {
    /// Text metrics.
    pub scorer: TextScorer,
    /// Intervals and p-values.
    pub bootstrap: Bootstrap,
    /// Distances in years that count as near.
    pub age_within: Vec<f64>,
}

/// A system's name and its predictions.
pub type System<'a> = (&'a str, &'a [Prediction]);

/// The tables of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Tables {
    /// Metrics of the whole texts, in the order of the paper's Table III.
    pub whole: ResultTable,
    /// Metrics of the captions alone: fixed words and copied fields do not help there. `None` if no expected text is
    /// a structured report.
    pub caption: Option<ResultTable>,
    /// Agreement field by field; `None` as above.
    pub fields: Option<ResultTable>,
}

impl Tables {
    /// Scores systems on the same pairs, in the same order; the first two are compared.
    ///
    /// # Errors
    /// If an encoder fails, there are no pairs, or the systems' pairs are not the same.
    pub fn of(systems: &[System<'_>], scoring: &Scoring) -> Result<Self> {
        let pairs = systems.first().map_or(0, |(_, p)| p.len());
        if pairs == 0 {
            return Err(Error::Data("there is nothing to score".into()));
        }
        let expected = |p: &'_ Prediction| (p.id.clone(), p.expected.clone());
        for (name, predictions) in &systems[1..] {
            if !predictions.iter().map(expected).eq(systems[0].1.iter().map(expected)) {
                let first = systems[0].0;
                return Err(Error::Data(format!(
                    "{name} and {first} have not the same ids and expected texts in the same order"
                )));
            }
        }
        let scores = systems
            .iter()
            .map(|(name, predictions)| Ok((*name, Scores::of(predictions, scoring)?)))
            .collect::<Result<Vec<_>>>()?;
        let structured = scores[0].1.structured;
        let table = |title: &str, pairs: usize, pick: fn(&Scores) -> &[Measure]| {
            let mut table = ResultTable::new(title);
            match &scores[..] {
                [(name, one)] => table.add_measures(name, pick(one), &scoring.bootstrap),
                [(a, from), (b, to), rest @ ..] => {
                    table.compare((a, pick(from)), (b, pick(to)), &scoring.bootstrap);
                    for (name, one) in rest {
                        table.add_measures(name, pick(one), &scoring.bootstrap);
                    }
                }
                [] => {}
            }
            table.note_bootstrap(&scoring.bootstrap, pairs);
            table
        };
        let mut caption = (structured > 0).then(|| table("Image caption alone", structured, |s| &s.caption));
        let mut fields = (structured > 0).then(|| table("Fields", structured, |s| &s.fields));
        if structured < pairs {
            for table in [&mut caption, &mut fields].into_iter().flatten() {
                let other = pairs - structured;
                table.note(&format!("without {other} pairs whose expected text is no structured report"));
            }
        }
        Ok(Self { whole: table("Whole text", pairs, |s| &s.whole), caption, fields })
    }

    /// Those that there are, in order.
    pub fn all(&self) -> impl Iterator<Item = &ResultTable> {
        std::iter::once(&self.whole).chain(&self.caption).chain(&self.fields)
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        self.all().map(ResultTable::to_text).collect::<Vec<_>>().join("\n")
    }

    /// A list of tables.
    pub fn to_json(&self) -> serde_json::Value {
        self.all().map(ResultTable::to_json).collect()
    }
}

/// Measures of one system.
struct Scores {
    structured: usize,
    whole: Vec<Measure>,
    caption: Vec<Measure>,
    fields: Vec<Measure>,
}

impl Scores {
    fn of(predictions: &[Prediction], scoring: &Scoring) -> Result<Self> {
        let failed = |e: eval::Error| Error::Data(e.to_string());
        let measures = |pairs: &[(&str, &str)]| -> Result<Vec<Measure>> {
            let (h, r): (Vec<&str>, Vec<&str>) = pairs.iter().copied().unzip();
            Ok(scoring.scorer.samples(&h, &r).map_err(failed)?.measures())
        };
        let texts: Vec<_> = predictions.iter().map(|p| (p.generated.as_str(), p.expected.as_str())).collect();
        let (mut hypotheses, mut references) = (Vec::new(), Vec::new());
        for p in predictions {
            let expected = Report::parse(&p.expected);
            if expected.complete() {
                hypotheses.push(for_scores(&p.generated, &Report::parse(&p.generated)));
                references.push(for_scores(&p.expected, &expected));
            }
        }
        let caption = |r: &'_ report_scores::Report| r.caption.clone().unwrap_or_default();
        let captions: Vec<(String, String)> =
            hypotheses.iter().zip(&references).map(|(h, r)| (caption(h), caption(r))).collect();
        let captions: Vec<_> = captions.iter().map(|(h, r)| (h.as_str(), r.as_str())).collect();
        Ok(Self {
            structured: references.len(),
            whole: measures(&texts)?,
            caption: if captions.is_empty() { Vec::new() } else { measures(&captions)? },
            fields: FieldSamples::of(&hypotheses, &references, &scoring.age_within)
                .map_err(failed)?
                .measures(),
        })
    }
}
