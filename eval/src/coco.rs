//! pycocoevalcap 1.2: BLEU-1 to BLEU-4, ROUGE-L and `CIDEr`, over text that is already tokenized and joined by
//! single spaces. `RaDialog`'s published scores are these, on nltk tokens in lower case ([`radialog_text`]).

use std::collections::{BTreeMap, BTreeSet};

use crate::bleu::{BleuStats, MAX_ORDER, ReferenceLength};
use crate::ngram::{lcs_len, mean};
use crate::punkt::Punkt;
use crate::word_tokenize::word_tokenize;

/// `RaDialog`'s preparation: line breaks and sentence marks are deleted *without* leaving a space, so "clear.\nNo"
/// becomes the word "clear.No"; then nltk tokens joined by spaces, in lower case.
pub fn radialog_text(punkt: &Punkt, text: &str) -> String {
    let text = text.replace('\n', "").replace("<s>", "").replace("</s>", "");
    word_tokenize(punkt, &text).join(" ").to_lowercase()
}

/// BLEU-1 … BLEU-4 on 0..1 from counts taken over white-space tokens with [`ReferenceLength::Closest`].
///
/// The tiny constants are the reference's; a segment too short for an order scores almost 0 there even if it is
/// identical ("normal ." has BLEU-4 0.001).
pub fn bleu(stats: &BleuStats) -> [f64; MAX_ORDER] {
    const TINY: f64 = 1e-15;
    const SMALL: f64 = 1e-9;
    let ratio = (stats.hyp_len as f64 + TINY) / (stats.ref_len as f64 + SMALL);
    let penalty = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
    let mut product = 1.0;
    std::array::from_fn(|k| {
        product *= (stats.matches[k] as f64 + TINY) / (stats.totals[k] as f64 + SMALL);
        product.powf(1.0 / (k + 1) as f64) * penalty
    })
}

/// Counts one segment for [`bleu`].
pub fn bleu_segment(hypothesis: &str, references: &[&str]) -> BleuStats {
    let split = |t: &str| -> Vec<String> { t.split_whitespace().map(str::to_owned).collect() };
    let references: Vec<_> = references.iter().map(|r| split(r)).collect();
    BleuStats::segment(&split(hypothesis), &references, ReferenceLength::Closest)
}

/// ROUGE-L with β = 1.2; precision and recall take their best reference separately.
///
/// Texts are split at single spaces, so an empty text is one empty token and two empty texts score 1.
pub fn rouge_l(hypothesis: &str, references: &[&str]) -> f64 {
    const BETA2: f64 = 1.2 * 1.2;
    let hyp: Vec<&str> = hypothesis.split(' ').collect();
    let (mut p, mut r) = (0.0f64, 0.0f64);
    for reference in references {
        let re: Vec<&str> = reference.split(' ').collect();
        let common = lcs_len(&hyp, &re) as f64;
        p = p.max(common / hyp.len() as f64);
        r = r.max(common / re.len() as f64);
    }
    if p > 0.0 && r > 0.0 { (1.0 + BETA2) * p * r / (r + BETA2 * p) } else { 0.0 }
}

/// `CIDEr` (its D form: clipped counts and a length penalty with σ = 6), on 0..10. Document frequencies come from the
/// corpus' own references, so scores of different corpora are not comparable.
///
/// Each item is a hypothesis with its references. Returns the corpus mean and the score of each item.
pub fn cider(items: &[(&str, Vec<&str>)]) -> (f64, Vec<f64>) {
    let mut frequency: BTreeMap<Vec<&str>, f64> = BTreeMap::new();
    for (_, references) in items {
        let grams: BTreeSet<Vec<&str>> = references.iter().flat_map(|r| term_counts(r).into_keys()).collect();
        for gram in grams {
            *frequency.entry(gram).or_insert(0.0) += 1.0;
        }
    }
    let log_items = (items.len() as f64).ln();
    let vector = |text| TermVector::new(text, &frequency, log_items);
    let scores: Vec<f64> = items
        .iter()
        .map(|(hypothesis, references)| {
            let hyp = vector(hypothesis);
            10.0 * mean(references.iter().map(|r| hyp.similarity(&vector(r))))
        })
        .collect();
    (mean(scores.iter().copied()), scores)
}

fn term_counts(text: &str) -> BTreeMap<Vec<&str>, f64> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut counts = BTreeMap::new();
    for n in 1..=MAX_ORDER {
        for gram in words.windows(n) {
            *counts.entry(gram.to_vec()).or_insert(0.0) += 1.0;
        }
    }
    counts
}

/// n-grams of one text, weighted by how rare they are in the corpus. Ordered maps make sums reproducible.
struct TermVector<'t> {
    weights: [BTreeMap<Vec<&'t str>, f64>; MAX_ORDER],
    norms: [f64; MAX_ORDER],
    /// Number of word pairs: the reference takes this as the text's length.
    length: f64,
}

impl<'t> TermVector<'t> {
    fn new(text: &'t str, frequency: &BTreeMap<Vec<&str>, f64>, log_items: f64) -> Self {
        let mut vector = Self { weights: Default::default(), norms: [0.0; MAX_ORDER], length: 0.0 };
        for (gram, count) in term_counts(text) {
            let n = gram.len() - 1;
            let seen = frequency.get(&gram).copied().unwrap_or(0.0).max(1.0);
            let weight = count * (log_items - seen.ln());
            vector.norms[n] += weight * weight;
            if n == 1 {
                vector.length += count;
            }
            vector.weights[n].insert(gram, weight);
        }
        vector.norms = vector.norms.map(f64::sqrt);
        vector
    }

    fn similarity(&self, reference: &Self) -> f64 {
        const SIGMA: f64 = 6.0;
        let delta = self.length - reference.length;
        let penalty = (-delta * delta / (2.0 * SIGMA * SIGMA)).exp();
        let order = |n: usize| {
            let dot: f64 = self.weights[n]
                .iter()
                .filter_map(|(gram, w)| reference.weights[n].get(gram).map(|r| w.min(*r) * r))
                .sum();
            let norm = self.norms[n] * reference.norms[n];
            if norm == 0.0 { 0.0 } else { dot / norm * penalty }
        };
        mean((0..MAX_ORDER).map(order))
    }
}
