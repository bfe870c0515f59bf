//! How rows fall into steps and micro-batches.

use crate::config::TrainConfig;

/// The last step of an epoch takes what is left.
pub(crate) struct Plan {
    pub(crate) rows: usize,
    /// Rows of a step.
    step_rows: usize,
    pub(crate) batch_rows: usize,
    pub(crate) steps_per_epoch: usize,
    pub(crate) total: usize,
}

impl Plan {
    pub(crate) fn new(config: &TrainConfig, rows: usize) -> Self {
        let t = &config.training;
        let step_rows = t.batch_size * t.accumulation;
        let steps_per_epoch = rows.div_ceil(step_rows);
        Self { rows, step_rows, batch_rows: t.batch_size, steps_per_epoch, total: steps_per_epoch * t.epochs }
    }

    /// Whether something that happens every `every` steps (0: at the end of each epoch) happens after `done`.
    pub(crate) fn due(&self, done: usize, every: usize) -> bool {
        done == self.total || done.is_multiple_of(if every == 0 { self.steps_per_epoch } else { every })
    }

    /// The rows of each step of an epoch from its step `first` on, given the epoch's order.
    pub(crate) fn steps<'o>(&self, order: &'o [usize], first: usize) -> impl Iterator<Item = &'o [usize]> {
        order.chunks(self.step_rows).skip(first)
    }
}
