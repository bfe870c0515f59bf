//! ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum as rouge-score 0.1.2 computes them (C.-Y. Lin, 2004).
//!
//! The corpus score here is the plain mean. `evaluate` reports the median of 1,000 bootstrap means instead,
//! from an unseeded generator, so its third decimal moves from run to run.

use std::collections::HashMap;

use nltk_porter::{Mode, PorterStemmer};
use serde::{Deserialize, Serialize};

use crate::Prf;
use crate::error::{Error, paired};
use crate::ngram::{counts, lcs_len, overlap};

/// The four ROUGE scores of one pair, or their mean over a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct RougeScores {
    /// Single words.
    pub rouge1: Prf,
    /// Word pairs: 0 for a one-word text, even an identical one.
    pub rouge2: Prf,
    /// Longest common subsequence of the whole texts; line breaks do not count.
    pub rouge_l: Prf,
    /// Union of longest common subsequences, line by line.
    pub rouge_lsum: Prf,
}

impl RougeScores {
    /// Mean of every number over the pairs; zeros if there are none.
    pub fn mean(scores: &[Self]) -> Self {
        let of = |pick: fn(&Self) -> &Prf| Prf::mean(scores.iter().map(pick));
        Self {
            rouge1: of(|s| &s.rouge1),
            rouge2: of(|s| &s.rouge2),
            rouge_l: of(|s| &s.rouge_l),
            rouge_lsum: of(|s| &s.rouge_lsum),
        }
    }
}

/// The scorer: tokenizer, with or without NLTK's Porter stemmer, and counts.
pub struct Rouge {
    stemmer: Option<PorterStemmer>,
}

impl Rouge {
    /// `stem`: reduce tokens longer than three letters to their Porter stems. rouge-score's default is `false`.
    pub fn new(stem: bool) -> Self {
        Self { stemmer: stem.then(|| PorterStemmer::new(Mode::Nltk)) }
    }

    /// Runs of `[a-z0-9]` in the lower-cased text. Every other character separates, so "œdème" gives "d", "me",
    /// and a Chinese text has no tokens at all.
    pub fn tokenize(&self, text: &str) -> Vec<String> {
        text.to_lowercase()
            .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
            .filter(|t| !t.is_empty())
            .map(|t| match &self.stemmer {
                Some(stemmer) if t.len() > 3 => stemmer.stem(t),
                _ => t.to_owned(),
            })
            .filter(|t| !t.is_empty())
            .collect()
    }

    /// Scores one pair; an empty side gives zeros.
    pub fn score(&self, hypothesis: &str, reference: &str) -> RougeScores {
        let (hyp, re) = (self.tokenize(hypothesis), self.tokenize(reference));
        let lines = |text: &str| -> Vec<Vec<String>> {
            text.split('\n').filter(|l| !l.is_empty()).map(|l| self.tokenize(l)).collect()
        };
        RougeScores {
            rouge1: rouge_n(&hyp, &re, 1),
            rouge2: rouge_n(&hyp, &re, 2),
            rouge_l: Prf::of_counts(lcs_len(&hyp, &re), hyp.len(), re.len()),
            rouge_lsum: summary_lcs(&lines(hypothesis), &lines(reference)),
        }
    }

    /// Scores against several references: for each of the four types, the reference with the highest F.
    pub fn score_multi(&self, hypothesis: &str, references: &[&str]) -> RougeScores {
        let all: Vec<_> = references.iter().map(|r| self.score(hypothesis, r)).collect();
        let best = |pick: fn(&RougeScores) -> Prf| {
            all.iter().map(pick).reduce(|a, b| if b.f1 > a.f1 { b } else { a }).unwrap_or_default()
        };
        RougeScores {
            rouge1: best(|s| s.rouge1),
            rouge2: best(|s| s.rouge2),
            rouge_l: best(|s| s.rouge_l),
            rouge_lsum: best(|s| s.rouge_lsum),
        }
    }

    /// Mean over a corpus of pairs.
    ///
    /// # Errors
    /// [`Error::Unpaired`] if the two sides differ in number.
    pub fn corpus<S: AsRef<str>>(&self, hypotheses: &[S], references: &[S]) -> Result<RougeScores, Error> {
        paired(hypotheses.len(), references.len())?;
        let scores: Vec<_> =
            hypotheses.iter().zip(references).map(|(h, r)| self.score(h.as_ref(), r.as_ref())).collect();
        Ok(RougeScores::mean(&scores))
    }
}

fn rouge_n(hyp: &[String], re: &[String], n: usize) -> Prf {
    let size = |tokens: &[String]| (tokens.len() + 1).saturating_sub(n);
    Prf::of_counts(overlap(&counts(hyp, n), &counts(re, n)), size(hyp), size(re))
}

/// ROUGE-Lsum: every reference line is covered by the union of its common subsequences with all hypothesis lines;
/// a covered word counts while both texts still have an unspent copy of it.
fn summary_lcs(hyp: &[Vec<String>], re: &[Vec<String>]) -> Prf {
    let (hyp_len, re_len) = (hyp.iter().map(Vec::len).sum(), re.iter().map(Vec::len).sum());
    let bag = |lines: &[Vec<String>]| {
        let mut left: HashMap<String, usize> = HashMap::new();
        for word in lines.iter().flatten() {
            *left.entry(word.clone()).or_insert(0) += 1;
        }
        left
    };
    let (mut hyp_left, mut re_left) = (bag(hyp), bag(re));
    let mut hits = 0;
    for line in re {
        let mut covered = vec![false; line.len()];
        for other in hyp {
            mark_lcs(line, other, &mut covered);
        }
        for (word, _) in line.iter().zip(&covered).filter(|&(_, &c)| c) {
            if let (Some(h @ 1..), Some(r @ 1..)) = (hyp_left.get_mut(word), re_left.get_mut(word)) {
                *h -= 1;
                *r -= 1;
                hits += 1;
            }
        }
    }
    Prf::of_counts(hits, hyp_len, re_len)
}

/// Marks the words of `line` on one longest common subsequence with `other`. Which one, where there are several,
/// follows rouge-score's back-trace.
fn mark_lcs(line: &[String], other: &[String], covered: &mut [bool]) {
    let width = other.len() + 1;
    let mut table = vec![0u32; (line.len() + 1) * width];
    for (i, x) in line.iter().enumerate() {
        for (j, y) in other.iter().enumerate() {
            table[(i + 1) * width + j + 1] = if x == y {
                table[i * width + j] + 1
            } else {
                table[i * width + j + 1].max(table[(i + 1) * width + j])
            };
        }
    }
    let (mut i, mut j) = (line.len(), other.len());
    while i > 0 && j > 0 {
        if line[i - 1] == other[j - 1] {
            covered[i - 1] = true;
            i -= 1;
            j -= 1;
        } else if table[i * width + j - 1] > table[(i - 1) * width + j] {
            j -= 1;
        } else {
            i -= 1;
        }
    }
}
