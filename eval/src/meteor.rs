//! METEOR (Banerjee and Lavie, 2005) as nltk computes it, which is also `evaluate`'s meteor.
//!
//! This is not METEOR 1.5, the Java program behind pycocoevalcap: that one has another stemmer, paraphrases, word
//! weights and a beam search, and its numbers are not comparable. It is not built here.

use std::collections::HashMap;

use nltk_porter::{Mode, PorterStemmer};

use crate::wordnet::Synonyms;

/// Weight of precision against recall in the mean.
const ALPHA: f64 = 0.9;
/// Shape of the fragmentation penalty.
const BETA: f64 = 3.0;
/// Largest penalty.
const GAMMA: f64 = 0.5;

/// The scorer: a stemmer and a source of synonyms.
pub struct Meteor<S> {
    stemmer: PorterStemmer,
    synonyms: S,
}

impl<S: Synonyms> Meteor<S> {
    /// nltk uses [`crate::wordnet::WordNet`] 3.0.
    pub fn new(synonyms: S) -> Self {
        Self { stemmer: PorterStemmer::new(Mode::Nltk), synonyms }
    }

    /// Matched (hypothesis, reference) positions, in the order of the hypothesis.
    ///
    /// Three stages: the word itself, its Porter stem, a synonym of its stem. Each takes hypothesis words from last
    /// to first and gives each the last free reference word that fits; crossings are not avoided.
    pub fn align(&self, hypothesis: &[String], reference: &[String]) -> Vec<(usize, usize)> {
        let lower = |tokens: &[String]| -> Vec<(usize, String)> {
            tokens.iter().map(|t| t.to_lowercase()).enumerate().collect()
        };
        let (mut hyp, mut re) = (lower(hypothesis), lower(reference));
        let mut matches = take_matches(&mut hyp, &mut re, |h, r| h == r);
        for (_, word) in hyp.iter_mut().chain(&mut re) {
            *word = self.stemmer.stem(word);
        }
        matches.extend(take_matches(&mut hyp, &mut re, |h, r| h == r));
        let mut known = HashMap::new();
        for (_, stem) in &hyp {
            known.entry(stem.clone()).or_insert_with(|| self.synonyms.related(stem));
        }
        matches.extend(take_matches(&mut hyp, &mut re, |h, r| known.get(h).is_some_and(|k| k.contains(r))));
        matches.sort_unstable();
        matches
    }

    /// Score of one pair of token lists. An identical text of m tokens scores 1 − 0.5/m³, not 1; an empty side 0.
    pub fn score(&self, hypothesis: &[String], reference: &[String]) -> f64 {
        let alignment = self.align(hypothesis, reference);
        let matched = alignment.len() as f64;
        if alignment.is_empty() {
            return 0.0;
        }
        let (p, r) = (matched / hypothesis.len() as f64, matched / reference.len() as f64);
        let mean = p * r / (ALPHA * p + (1.0 - ALPHA) * r);
        let breaks = alignment.windows(2).filter(|w| w[1] != (w[0].0 + 1, w[0].1 + 1)).count();
        let penalty = GAMMA * ((breaks + 1) as f64 / matched).powf(BETA);
        (1.0 - penalty) * mean
    }

    /// Best score over several references; 0 if there are none.
    pub fn score_multi<R: AsRef<[String]>>(&self, hypothesis: &[String], references: &[R]) -> f64 {
        references.iter().map(|r| self.score(hypothesis, r.as_ref())).fold(0.0, f64::max)
    }
}

type Words = Vec<(usize, String)>;

/// Removes and returns the pairs that fit.
fn take_matches(hyp: &mut Words, re: &mut Words, fits: impl Fn(&str, &str) -> bool) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    for i in (0..hyp.len()).rev() {
        if let Some(j) = re.iter().rposition(|(_, word)| fits(&hyp[i].1, word)) {
            pairs.push((hyp.remove(i).0, re.remove(j).0));
        }
    }
    pairs
}
