//! Scores of Chinese impressions as the public ChatGLM-6B P-tuning script makes them: rouge-chinese 1.0.3 over words,
//! nltk BLEU-4 over characters, ×100.
//!
//! The words come from the caller (the published scores use jieba's accurate mode), so that this crate carries no
//! dictionary.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::bleu::MAX_ORDER;
use crate::ngram::{counts, lcs_len, mean, overlap};

/// ROUGE F scores and BLEU-4 of one pair or a corpus, on 0..100.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct ChineseScores {
    /// Distinct words.
    #[serde(rename = "rouge-1")]
    pub rouge1: f64,
    /// Distinct word pairs.
    #[serde(rename = "rouge-2")]
    pub rouge2: f64,
    /// Longest common subsequence of words.
    #[serde(rename = "rouge-l")]
    pub rouge_l: f64,
    /// Characters, white space included.
    #[serde(rename = "bleu-4")]
    pub bleu4: f64,
}

/// One side of a pair: the text and its segmentation.
#[derive(Debug, Clone, Copy)]
pub struct Segmented<'t> {
    /// The text as decoded.
    pub text: &'t str,
    /// Its words in order, as jieba gives them (white space is a word, too).
    pub tokens: &'t [String],
}

/// Scores one pair; each value is rounded to 4 decimals, half to even, as the script does before it averages.
///
/// A blank side makes the three ROUGE scores 0 (the script's own code raises an error there).
pub fn score(hypothesis: Segmented, reference: Segmented) -> ChineseScores {
    let mut scores =
        ChineseScores { bleu4: percent(bleu4(hypothesis.text, reference.text)), ..Default::default() };
    let blank = |s: Segmented| s.tokens.iter().all(|t| t.trim().is_empty());
    if !blank(hypothesis) && !blank(reference) {
        let (hyp, re) = (rouge_words(hypothesis.tokens), rouge_words(reference.tokens));
        let common = lcs_len(&hyp, &re);
        scores.rouge1 = percent(set_rouge(&hyp, &re, 1));
        scores.rouge2 = percent(set_rouge(&hyp, &re, 2));
        scores.rouge_l = percent(f_score(common, hyp.len(), re.len()));
    }
    scores
}

/// Mean over a corpus of scored pairs; zeros if there are none.
pub fn corpus(scores: &[ChineseScores]) -> ChineseScores {
    let of = |pick: fn(&ChineseScores) -> f64| mean(scores.iter().map(pick));
    ChineseScores {
        rouge1: of(|s| s.rouge1),
        rouge2: of(|s| s.rouge2),
        rouge_l: of(|s| s.rouge_l),
        bleu4: of(|s| s.bleu4),
    }
}

fn percent(score: f64) -> f64 {
    (score * 100.0 * 1e4).round_ties_even() / 1e4
}

/// The word list rouge-chinese counts: sentences after its own splitting rules, then white-space words. A line break
/// that follows `。！？?` leaves a blank sentence, which counts as one empty word.
pub fn rouge_words(tokens: &[String]) -> Vec<String> {
    static BREAKS: LazyLock<[Regex; 4]> = LazyLock::new(|| {
        [r"([。！？?])([^”’])", r"(\.{6})([^”’])", r"(…{2})([^”’])", r"([。！？?][”’])([^，。！？?])"]
            .map(|p| Regex::new(p).expect("the pattern is a constant"))
    });
    let mut text = tokens.join(" ");
    for rule in BREAKS.iter() {
        text = rule.replace_all(&text, "$1\n$2").into_owned();
    }
    let mut words = Vec::new();
    for sentence in text.trim_end().split('\n').filter(|s| !s.is_empty()) {
        let before = words.len();
        words.extend(sentence.split_whitespace().map(str::to_owned));
        if words.len() == before {
            words.push(String::new());
        }
    }
    words
}

/// F over the *distinct* n-grams, which is where rouge-chinese leaves Lin's definition.
fn set_rouge(hyp: &[String], re: &[String], n: usize) -> f64 {
    let grams = |words: &'_ [String]| words.windows(n).map(<[String]>::to_vec).collect::<HashSet<_>>();
    let (h, r) = (grams(hyp), grams(re));
    f_score(h.intersection(&r).count(), h.len(), r.len())
}

fn f_score(common: usize, hyp: usize, re: usize) -> f64 {
    let (p, r) = (crate::ngram::ratio(common, hyp), crate::ngram::ratio(common, re));
    2.0 * p * r / (p + r + 1e-8)
}

/// nltk's sentence BLEU-4 over characters with smoothing method 3, on 0..1.
///
/// Identical texts of fewer than four characters score below 1.
pub fn bleu4(hypothesis: &str, reference: &str) -> f64 {
    let (hyp, re): (Vec<char>, Vec<char>) = (hypothesis.chars().collect(), reference.chars().collect());
    let (mut log_sum, mut halving) = (0.0, 1.0);
    for n in 1..=MAX_ORDER {
        let found = overlap(&counts(&hyp, n), &counts(&re, n));
        let total = (hyp.len() + 1).saturating_sub(n).max(1) as f64;
        if found == 0 && n == 1 {
            return 0.0;
        }
        let p = if found == 0 {
            halving *= 2.0;
            1.0 / (halving * total)
        } else {
            found as f64 / total
        };
        log_sum += p.ln() / MAX_ORDER as f64;
    }
    let penalty = if hyp.len() > re.len() { 1.0 } else { (1.0 - re.len() as f64 / hyp.len() as f64).exp() };
    penalty * log_sum.exp()
}
