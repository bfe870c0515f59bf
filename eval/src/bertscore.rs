//! `BERTScore`'s greedy matching (Zhang et al., 2020) over embeddings the caller brings.
//!
//! The encoder is no part of this crate: for English `bert_score` takes roberta-large's hidden states after layer 17,
//! special tokens included. [`BertScorer`] scores texts with an encoder that the caller brings as a [`TextEncoder`].

mod known;
mod texts;

use std::collections::{HashMap, HashSet};

pub use known::{default_layer, known_names};
pub use texts::{BertScorer, TextEncoder};

use crate::{Error, Prf};

/// One text's token embeddings, without padding.
#[derive(Debug, Clone, Copy)]
pub struct Embeddings<'e> {
    /// `[tokens, dim]`, row-major, f32, not normalised. First and last token are the special ones.
    pub values: &'e [f32],
    /// Width of a row.
    pub dim: usize,
    /// One weight per token: 1 (or an [`Idf`] weight) for words, 0 for the two special tokens.
    pub weights: &'e [f32],
}

impl Embeddings<'_> {
    /// Rows scaled to length 1; a row of zeros stays zero.
    fn unit_rows(&self, side: &str) -> Result<Vec<f32>, Error> {
        let expected = self.weights.len() * self.dim;
        if self.values.len() != expected {
            let what = format!("{side} embeddings of {} tokens of width {}", self.weights.len(), self.dim);
            return Err(Error::Shape { what, expected, found: self.values.len() });
        }
        let mut rows = self.values.to_vec();
        for row in rows.chunks_exact_mut(self.dim.max(1)) {
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
            if norm > 0.0 {
                for v in row {
                    *v /= norm;
                }
            }
        }
        Ok(rows)
    }
}

/// Score of one pair. Every token takes its most similar token of the other side (special tokens included);
/// precision is the weighted mean over the hypothesis, recall over the reference.
///
/// A side of special tokens only (two tokens or fewer, or weights that sum to 0) gives zeros. In a padded batch the
/// reference code lets padding enter each maximum as a 0; here there is none.
///
/// # Errors
/// [`Error::Shape`] if values, width and weights do not fit together, or the two widths differ.
pub fn greedy(hypothesis: Embeddings, reference: Embeddings) -> Result<Prf, Error> {
    if hypothesis.dim != reference.dim {
        let what = "reference embedding width (the hypothesis sets what is expected)".to_owned();
        return Err(Error::Shape { what, expected: hypothesis.dim, found: reference.dim });
    }
    let hyp = hypothesis.unit_rows("hypothesis")?;
    let re = reference.unit_rows("reference")?;
    let (h, r) = (hypothesis.weights.len(), reference.weights.len());
    let total = |weights: &[f32]| weights.iter().sum::<f32>();
    if h <= 2 || r <= 2 || total(hypothesis.weights) == 0.0 || total(reference.weights) == 0.0 {
        return Ok(Prf::default());
    }
    let dim = hypothesis.dim.max(1);
    let (mut best_hyp, mut best_re) = (vec![f32::NEG_INFINITY; h], vec![f32::NEG_INFINITY; r]);
    for (x, best_x) in hyp.chunks_exact(dim).zip(&mut best_hyp) {
        for (y, best_y) in re.chunks_exact(dim).zip(&mut best_re) {
            let cosine: f32 = x.iter().zip(y).map(|(a, b)| a * b).sum();
            *best_x = best_x.max(cosine);
            *best_y = best_y.max(cosine);
        }
    }
    let weighted = |best: &[f32], weights: &[f32]| {
        let sum: f32 = best.iter().zip(weights).map(|(b, w)| b * w).sum();
        f64::from(sum / total(weights))
    };
    let (precision, recall) =
        (weighted(&best_hyp, hypothesis.weights), weighted(&best_re, reference.weights));
    // Not Prf::new: cosines may be negative, and then bert_score's formula still applies.
    let f1 = 2.0 * precision * recall / (precision + recall);
    Ok(Prf { precision, recall, f1: if f1.is_nan() { 0.0 } else { f1 } })
}

/// Baselines of rescaling: (x − b)/(1 − b), separately for the three numbers. Off by default in `bert_score`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Baseline(
    /// b of precision, recall, F.
    pub Prf,
);

impl Baseline {
    /// The score on the rescaled scale, which is negative below the baseline.
    pub fn rescale(&self, score: Prf) -> Prf {
        let one = |x: f64, b: f64| (x - b) / (1.0 - b);
        Prf {
            precision: one(score.precision, self.0.precision),
            recall: one(score.recall, self.0.recall),
            f1: one(score.f1, self.0.f1),
        }
    }
}

/// Inverse document frequencies of the word pieces over a corpus of references.
#[derive(Debug, Clone)]
pub struct Idf {
    documents: f64,
    frequency: HashMap<u32, f64>,
}

impl Idf {
    /// Counts in how many references (lists of piece ids) each piece occurs.
    pub fn fit<R: AsRef<[u32]>>(references: &[R]) -> Self {
        let mut frequency = HashMap::new();
        for reference in references {
            for id in reference.as_ref().iter().collect::<HashSet<_>>() {
                *frequency.entry(*id).or_insert(0.0) += 1.0;
            }
        }
        Self { documents: references.len() as f64, frequency }
    }

    /// ln((N + 1)/(df + 1)); a special token that is in every reference gets 0, an unseen piece ln(N + 1).
    pub fn weight(&self, id: u32) -> f32 {
        let df = self.frequency.get(&id).copied().unwrap_or(0.0);
        ((self.documents + 1.0) / (df + 1.0)).ln() as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identical_texts_score_one_and_bad_shapes_are_named() {
        let values = [1.0, 2.0, 3.0, -1.0, 0.5, 0.25, 7.0, 0.0];
        let text = Embeddings { values: &values, dim: 2, weights: &[0.0, 1.0, 1.0, 0.0] };
        let score = greedy(text, text).unwrap();
        assert!((score.f1 - 1.0).abs() < 1e-6);
        let short = Embeddings { values: &values[1..], ..text };
        assert!(greedy(short, text).unwrap_err().to_string().contains("hypothesis embeddings of 4 tokens"));
        let wide = Embeddings { values: &values, dim: 4, weights: &[0.0, 1.0] };
        assert!(greedy(text, wide).is_err());
    }

    #[test]
    fn idf_of_common_and_unseen_pieces() {
        let idf = Idf::fit(&[[1, 2], [1, 3]]);
        assert_eq!(idf.weight(1), 0.0);
        assert!((idf.weight(2) - 1.5f32.ln()).abs() < 1e-6);
        assert!((idf.weight(9) - 3f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn rescaling_maps_the_baseline_to_zero() {
        let Baseline(b) = Baseline::ROBERTA_LARGE_17;
        assert_eq!(Baseline::ROBERTA_LARGE_17.rescale(b), Prf::default());
    }
}
