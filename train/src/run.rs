//! A whole run: prepare, loop, checkpoint, export.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use engine::Device;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::image::Idefics3Processor;
use model::prompt::PromptEncoder;

use crate::checkpoint::{Checkpoints, State, on_disk, rows_hash};
use crate::config::TrainConfig;
use crate::data::batch::{Collation, Variation, order};
use crate::data::sample::{Preparation, Sample};
use crate::data::{BadRow, Cases, Split};
use crate::error::{Error, Result};
use crate::export::{Parts, export};
use crate::metrics::{Metrics, Record, StepRecord, ValidationRecord, write};
use crate::optimizer::{Optimizer, clip_factor};
use crate::setup::Setup;
use crate::trainer::Trainer;

/// How a run is driven from outside.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Continue from the newest checkpoint of the run folder. Without one the run starts.
    pub resume: bool,
    /// When this becomes true the run finishes its step, writes a checkpoint and returns (Ctrl-C).
    pub stop: Option<&'a AtomicBool>,
    /// Draw a progress bar on stderr.
    pub progress: bool,
    /// Sees each step.
    pub on_step: Option<&'a dyn Fn(&StepRecord)>,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Steps done, those before a resume included.
    pub steps: usize,
    /// Steps of the whole run.
    pub total_steps: usize,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// Parameters trained.
    pub parameters: usize,
    /// Rows trained on.
    pub rows: usize,
    /// Rows that could not be used; also in `bad-rows.txt` of the run folder.
    pub bad: Vec<BadRow>,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// The last validation.
    pub validation: Option<ValidationRecord>,
    /// The exported model, if the run came to its end.
    pub model: Option<PathBuf>,
}

/// Trains as `config` says.
///
/// The run folder gets `config.toml`, `tokenizer.json`, `metrics.jsonl`, `loss.svg`, `bad-rows.txt` where there
/// are any, `checkpoints/`, and at the end `model/` in Hugging Face layout.
///
/// # Errors
/// If the configuration, the data or the model cannot be used, a loss is not finite, or the disk fails. What
/// was written before stays whole.
pub fn run(config: &TrainConfig, options: &Options<'_>) -> Result<Summary> {
    let device = Device::cpu();
    let checkpoints = open_folder(config, options.resume)?;
    let cases = Cases::read(&config.data)?;
    let vocabulary = config.out.join("tokenizer.json");
    let setup = Setup::new(config, &cases, &vocabulary, &device)?;
    write(&vocabulary, setup.tokenizer.to_json()?.as_bytes())?;

    let template = setup.chat_template()?;
    let image = setup.config.vision_language("config.json")?;
    let encoder = PromptEncoder::new(&setup.tokenizer, &template, image)?;
    let processor = Idefics3Processor::new(setup.preprocessor.clone(), "[image]")?;
    let preparation = Preparation {
        encoder: &encoder,
        processor: &processor,
        config: &setup.config,
        case_limit: config.data.case_limit,
    };
    let wanted = cases.of(Split::Train).count() + cases.of(Split::Validation).count();
    let bar = bar(options.progress, wanted, "images {bar:30} {pos}/{len} {eta}");
    let (train, mut bad) = preparation.all(cases.of(Split::Train), || bar.inc(1))?;
    let validation = if cases.of(Split::Validation).next().is_some() {
        let (samples, more) = preparation.all(cases.of(Split::Validation), || bar.inc(1))?;
        bad.extend(more);
        samples
    } else {
        Vec::new()
    };
    bar.finish_and_clear();
    bad.splice(0..0, cases.bad.iter().cloned());
    report_bad(&config.out, &bad)?;

    let optimizer = Optimizer::new(setup.parameters.clone(), &config.optimizer)?;
    let here = State {
        step: 0,
        rows: train.len(),
        rows_hash: rows_hash(train.iter().map(|s| s.id.as_str())),
        config: config.clone(),
    };
    let start = if options.resume { resume(&checkpoints, &optimizer, &here)? } else { 0 };
    write(&config.out.join("config.toml"), config.to_toml().as_bytes())?;

    let mut session = Session {
        config,
        options,
        plan: Plan::new(config, train.len()),
        trainer: Trainer {
            model: &setup.model,
            precision: config.precision,
            normalisation: config.loss.normalisation,
        },
        collation: Collation {
            pad_id: setup.pad_id(),
            image_id: image.image_token_id,
            loss: config.loss.over,
        },
        metrics: Metrics::open(&config.out, start)?,
        optimizer,
        checkpoints,
        here,
        train,
        validation,
    };
    let (steps, stopped) = session.train(start)?;
    let exported = if stopped {
        None
    } else {
        let folder = config.out.join("model");
        let parts = Parts {
            config: &setup.config,
            tokenizer: &setup.tokenizer,
            preprocessor: &setup.preprocessor,
            template: &setup.template,
        };
        export(&folder, &parts, &session.optimizer.parameters, config.training.export_dtype)?;
        Some(folder)
    };
    let records = session.metrics.records();
    Ok(Summary {
        steps,
        total_steps: session.plan.total,
        stopped,
        parameters: setup.parameter_count(),
        rows: session.train.len(),
        bad,
        loss: records.iter().rev().find_map(|r| match r {
            Record::Step(s) => Some(s.loss),
            Record::Validation(_) => None,
        }),
        validation: records.iter().rev().find_map(|r| match r {
            Record::Validation(v) => Some(v.clone()),
            Record::Step(_) => None,
        }),
        model: exported,
    })
}

/// Makes the run folder; refuses to write over another run.
fn open_folder(config: &TrainConfig, resume: bool) -> Result<Checkpoints> {
    let out = &config.out;
    std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create", e))?;
    let checkpoints = Checkpoints::new(out.join("checkpoints"), config.training.keep_checkpoints);
    if !resume && (out.join("metrics.jsonl").exists() || !checkpoints.steps()?.is_empty()) {
        let reason = "holds a run already; continue it with --resume, or choose another `out`";
        return Err(Error::checkpoint(out, reason));
    }
    checkpoints.clean()?;
    Ok(checkpoints)
}

/// Loads the newest checkpoint, if there is one, and gives its step.
fn resume(checkpoints: &Checkpoints, optimizer: &Optimizer, here: &State) -> Result<usize> {
    let Some(state) = checkpoints.load(optimizer)? else { return Ok(0) };
    let path = checkpoints.path(state.step);
    let different = here.config.differences(&state.config);
    if !different.is_empty() {
        let reason = format!(
            "was made with other values of {}; continue with the configuration of the run, or start a new one",
            different.join(", ")
        );
        return Err(Error::checkpoint(&path, reason));
    }
    if (state.rows, state.rows_hash) != (here.rows, here.rows_hash) {
        let reason = format!(
            "was made with {} training rows, now there are {} (or others): the data changed",
            state.rows, here.rows
        );
        return Err(Error::checkpoint(&path, reason));
    }
    Ok(state.step)
}

fn report_bad(out: &Path, bad: &[BadRow]) -> Result<()> {
    let path = out.join("bad-rows.txt");
    if bad.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, "remove", e)),
            _ => Ok(()),
        };
    }
    let mut lines = String::new();
    for row in bad {
        tracing::warn!("bad row left out: {row}");
        lines += &row.to_string();
        lines.push('\n');
    }
    write(&path, lines.as_bytes())
}

fn bar(visible: bool, length: usize, template: &str) -> ProgressBar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length as u64), target).with_style(style)
}

/// How rows fall into steps. The last step of an epoch takes what is left.
struct Plan {
    rows: usize,
    /// Rows of a step.
    step_rows: usize,
    batch_rows: usize,
    steps_per_epoch: usize,
    total: usize,
}

impl Plan {
    fn new(config: &TrainConfig, rows: usize) -> Self {
        let t = &config.training;
        let step_rows = t.batch_size * t.accumulation;
        let steps_per_epoch = rows.div_ceil(step_rows);
        Self { rows, step_rows, batch_rows: t.batch_size, steps_per_epoch, total: steps_per_epoch * t.epochs }
    }

    /// Whether something that happens every `every` steps (0: at the end of each epoch) happens after `done`.
    fn due(&self, done: usize, every: usize) -> bool {
        done == self.total || done.is_multiple_of(if every == 0 { self.steps_per_epoch } else { every })
    }
}

/// The loop and what it works with.
struct Session<'a> {
    config: &'a TrainConfig,
    options: &'a Options<'a>,
    plan: Plan,
    trainer: Trainer<'a>,
    collation: Collation,
    metrics: Metrics,
    optimizer: Optimizer,
    checkpoints: Checkpoints,
    here: State,
    train: Vec<Sample<'a>>,
    validation: Vec<Sample<'a>>,
}

impl Session<'_> {
    /// Steps from `start` to the end or to a stop; returns the steps done and whether it was stopped.
    fn train(&mut self, start: usize) -> Result<(usize, bool)> {
        let template = "step {pos}/{len} {bar:30} {msg} {eta} left";
        let bar = bar(self.options.progress, self.plan.total, template);
        bar.set_position(start as u64);
        bar.reset_eta();
        let mut epoch_rows = (usize::MAX, Vec::new());
        for done in start..self.plan.total {
            if self.stop_asked() {
                return self.stop(done, &bar);
            }
            let epoch = done / self.plan.steps_per_epoch;
            if epoch_rows.0 != epoch {
                epoch_rows = (epoch, order(self.config.seed, epoch, self.plan.rows));
            }
            let first = done % self.plan.steps_per_epoch * self.plan.step_rows;
            let last = (first + self.plan.step_rows).min(self.plan.rows);
            let record = self.step(done, epoch, &epoch_rows.1[first..last])?;
            bar.set_message(format!("loss {:.4}  {:.0} tokens/s", record.loss, record.tokens_per_second));
            bar.inc(1);
            if let Some(seen) = self.options.on_step {
                seen(&record);
            }
            self.metrics.add(Record::Step(record))?;
            self.after(done + 1)?;
        }
        bar.finish_and_clear();
        self.metrics.plot()?;
        Ok((self.plan.total, false))
    }

    fn stop_asked(&self) -> bool {
        self.options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    fn stop(&mut self, done: usize, bar: &ProgressBar) -> Result<(usize, bool)> {
        bar.abandon();
        self.metrics.plot()?;
        if done > 0 {
            self.save(done)?;
        }
        Ok((done, true))
    }

    fn save(&self, done: usize) -> Result<PathBuf> {
        self.checkpoints.save(&self.optimizer, &State { step: done, ..self.here.clone() }, &on_disk)
    }

    /// What is due after `done` steps.
    fn after(&mut self, done: usize) -> Result<()> {
        let t = &self.config.training;
        if !self.validation.is_empty() && self.plan.due(done, t.validate_every) {
            let loss = self.validate(true)?;
            let without = self.config.data.case_dropout > 0.0;
            let loss_without_case = if without { Some(self.validate(false)?) } else { None };
            self.metrics.add(Record::Validation(ValidationRecord { step: done, loss, loss_without_case }))?;
            self.metrics.plot()?;
        }
        if self.plan.due(done, t.checkpoint_every) {
            self.save(done)?;
        }
        Ok(())
    }

    fn validate(&self, with_case: bool) -> Result<f64> {
        let device = self.trainer.device();
        let batches = self.validation.chunks(self.plan.batch_rows);
        self.trainer.evaluate(batches.map(|rows| self.collation.plain(rows, with_case, device)))
    }

    /// The step after `done` others, on `rows`.
    fn step(&self, done: usize, epoch: usize, rows: &[usize]) -> Result<StepRecord> {
        let begun = Instant::now();
        let (t, s, device) = (&self.config.training, &self.config.schedule, self.trainer.device());
        let variation = Variation {
            seed: self.config.seed,
            epoch,
            case_dropout: self.config.data.case_dropout,
            augmentation: self.config.image.augmentation,
        };
        let micro: Vec<&[usize]> = rows.chunks(self.plan.batch_rows).collect();
        let counted = self.collation.counted(&self.train, rows, &variation);
        let batch = |i: usize| self.collation.vary(&self.train, micro[i], &variation, device);
        let mut sum = self.trainer.accumulate(micro.len(), &batch, counted)?;
        let norm = self.optimizer.global_norm(&sum.gradients)?;
        for (what, value) in [("the loss", sum.loss), ("the gradient norm", norm)] {
            if !value.is_finite() {
                return Err(self.not_finite(done, what, value, rows));
            }
        }
        let lr = self.config.optimizer.lr * s.shape.factor(done, s.warmup(self.plan.total), self.plan.total);
        self.optimizer.step(&mut sum.gradients, done + 1, lr, clip_factor(norm, t.clip_norm))?;
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
