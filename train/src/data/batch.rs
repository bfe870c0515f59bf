//! Order of the rows, and micro-batches.

use engine::{Device, Rng, Tensor};
use model::prompt::Example;

pub use model::loss::IGNORE;

use super::sample::Sample;
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

/// Rows of an epoch in the order that they are trained on.
pub fn order(seed: u64, epoch: usize, rows: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rows).collect();
    stream(seed, ORDER, epoch, 0).shuffle(&mut order);
    order
}

/// Several samples, padded on the right to one length.
pub struct Batch {
    /// `[rows, length]`.
    pub ids: Vec<u32>,
    /// Real tokens of each row.
    pub lengths: Vec<usize>,
    /// As `ids`: the token itself where it counts, [`IGNORE`] elsewhere (not shifted).
    pub labels: Vec<i32>,
    /// Normalised pixels `[tiles, 3, edge, edge]` of all rows, f32.
    pub pixels: Tensor,
}

/// How a batch is made.
#[derive(Clone, Copy, Debug)]
pub struct Collation {
    /// Fills shorter rows.
    pub pad_id: u32,
    /// The place of an image feature; never counts.
    pub image_id: u32,
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
    pub fn counted(&self, samples: &[Sample<'_>], rows: &[usize], variation: &Variation) -> usize {
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
        i >= start && id != self.image_id && id != self.pad_id
    }

    /// Training samples `rows` of `samples`, varied.
    pub fn vary(
        &self,
        samples: &[Sample<'_>],
        rows: &[usize],
        variation: &Variation,
        device: &Device,
    ) -> Result<Batch> {
        let chosen = rows.iter().map(|&row| {
            let (mut rng, with_case) = variation.draw(row);
            let sample = &samples[row];
            (sample, with_case, sample.pixels(&variation.augmentation, &mut rng))
        });
        self.gather(chosen, device)
    }

    /// Samples as they are, all with or all without their clinical case.
    pub fn plain(&self, samples: &[Sample<'_>], with_case: bool, device: &Device) -> Result<Batch> {
        self.gather(samples.iter().map(|s| (s, with_case, s.tiles().normalised())), device)
    }

    fn gather<'s>(
        &self,
        chosen: impl Iterator<Item = (&'s Sample<'s>, bool, Vec<f32>)>,
        device: &Device,
    ) -> Result<Batch> {
        let (mut examples, mut pixels, mut tiles, mut edge) = (Vec::new(), Vec::new(), 0, 0);
        for (sample, with_case, values) in chosen {
            examples.push(sample.example(with_case));
            tiles += sample.tiles().count();
            edge = sample.tiles().edge();
            pixels.extend(values);
        }
        let longest = examples.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        let (mut ids, mut labels) = (Vec::new(), Vec::new());
        for example in &examples {
            ids.extend(&example.ids);
            let label = |(i, &id): (usize, &u32)| if self.counts(example, i) { id as i32 } else { IGNORE };
            labels.extend(example.ids.iter().enumerate().map(label));
            let padding = longest - example.ids.len();
            ids.extend(std::iter::repeat_n(self.pad_id, padding));
            labels.extend(std::iter::repeat_n(IGNORE, padding));
        }
        let lengths = examples.iter().map(|e| e.ids.len()).collect();
        let pixels = Tensor::from_slice(&pixels, &[tiles, 3, edge, edge], device)?;
        Ok(Batch { ids, lengths, labels, pixels })
    }
}

impl Batch {
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
    fn targets_are_shifted_within_their_row() {
        // The case of fixtures/optim/train_misc.json: 6 targets of 7 labels.
        let batch = Batch {
            ids: vec![9; 12],
            lengths: vec![5, 4],
            labels: vec![-100, -100, 3, 4, 5, -100, 1, 2, 10, 0, -100, -100],
            pixels: Tensor::zeros(&[0], engine::DType::F32, &Device::cpu()).unwrap(),
        };
        let (at, labels) = batch.targets();
        assert_eq!(at, [1, 2, 3, 6, 7, 8]);
        assert_eq!(labels, [3, 4, 5, 2, 10, 0]);
    }
}
