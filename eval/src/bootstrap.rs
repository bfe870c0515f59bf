//! How sure a corpus score is: percentile intervals by resampling the pairs (Efron & Tibshirani 1993, ch. 13), and
//! the paired test of a difference (Koehn 2004, with the shift of Riezler & Maxwell 2005, as sacrebleu has it).
//!
//! A corpus score is computed anew from each resample's per-pair numbers: BLEU's counts are summed and its formula
//! applied, ratios are sums over sums. Nothing is averaged that the score itself does not average.

use serde::{Deserialize, Serialize};

use crate::bleu::{self, BleuStats};
use crate::ngram::mean;
use crate::table::Metric;

/// Per-pair numbers of a corpus score, in the order of the pairs.
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    /// The score is their mean.
    Mean(Vec<f64>),
    /// The score is the sum of the first over the sum of the second: shares of the pairs that count, micro averages.
    Ratio(Vec<(f64, f64)>),
    /// The score is `evaluate`'s bleu of the summed counts, 0 where that would divide by zero.
    Bleu(Vec<BleuStats>),
}

impl Samples {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        match self {
            Self::Mean(values) => values.len(),
            Self::Ratio(values) => values.len(),
            Self::Bleu(values) => values.len(),
        }
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The score of all pairs; not a number where nothing counts.
    pub fn value(&self) -> f64 {
        self.of(0..self.len())
    }

    /// The score of the pairs with these indices, which may repeat.
    fn of(&self, indices: impl Iterator<Item = usize>) -> f64 {
        match self {
            Self::Mean(values) => mean(indices.map(|i| values[i])),
            Self::Ratio(values) => {
                let (a, b) = indices.fold((0.0, 0.0), |(a, b), i| (a + values[i].0, b + values[i].1));
                a / b
            }
            Self::Bleu(values) => {
                let mut sum = BleuStats::default();
                for i in indices {
                    sum += values[i];
                }
                bleu::evaluate(&sum, false).map_or(0.0, |b| b.score)
            }
        }
    }
}

/// A corpus score with what it was made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Measure {
    /// What is measured, and by which implementation.
    pub metric: Metric,
    /// Its per-pair numbers.
    pub samples: Samples,
}

impl Measure {
    /// A measure.
    pub fn new(metric: Metric, samples: Samples) -> Self {
        Self { metric, samples }
    }

    /// The corpus score.
    pub fn value(&self) -> f64 {
        self.samples.value()
    }
}

/// Both ends of a confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How to resample. The same seed draws the same pairs for every measure and system of a corpus.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Resamples; 0 gives no intervals.
    pub resamples: usize,
    /// Start of the random stream.
    pub seed: u64,
    /// Coverage of an interval, e.g. 0.95.
    pub level: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, seed: 42, level: 0.95 }
    }
}

impl Bootstrap {
    /// The percentile interval of a score; `None` with fewer than two pairs, or where most resamples have no score.
    pub fn interval(&self, samples: &Samples) -> Option<Interval> {
        let n = samples.len();
        if n < 2 || self.resamples == 0 {
            return None;
        }
        self.ends((0..self.resamples).map(|r| samples.of(self.draw(r, n))))
    }

    /// The percentile interval of any statistic of independent groups with these sizes; `statistic` gets the drawn
    /// indices of each group. `None` if a group has fewer than two members, or most resamples have no value.
    pub fn interval_of(
        &self,
        sizes: &[usize],
        mut statistic: impl FnMut(&[Vec<usize>]) -> f64,
    ) -> Option<Interval> {
        if sizes.iter().any(|&n| n < 2) || sizes.is_empty() || self.resamples == 0 {
            return None;
        }
        let draws = |r: usize| -> Vec<Vec<usize>> {
            sizes.iter().enumerate().map(|(g, &n)| self.draw(r * sizes.len() + g, n).collect()).collect()
        };
        self.ends((0..self.resamples).map(|r| statistic(&draws(r))))
    }

    /// Both ends of the values of all resamples.
    fn ends(&self, values: impl Iterator<Item = f64>) -> Option<Interval> {
        let mut values: Vec<f64> = values.filter(|v| v.is_finite()).collect();
        if values.len() * 2 < self.resamples {
            return None;
        }
        values.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.level.clamp(0.0, 1.0)) / 2.0;
        Some(Interval { low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) })
    }

    /// Two-sided p-value of the difference of two systems on the same pairs: how often a resampled difference lies
    /// as far from the mean of all as the observed one from 0. `None` if the pairs are not the same number, fewer than
    /// two, or most resamples have no score.
    pub fn p_value(&self, from: &Samples, to: &Samples) -> Option<f64> {
        let n = from.len();
        let observed = (to.value() - from.value()).abs();
        if n != to.len() || n < 2 || self.resamples == 0 || !observed.is_finite() {
            return None;
        }
        let differences: Vec<f64> = (0..self.resamples)
            .map(|r| to.of(self.draw(r, n)) - from.of(self.draw(r, n)))
            .filter(|d| d.is_finite())
            .collect();
        if differences.len() * 2 < self.resamples {
            return None;
        }
        let middle = mean(differences.iter().copied());
        let as_far = differences.iter().filter(|d| (**d - middle).abs() >= observed).count();
        Some((as_far + 1) as f64 / (differences.len() + 1) as f64)
    }

    /// Indices of resample `r`: `n` draws with replacement.
    fn draw(&self, r: usize, n: usize) -> impl Iterator<Item = usize> {
        let mut state = SplitMix(self.seed).next() ^ SplitMix(r as u64).next();
        (0..n).map(move |_| {
            let mut stream = SplitMix(state);
            let bits = stream.next();
            state = stream.0;
            ((u128::from(bits) * n as u128) >> 64) as usize
        })
    }
}

/// The generator of Steele, Lea & Flood (2014), which needs no other crate.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Of sorted values, by linear interpolation between ranks (numpy's default).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}
