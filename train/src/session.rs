//! The loop over steps.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Instant;

use engine::profile::phase;
use indicatif::ProgressBar;
use model::tokenizer::Tokenizer;

use crate::checkpoint::{Checkpoints, State, on_disk};
use crate::config::TrainConfig;
use crate::data::batch::{Batch, Collation, Variation, dropout_seed, order};
use crate::data::parallel::prefetch;
use crate::data::sample::{Reader, Sample};
use crate::error::{Error, Result};
use crate::metrics::{Metrics, Record, StepRecord, ValidationRecord};
use crate::optimizer::{Optimizer, clip_factor};
use crate::plan::Plan;
use crate::run::Options;
use crate::samples::{self, Endings};
use crate::trainer::Trainer;
use crate::{plots, run};

/// The loop and what it works with.
pub(crate) struct Session<'a> {
    pub(crate) config: &'a TrainConfig,
    pub(crate) options: &'a Options<'a>,
    pub(crate) plan: Plan,
    pub(crate) trainer: Trainer<'a>,
    pub(crate) collation: Collation,
    pub(crate) metrics: Metrics,
    pub(crate) optimizer: Optimizer,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) here: State,
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) endings: Endings,
    pub(crate) reader: &'a Reader<'a>,
    pub(crate) train: &'a [Sample],
    pub(crate) validation: &'a [Sample],
}

/// Batches that other threads make ahead of their use.
type Batches<'b, 'p> = &'b mut dyn Iterator<Item = Result<Batch<'p>>>;

impl Session<'_> {
    /// Steps from `start` to the end or to a stop; returns the steps done and whether it was stopped.
    pub(crate) fn train(&mut self, start: usize) -> Result<(usize, bool)> {
        let template = "step {pos}/{len} {bar:30} {msg} {eta} left";
        let bar = run::progress(self.options.progress, self.plan.total, template);
        bar.set_position(start as u64);
        bar.reset_eta();
        let mut done = start;
        while done < self.plan.total {
            let epoch_end = (done / self.plan.steps_per_epoch + 1) * self.plan.steps_per_epoch;
            done = self.epoch(done, &bar)?;
            if done < epoch_end {
                bar.abandon();
                self.draw()?;
                if done > 0 {
                    self.save(done)?;
                }
                return Ok((done, true));
            }
        }
        bar.finish_and_clear();
        self.draw()?;
        Ok((self.plan.total, false))
    }

    /// The rest of the epoch that comes after `start` steps; returns the steps done, fewer than to its end if a stop
    /// was asked for.
    fn epoch(&mut self, start: usize, bar: &ProgressBar) -> Result<usize> {
        let epoch = start / self.plan.steps_per_epoch;
        let order = order(self.config.seed, epoch, self.plan.rows);
        let steps: Vec<&[usize]> = self.plan.steps(&order, start % self.plan.steps_per_epoch).collect();
        let micro: Vec<&[usize]> = steps.iter().flat_map(|rows| rows.chunks(self.plan.batch_rows)).collect();
        let variation = Variation {
            seed: self.config.seed,
            epoch,
            case_dropout: self.config.data.case_dropout,
            augmentation: self.config.image.augmentation,
        };
        let (collation, reader, train) = (self.collation, self.reader, self.train);
        let make = |i: usize| collation.vary(reader, train, micro[i], &variation);
        let data = &self.config.data;
        prefetch(micro.len(), data.workers, data.prefetch, make, |batches| {
            let mut done = start;
            for rows in &steps {
                if self.stop_asked() {
                    break;
                }
                let record = self.step(done, rows, &variation, batches)?;
                bar.set_message(format!("loss {:.4}  {:.0} tokens/s", record.loss, record.tokens_per_second));
                bar.inc(1);
                if let Some(seen) = self.options.on_step {
                    seen(&record);
                }
                self.metrics.add(Record::Step(record))?;
                done += 1;
                self.after(done, rows)?;
            }
            Ok(done)
        })
    }

    fn stop_asked(&self) -> bool {
        self.options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    fn save(&self, done: usize) -> Result<PathBuf> {
        let _phase = phase("checkpoint");
        self.checkpoints.save(&self.optimizer, &State { step: done, ..self.here.clone() }, &on_disk)
    }

    fn draw(&self) -> Result<()> {
        let _phase = phase("plots");
        plots::draw(&self.config.out, self.metrics.records(), &self.config.to_toml())
    }

    /// What is due after `done` steps. The checkpoint comes last: a run that is killed before it does all of this
    /// again. `rows` are those of the last step.
    fn after(&mut self, done: usize, rows: &[usize]) -> Result<()> {
        let t = &self.config.training;
        if self.plan.due(done, t.validate_every) {
            if !self.validation.is_empty() {
                let loss = self.validate(true)?;
                let without = self.config.data.case_dropout > 0.0;
                let loss_without_case = if without { Some(self.validate(false)?) } else { None };
                if let Some(value) =
                    [loss, loss_without_case.unwrap_or(0.0)].into_iter().find(|l| !l.is_finite())
                {
                    return Err(self.not_finite(done - 1, "the validation loss after it", value, rows));
                }
                let record = ValidationRecord { step: done, loss, loss_without_case };
                self.metrics.add(Record::Validation(record))?;
            }
            self.write_samples(done, rows)?;
            self.draw()?;
        }
        if self.plan.due(done, t.checkpoint_every) {
            self.save(done)?;
        }
        Ok(())
    }

    /// Reports for the first validation rows, or training rows where there are none.
    fn write_samples(&self, done: usize, step_rows: &[usize]) -> Result<()> {
        let _phase = phase("samples");
        let rows = if self.validation.is_empty() { self.train } else { self.validation };
        let rows = &rows[..rows.len().min(self.config.training.sample_count)];
        if rows.is_empty() {
            return Ok(());
        }
        match samples::answer(&self.trainer, self.tokenizer, self.reader, rows, &self.endings) {
            Ok(reports) => samples::save(&self.config.out, done, &reports),
            Err(Error::Model(model::Error::NotFinite(_))) => {
                Err(self.not_finite(done - 1, "a logit of a sample report after it", f64::NAN, step_rows))
            }
            Err(e) => Err(e),
        }
    }

    fn validate(&self, with_case: bool) -> Result<f64> {
        let batches: Vec<&[Sample]> = self.validation.chunks(self.plan.batch_rows).collect();
        let (collation, reader, data) = (self.collation, self.reader, &self.config.data);
        let make = |i: usize| collation.plain(reader, batches[i], with_case);
        prefetch(batches.len(), data.workers, data.prefetch, make, |batches| self.trainer.evaluate(batches))
    }

    /// The step after `done` others, on `rows`, whose micro-batches come next.
    fn step(
        &self,
        done: usize,
        rows: &[usize],
        variation: &Variation,
        batches: Batches<'_, '_>,
    ) -> Result<StepRecord> {
        let begun = Instant::now();
        let (t, s, device) = (&self.config.training, &self.config.schedule, self.trainer.device());
        let counted = self.collation.counted(self.train, rows, variation);
        // Workers end early only by a panic, which the scope passes on.
        let mut next = || {
            batches.next().unwrap_or_else(|| Err(Error::Data("the threads that prepare images ended".into())))
        };
        let micro_batches = rows.len().div_ceil(self.plan.batch_rows);
        let mut sum = self.trainer.accumulate(
            micro_batches,
            &mut next,
            counted,
            dropout_seed(self.config.seed, done),
        )?;
        let norm = self.optimizer.global_norm(&sum.gradients)?;
        for (what, value) in [("the loss", sum.loss), ("the gradient norm", norm)] {
            if !value.is_finite() {
                return Err(self.not_finite(done, what, value, rows));
            }
        }
        let lr = self.config.optimizer.lr * s.shape.factor(done, s.warmup(self.plan.total), self.plan.total);
        device.step("optimizer", || {
            self.optimizer.step(&mut sum.gradients, done + 1, lr, clip_factor(norm, t.clip_norm))
        })?;
        Ok(StepRecord {
            step: done + 1,
            epoch: (done + 1) as f64 / self.plan.steps_per_epoch as f64,
            loss: sum.loss,
            lr,
            grad_norm: norm,
            tokens: sum.tokens,
            tokens_per_second: sum.tokens as f64 / begun.elapsed().as_secs_f64(),
            peak_memory: device.memory().total().peak,
        })
    }

    fn not_finite(&self, done: usize, what: &'static str, value: f64, rows: &[usize]) -> Error {
        let last_good = match self.checkpoints.steps() {
            Ok(steps) => match steps.last() {
                Some(&step) => {
                    format!("the last good checkpoint is {}", self.checkpoints.path(step).display())
                }
                None => "there is no checkpoint yet".into(),
            },
            Err(e) => format!("the checkpoints cannot be listed ({e})"),
        };
        let rows = rows.iter().map(|&row| self.train[row].id.clone()).collect();
        Error::NotFinite { step: done + 1, what, value, rows, last_good }
    }
}
