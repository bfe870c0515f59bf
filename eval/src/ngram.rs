//! What ROUGE, BLEU and their Chinese forms share: n-gram counts, overlap, longest common subsequence.

use std::collections::HashMap;
use std::hash::Hash;

use serde::{Deserialize, Serialize};

/// Precision, recall and their F score, each on 0..1.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Prf {
    /// Share of the hypothesis that the reference supports.
    pub precision: f64,
    /// Share of the reference that the hypothesis found.
    pub recall: f64,
    /// Harmonic mean of the two, 0 where both are 0.
    pub f1: f64,
}

impl Prf {
    /// The harmonic mean is taken here, so that `f1` always belongs to the other two.
    pub fn new(precision: f64, recall: f64) -> Self {
        let sum = precision + recall;
        let f1 = if sum > 0.0 { 2.0 * precision * recall / sum } else { 0.0 };
        Self { precision, recall, f1 }
    }

    /// `hits` over the two sizes; an empty side gives 0.
    pub fn of_counts(hits: usize, hypothesis: usize, reference: usize) -> Self {
        Self::new(ratio(hits, hypothesis), ratio(hits, reference))
    }

    /// Mean of each of the three numbers on its own, as the corpus scores of the papers are made; zeros if empty.
    pub fn mean<'a>(scores: impl IntoIterator<Item = &'a Prf>) -> Self {
        let (mut sum, mut n) = (Self::default(), 0usize);
        for s in scores {
            sum.precision += s.precision;
            sum.recall += s.recall;
            sum.f1 += s.f1;
            n += 1;
        }
        let n = n.max(1) as f64;
        Self { precision: sum.precision / n, recall: sum.recall / n, f1: sum.f1 / n }
    }
}

/// `a / b`, 0 where `b` is 0.
pub(crate) fn ratio(a: usize, b: usize) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

/// Mean of plain numbers, 0 if there are none.
pub(crate) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, n) = values.into_iter().fold((0.0, 0usize), |(s, n), v| (s + v, n + 1));
    if n == 0 { 0.0 } else { sum / n as f64 }
}

/// How often each n-gram of `tokens` occurs.
pub(crate) fn counts<T: Eq + Hash>(tokens: &[T], n: usize) -> HashMap<&[T], usize> {
    let mut map = HashMap::new();
    for gram in tokens.windows(n) {
        *map.entry(gram).or_insert(0) += 1;
    }
    map
}

/// Sum over n-grams of the smaller count.
pub(crate) fn overlap<T: Eq + Hash>(a: &HashMap<&[T], usize>, b: &HashMap<&[T], usize>) -> usize {
    a.iter().map(|(gram, &count)| count.min(b.get(gram).copied().unwrap_or(0))).sum()
}

/// Length of the longest common subsequence: O(|a|·|b|) time, one row of memory.
pub(crate) fn lcs_len<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row = vec![0usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = if x == y { diagonal + 1 } else { above.max(row[j]) };
            diagonal = above;
        }
    }
    row[b.len()]
}
