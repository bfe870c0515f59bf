//! Clinical efficacy: agreement of two tables of `CheXbert` labels (Smit et al., 2020), averaged as scikit-learn does.
//!
//! The labeller is no part of this crate; the tables come from it or from a dataset. Published scores differ in what
//! counts as positive, in the labels kept and in the average, so all three are arguments here.

use serde::{Deserialize, Serialize};

use crate::error::paired;
use crate::ngram::ratio;
use crate::{Error, Prf};

/// `CheXbert`'s fourteen observations in the order of its heads. Other files use other orders: map by name.
pub const OBSERVATIONS: [&str; 14] = [
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
];

/// Columns of [`OBSERVATIONS`] in the five-observation scores of the literature: Cardiomegaly, Edema, Consolidation,
/// Atelectasis, Pleural Effusion.
pub const FIVE: [usize; 5] = [1, 4, 5, 7, 9];

/// What a labeller says of one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Label {
    /// Not mentioned.
    Blank,
    /// Present.
    Positive,
    /// Stated to be absent.
    Negative,
    /// May be present.
    Uncertain,
}

impl Label {
    /// From the codes of `CheXpert`'s tables: 1, 0, −1; anything else, an empty cell included, is blank.
    pub fn from_code(code: Option<i8>) -> Self {
        match code {
            Some(1) => Self::Positive,
            Some(0) => Self::Negative,
            Some(-1) => Self::Uncertain,
            _ => Self::Blank,
        }
    }
}

/// Whether an uncertain finding counts as present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uncertain {
    /// As absent (`RaDialog`).
    Negative,
    /// As present.
    Positive,
}

/// Scores of a table, each average in scikit-learn's sense with `zero_division=0`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClinicalScores {
    /// Plain mean over labels; a label nobody has counts as 0. Its F is the mean of the F, not the F of the means.
    pub macro_average: Prf,
    /// Over all cells at once.
    pub micro: Prf,
    /// Mean over labels weighted by their true positives plus misses.
    pub weighted: Prf,
    /// Mean over studies; a study without any finding on either side counts as 0.
    pub samples: Prf,
    /// Share of equal cells, which is also the mean accuracy over the labels.
    pub accuracy: f64,
    /// Per label, in the order of the columns asked for.
    pub labels: Vec<Prf>,
}

#[derive(Default, Clone, Copy)]
struct Cells {
    hits: usize,
    predicted: usize,
    actual: usize,
}

impl Cells {
    fn add(&mut self, predicted: bool, actual: bool) {
        self.hits += usize::from(predicted && actual);
        self.predicted += usize::from(predicted);
        self.actual += usize::from(actual);
    }

    fn prf(self) -> Prf {
        Prf::of_counts(self.hits, self.predicted, self.actual)
    }
}

/// Scores predicted labels against true ones, one row a study, over `columns` of the rows.
///
/// # Errors
/// [`Error::Unpaired`] if the tables differ in rows, [`Error::Shape`] if a row lacks a column asked for.
pub fn score<R: AsRef<[Label]>>(
    predicted: &[R],
    truth: &[R],
    columns: &[usize],
    uncertain: Uncertain,
) -> Result<ClinicalScores, Error> {
    paired(predicted.len(), truth.len())?;
    let needed = columns.iter().max().map_or(0, |c| c + 1);
    for (side, table) in [("predicted", predicted), ("true", truth)] {
        if let Some((i, row)) = table.iter().enumerate().find(|(_, row)| row.as_ref().len() < needed) {
            let (what, found) = (format!("labels in {side} row {i}"), row.as_ref().len());
            return Err(Error::Shape { what, expected: needed, found });
        }
    }
    let present =
        |l: Label| l == Label::Positive || l == Label::Uncertain && uncertain == Uncertain::Positive;
    let mut labels = vec![Cells::default(); columns.len()];
    let (mut all, mut equal) = (Cells::default(), 0);
    let mut studies = Vec::with_capacity(truth.len());
    for (p, t) in predicted.iter().zip(truth) {
        let mut study = Cells::default();
        for (label, &c) in labels.iter_mut().zip(columns) {
            let (p, t) = (present(p.as_ref()[c]), present(t.as_ref()[c]));
            for cells in [label, &mut study, &mut all] {
                cells.add(p, t);
            }
            equal += usize::from(p == t);
        }
        studies.push(study.prf());
    }
    let per_label: Vec<Prf> = labels.iter().map(|c| c.prf()).collect();
    let support: usize = labels.iter().map(|c| c.actual).sum();
    let weighted = |pick: fn(&Prf) -> f64| {
        let sum: f64 = per_label.iter().zip(&labels).map(|(s, c)| pick(s) * c.actual as f64).sum();
        if support == 0 { 0.0 } else { sum / support as f64 }
    };
    Ok(ClinicalScores {
        macro_average: Prf::mean(&per_label),
        micro: all.prf(),
        weighted: Prf {
            precision: weighted(|s| s.precision),
            recall: weighted(|s| s.recall),
            f1: weighted(|s| s.f1),
        },
        samples: Prf::mean(&studies),
        accuracy: ratio(equal, truth.len() * columns.len()),
        labels: per_label,
    })
}

/// Mean F over pairs of label *sets* of any vocabulary, such as the image labels of a report. Two empty sets agree: 1.
pub fn set_f1<S: AsRef<str>>(predicted: &[S], truth: &[S]) -> f64 {
    let set = |labels: &[S]| -> std::collections::BTreeSet<String> {
        labels.iter().map(|l| l.as_ref().trim().to_lowercase()).filter(|l| !l.is_empty()).collect()
    };
    let (p, t) = (set(predicted), set(truth));
    if p.is_empty() && t.is_empty() {
        return 1.0;
    }
    Prf::of_counts(p.intersection(&t).count(), p.len(), t.len()).f1
}
