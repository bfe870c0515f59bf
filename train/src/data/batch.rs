//! Order of the rows, and micro-batches.

use engine::Rng;
use model::prompt::Example;

pub use model::loss::IGNORE;

use super::sample::{Reader, Sample, Sight};
use crate::config::{Augmentation, LossOver};
use crate::error::Result;

/// A random stream of its own for each (seed, purpose, epoch, row), so that a run can start anywhere.
pub fn stream(seed: u64, purpose: u64, epoch: usize, row: usize) -> Rng {
    let mut state = seed;
    for part in [purpose, epoch as u64, row as u64] {
        state = Rng::new(state ^ part.wrapping_mul(0xd134_2543_de82_ef95)).bits();
    }
    Rng::new(state)
}

const ORDER: u64 = 1;
const CHANGES: u64 = 2;
const DROPOUT: u64 = 3;

/// Rows of an epoch in the order that they are trained on.
pub fn order(seed: u64, epoch: usize, rows: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    stream(seed, ORDER, epoch, 0).shuffle(&mut order);
    order
}

/// Seed of the dropouts of the step after `done` others.
pub fn dropout_seed(seed: u64, done: usize) -> u64 {
    stream(seed, DROPOUT, 0, done).bits()
}

/// Several samples, padded on the right to one length.
pub struct Batch<'p> {
    /// `[rows, length]`.
    pub ids: Vec<u32>,
    /// Real tokens of each row.
    pub lengths: Vec<usize>,
    /// As `ids`: the token itself where it counts, [`IGNORE`] elsewhere (not shifted).
    pub labels: Vec<i32>,
    /// The images of the rows that have one, in order.
    pub sights: Vec<Sight<'p>>,
}

/// How a batch is made.
#[derive(Clone, Copy, Debug)]
pub struct Collation {
    /// Fills shorter rows.
    pub pad_id: u32,
    /// Tokens that never count: the place of an image feature, and padding, unless padding also ends an answer.
    pub never: [Option<u32>; 2],
    /// Which tokens count.
    pub loss: LossOver,
}

/// What changes a sample from epoch to epoch.
#[derive(Clone, Copy, Debug)]
pub struct Variation {
    /// Of the run.
    pub seed: u64,
    /// From 0.
    pub epoch: usize,
    /// Share of samples without their clinical case.
    pub case_dropout: f64,
    /// Limits of the changes to images.
    pub augmentation: Augmentation,
}

impl Variation {
    /// The row's random stream in this epoch, and whether its clinical case stays.
    fn draw(&self, row: usize) -> (Rng, bool) {
        let mut rng = stream(self.seed, CHANGES, self.epoch, row);
        let with_case = rng.uniform() >= self.case_dropout;
        (rng, with_case)
    }
}

impl Collation {
    /// Targets of the training samples `rows`, varied: what their batches will count, before they are made.
    pub fn counted(&self, samples: &[Sample], rows: &[usize], variation: &Variation) -> usize {
        let count = |&row: &usize| {
            let example = samples[row].example(variation.draw(row).1);
            // The first token of a row is predicted by nothing.
            (1..example.ids.len()).filter(|&i| self.counts(example, i)).count()
        };
        rows.iter().map(count).sum()
    }

    fn counts(&self, example: &Example, i: usize) -> bool {
        let start = match self.loss {
            LossOver::All => 0,
            LossOver::Answer => example.answer_start,
        };
        let id = example.ids[i];
        i >= start && !self.never.contains(&Some(id))
    }

    /// Training samples `rows` of `samples`, varied.
    ///
    /// # Errors
    /// If an image cannot be read any more.
    pub fn vary<'p>(
        &self,
        reader: &Reader<'p>,
        samples: &[Sample],
        rows: &[usize],
        variation: &Variation,
    ) -> Result<Batch<'p>> {
        let (mut examples, mut sights) = (Vec::new(), Vec::new());
        for &row in rows {
            let (mut rng, with_case) = variation.draw(row);
            examples.push(samples[row].example(with_case));
            sights.extend(reader.sight(&samples[row], Some((&variation.augmentation, &mut rng)))?);
        }
        Ok(self.gather(&examples, sights))
    }

    /// Samples as they are, all with or all without their clinical case.
    ///
    /// # Errors
    /// As [`Self::vary`].
    pub fn plain<'p>(&self, reader: &Reader<'p>, samples: &[Sample], with_case: bool) -> Result<Batch<'p>> {
        let examples: Vec<_> = samples.iter().map(|sample| sample.example(with_case)).collect();
        let mut sights = Vec::new();
        for sample in samples {
            sights.extend(reader.sight(sample, None)?);
        }
        Ok(self.gather(&examples, sights))
    }

    fn gather<'p>(&self, examples: &[&Example], sights: Vec<Sight<'p>>) -> Batch<'p> {
        let longest = examples.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        let (mut ids, mut labels) = (Vec::new(), Vec::new());
        for example in examples {
            ids.extend(&example.ids);
            let label = |(i, &id): (usize, &u32)| if self.counts(example, i) { id as i32 } else { IGNORE };
            labels.extend(example.ids.iter().enumerate().map(label));
            let padding = longest - example.ids.len();
            ids.extend(std::iter::repeat_n(self.pad_id, padding));
            labels.extend(std::iter::repeat_n(IGNORE, padding));
        }
        let lengths = examples.iter().map(|e| e.ids.len()).collect();
        Batch { ids, lengths, labels, sights }
    }
}

impl Batch<'_> {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Tokens of a row with its padding.
    pub fn length(&self) -> usize {
        self.ids.len() / self.rows().max(1)
    }

    /// Tokens without padding.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Positions (row-major in `[rows, length]`) whose *next* token counts, and that token.
    pub fn targets(&self) -> (Vec<u32>, Vec<i32>) {
        let n = self.length();
        (0..self.ids.len())
            .filter(|i| (i + 1) % n != 0 && self.labels[i + 1] != IGNORE)
            .map(|i| (i as u32, self.labels[i + 1]))
            .unzip()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_its_own_order_of_all_rows() {
        let (a, b) = (order(42, 0, 100), order(42, 1, 100));
        assert_ne!(a, b);
        assert_eq!(a, order(42, 0, 100));
        assert_ne!(a, order(43, 0, 100));
        let mut sorted = b;
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_counts() {
        let example = Example { ids: vec![1, 9, 9, 5, 2, 6], answer_start: 3, image_tokens: 2 };
        let counted = |loss, never| {
            let collation = Collation { pad_id: 2, never, loss };
            (0..6).filter(|&i| collation.counts(&example, i)).collect::<Vec<_>>()
        };
        assert_eq!(counted(LossOver::All, [Some(9), Some(2)]), [0, 3, 5]);
        assert_eq!(counted(LossOver::Answer, [Some(9), Some(2)]), [3, 5]);
        assert_eq!(counted(LossOver::Answer, [None, None]), [3, 4, 5]);
    }

    #[test]
    fn targets_are_shifted_within_their_row() {
        // The case of fixtures/optim/train_misc.json: 6 targets of 7 labels.
        let batch = Batch {
            ids: vec![9; 12],
            lengths: vec![5, 4],
            labels: vec![-100, -100, 3, 4, 5, -100, 1, 2, 10, 0, -100, -100],
            sights: Vec::new(),
        };
        let (at, labels) = batch.targets();
        assert_eq!(at, [1, 2, 3, 6, 7, 8]);
        assert_eq!(labels, [3, 4, 5, 2, 10, 0]);
    }
}
