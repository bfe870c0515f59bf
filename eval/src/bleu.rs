//! BLEU (Papineni et al., 2002) in the forms of `evaluate`, sacrebleu and nltk.
//!
//! All of them clip n-gram counts at the reference's; they differ in the tokens, in which reference length they
//! take, and in what they do when an order has no match. [`BleuStats`] holds what is common.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use crate::ngram::{counts, ratio};

/// Longest n-gram counted.
pub const MAX_ORDER: usize = 4;

/// Which of several references gives its length to the brevity penalty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferenceLength {
    /// The one nearest to the hypothesis, the shorter of two equally near (sacrebleu, nltk, pycocoevalcap).
    Closest,
    /// The shortest (`evaluate`).
    Shortest,
}

/// Clipped n-gram counts, summed over segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BleuStats {
    /// Matched n-grams of each order.
    pub matches: [usize; MAX_ORDER],
    /// n-grams of the hypotheses.
    pub totals: [usize; MAX_ORDER],
    /// Tokens of the hypotheses.
    pub hyp_len: usize,
    /// Tokens of the chosen references.
    pub ref_len: usize,
    /// Segments added.
    pub segments: usize,
}

impl BleuStats {
    /// Counts one segment against its references (none: everything but the hypothesis counts as 0).
    pub fn segment<S: AsRef<[String]>>(hyp: &[String], references: &[S], length: ReferenceLength) -> Self {
        let mut stats = Self { hyp_len: hyp.len(), segments: 1, ..Self::default() };
        let lengths = references.iter().map(|r| r.as_ref().len());
        stats.ref_len = match length {
            ReferenceLength::Closest => lengths.min_by_key(|&l| (l.abs_diff(hyp.len()), l)),
            ReferenceLength::Shortest => lengths.min(),
        }
        .unwrap_or(0);
        for n in 1..=MAX_ORDER {
            let found = counts(hyp, n);
            let wanted: Vec<_> = references.iter().map(|r| counts(r.as_ref(), n)).collect();
            stats.totals[n - 1] = (hyp.len() + 1).saturating_sub(n);
            stats.matches[n - 1] = found
                .iter()
                .map(|(gram, &count)| {
                    let most = wanted.iter().filter_map(|w| w.get(gram)).max().copied().unwrap_or(0);
                    count.min(most)
                })
                .sum();
        }
        stats
    }

    /// Counts one segment with one reference, where both length rules agree.
    pub fn pair(hyp: &[String], reference: &[String]) -> Self {
        Self::segment(hyp, &[reference], ReferenceLength::Closest)
    }
}

impl std::ops::AddAssign for BleuStats {
    fn add_assign(&mut self, other: Self) {
        for n in 0..MAX_ORDER {
            self.matches[n] += other.matches[n];
            self.totals[n] += other.totals[n];
        }
        self.hyp_len += other.hyp_len;
        self.ref_len += other.ref_len;
        self.segments += other.segments;
    }
}

/// A BLEU score and its parts. `score` and `precisions` are on 0..1 or 0..100, as the function says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bleu {
    /// The score.
    pub score: f64,
    /// Precision of each order, after smoothing.
    pub precisions: [f64; MAX_ORDER],
    /// Brevity penalty, 0..1.
    pub brevity_penalty: f64,
    /// Tokens of the hypotheses.
    pub hyp_len: usize,
    /// Tokens of the chosen references.
    pub ref_len: usize,
}

/// `evaluate`'s bleu, on 0..1. Feed it [`tokenize_13a`] tokens counted with [`ReferenceLength::Shortest`].
///
/// `smooth` adds one to matches and totals of every order. Where `evaluate` divides by zero (no hypothesis or
/// reference token in the whole corpus) this is `None`.
pub fn evaluate(stats: &BleuStats, smooth: bool) -> Option<Bleu> {
    if stats.hyp_len == 0 || stats.ref_len == 0 {
        return None;
    }
    let add = usize::from(smooth);
    let mut precisions = [0.0; MAX_ORDER];
    for (p, (&m, &t)) in precisions.iter_mut().zip(stats.matches.iter().zip(&stats.totals)) {
        *p = ratio(m + add, t + add);
    }
    // At equal lengths exp(1 - 1) is 1 as well, so `evaluate`'s "<=" needs no case of its own.
    let brevity_penalty = brevity(stats);
    Some(Bleu {
        score: geometric_mean(&precisions) * brevity_penalty,
        precisions,
        brevity_penalty,
        hyp_len: stats.hyp_len,
        ref_len: stats.ref_len,
    })
}

/// What sacrebleu puts in place of an order without a match.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Smoothing {
    /// Nothing: the score is 0.
    None,
    /// The k-th empty order gets 1/(2^k · total): sacrebleu's default.
    Exp,
    /// This many matches (sacrebleu's default 0.1).
    Floor(f64),
    /// Adds this to matches and totals from order 2 on (sacrebleu's default 1).
    AddK(f64),
}

/// sacrebleu's BLEU, on 0..100. Feed it [`tokenize_13a`] tokens counted with [`ReferenceLength::Closest`].
///
/// `effective_order` stops at the last order the hypothesis is long enough for; sacrebleu's `sentence_bleu` sets
/// it, `corpus_bleu` does not.
pub fn sacrebleu(stats: &BleuStats, smoothing: Smoothing, effective_order: bool) -> Bleu {
    let mut bleu = Bleu {
        score: 0.0,
        precisions: [0.0; MAX_ORDER],
        brevity_penalty: brevity(stats),
        hyp_len: stats.hyp_len,
        ref_len: stats.ref_len,
    };
    if stats.matches == [0; MAX_ORDER] {
        return bleu;
    }
    let mut order = MAX_ORDER;
    let mut halving = 1.0;
    for n in 0..MAX_ORDER {
        let (mut m, mut t) = (stats.matches[n] as f64, stats.totals[n] as f64);
        if let (Smoothing::AddK(k), 1..) = (smoothing, n) {
            m += k;
            t += k;
        }
        if t == 0.0 {
            break;
        }
        if effective_order {
            order = n + 1;
        }
        if m == 0.0 {
            m = match smoothing {
                Smoothing::Exp => {
                    halving *= 2.0;
                    1.0 / halving
                }
                Smoothing::Floor(value) => value,
                Smoothing::None | Smoothing::AddK(_) => 0.0,
            };
        }
        bleu.precisions[n] = 100.0 * m / t;
    }
    bleu.score = bleu.brevity_penalty * geometric_mean(&bleu.precisions[..order]);
    bleu
}

/// nltk's `corpus_bleu`/`sentence_bleu` over the caller's tokens, on 0..1. Count the segments with [`nltk_segment`].
///
/// `method1` replaces an order's zero matches by 0.1; without it nltk puts the smallest positive double there, so
/// the score is about 1e-78 or less and not 0.
pub fn nltk(stats: &BleuStats, method1: bool) -> f64 {
    if stats.matches[0] == 0 {
        return 0.0;
    }
    let mut log_sum = 0.0;
    for (&m, &t) in stats.matches.iter().zip(&stats.totals) {
        let p = match (m, method1) {
            (0, true) => 0.1 / t.max(1) as f64,
            (0, false) => f64::MIN_POSITIVE,
            _ => m as f64 / t as f64,
        };
        log_sum += p.ln() / MAX_ORDER as f64;
    }
    brevity(stats) * log_sum.exp()
}

/// Counts a segment as nltk does: an order the hypothesis is too short for still adds one to the total.
pub fn nltk_segment<S: AsRef<[String]>>(hyp: &[String], references: &[S]) -> BleuStats {
    let mut stats = BleuStats::segment(hyp, references, ReferenceLength::Closest);
    for t in &mut stats.totals {
        *t = (*t).max(1);
    }
    stats
}

fn brevity(stats: &BleuStats) -> f64 {
    match (stats.hyp_len, stats.ref_len) {
        (0, 0) => 1.0,
        (0, _) => 0.0,
        (h, r) if h < r => (1.0 - r as f64 / h as f64).exp(),
        _ => 1.0,
    }
}

/// 0 as soon as one factor is 0.
fn geometric_mean(values: &[f64]) -> f64 {
    if values.is_empty() || values.iter().any(|&v| v <= 0.0) {
        return 0.0;
    }
    (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp()
}

/// The tokenizer `13a` of mteval-v13a, shared by `evaluate` and sacrebleu. Case is kept; punctuation outside ASCII
/// is never split off.
pub fn tokenize_13a(text: &str) -> Vec<String> {
    static PASSES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let re = |p| Regex::new(p).expect("the pattern is a constant");
        [
            (re(r"[{-~\[-` -&(-+:-@/]"), " $0 "),
            (re(r"([^0-9])([.,])"), "$1 $2 "),
            (re(r"([.,])([^0-9])"), " $1 $2"),
            (re(r"([0-9])(-)"), "$1 $2 "),
        ]
    });
    let mut line = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    if line.contains('&') {
        for (entity, character) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
            line = line.replace(entity, character);
        }
    }
    line = format!(" {line} ");
    for (pattern, with) in PASSES.iter() {
        line = pattern.replace_all(&line, *with).into_owned();
    }
    line.split_whitespace().map(str::to_owned).collect()
}
