//! A whole run: prepare, loop, export.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use engine::Device;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use model::image::Idefics3Processor;

use crate::checkpoint::{Checkpoints, State, rows_hash};
use crate::config::TrainConfig;
use crate::data::features::Features;
use crate::data::images::{self, Images};
use crate::data::sample::{Preparation, Reader};
use crate::data::store::Key;
use crate::data::{BadRow, Case, Cases, Split};
use crate::error::{Error, Result};
use crate::export::export;
use crate::folder::{Program, RunFolder, note_environment, report_bad};
use crate::metrics::{Metrics, Record, StepRecord, ValidationRecord, write};
use crate::optimizer::Optimizer;
use crate::plan::Plan;
use crate::samples::{self, Endings};
use crate::session::Session;
use crate::setup::Setup;
use crate::trainer::Trainer;

/// How a run is driven from outside.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Where to compute; `None` is the processor.
    pub device: Option<&'a Device>,
    /// Continue from the newest checkpoint of the run folder. Without one the run starts.
    pub resume: bool,
    /// When this becomes true the run finishes its step, writes a checkpoint and returns (Ctrl-C).
    pub stop: Option<&'a AtomicBool>,
    /// Draw a progress bar on stderr.
    pub progress: bool,
    /// Sees each step.
    pub on_step: Option<&'a dyn Fn(&StepRecord)>,
    /// What is noted in `environment.json`.
    pub program: Program,
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
    /// Rows of text alone among them.
    pub text_rows: usize,
    /// Rows that could not be used; also in `bad-rows.txt` of the run folder.
    pub bad: Vec<BadRow>,
    /// Rows that are in no list of ids.
    pub unlisted: usize,
    /// Loss of the last step.
    pub loss: Option<f64>,
    /// The last validation.
    pub validation: Option<ValidationRecord>,
    /// The exported model or adapter, if the run came to its end.
    pub model: Option<PathBuf>,
}

/// Trains as `config` says.
///
/// The run folder gets `config.toml`, `environment.json`, `tokenizer.json`, `metrics.jsonl`, curves as SVG and
/// `index.html` with all of them, `samples/`, `bad-rows.txt` where there are any, `checkpoints/`, `cache/` unless
/// `data.cache` names another place, and at the end `model/` in Hugging Face layout or `adapter/` in PEFT's.
///
/// # Errors
/// If the configuration, the data or the model cannot be used, a loss is not finite, or the disk fails. What
/// was written before stays whole.
pub fn run(config: &TrainConfig, options: &Options<'_>) -> Result<Summary> {
    let prepare = engine::profile::phase("prepare");
    let device = options.device.cloned().unwrap_or_else(Device::cpu);
    let RunFolder { checkpoints, lock: _lock } = RunFolder::open(config, options.resume)?;
    let mut cases = Cases::read(&config.data)?;
    let bar = progress(options.progress, cases.cases.len(), "checking images {bar:30} {pos}/{len} {eta}");
    let hashes = images::hash(&mut cases, &|| bar.inc(1))?;
    bar.finish_and_clear();
    let vocabulary = config.out.join("tokenizer.json");
    let setup = Setup::new(config, &cases, &vocabulary, &device)?;
    write(&vocabulary, setup.tokenizer.to_json()?.as_bytes())?;

    let encoder = setup.encoder()?;
    let processor = setup.preprocessor.clone().map(|p| Idefics3Processor::new(p, "[image]")).transpose()?;
    let own_cache = config.out.join("cache");
    let cache = config.data.cache.as_ref().unwrap_or(&own_cache);
    // Another run may be writing to a cache that is shared.
    let leftover = if *cache == own_cache { Duration::ZERO } else { Duration::from_hours(24) };
    let images = processor.as_ref().map(|p| Images::new(p, cache, leftover)).transpose()?;
    let preparation = Preparation {
        encoder: &encoder,
        images: images.as_ref(),
        data: &config.data,
        positions: setup.config.text.max_position_embeddings,
    };
    let part = |split| -> Vec<(&Case, Option<Key>)> {
        cases.cases.iter().zip(hashes.iter().copied()).filter(|(case, _)| case.split == split).collect()
    };
    let (train_rows, validation_rows) = (part(Split::Train), part(Split::Validation));
    let wanted = train_rows.len() + validation_rows.len();
    let bar = progress(options.progress, wanted, "preparing images {bar:30} {pos}/{len} {eta}");
    let (train, mut bad) = preparation.all(&train_rows, &|| bar.inc(1))?;
    let mut validation = Vec::new();
    if !validation_rows.is_empty() {
        let more;
        (validation, more) = preparation.all(&validation_rows, &|| bar.inc(1))?;
        bad.extend(more);
    }
    bar.finish_and_clear();
    cases.add_bad(bad);
    report_bad(&config.out, &cases.bad)?;

    let frozen = setup.vision_is_frozen();
    let features = if frozen && config.image.augmentation.is_none() {
        Some(Features::new(cache, setup.vision_parameters(), config.precision.into(), leftover)?)
    } else {
        None
    };
    let reader = Reader { images, features };
    let optimizer = Optimizer::new(setup.trained(), &config.optimizer)?;
    let here = State {
        step: 0,
        rows: train.len(),
        rows_hash: rows_hash(train.iter().map(|s| s.id.as_str())),
        config: config.clone(),
    };
    let start = if options.resume { resume(&checkpoints, &optimizer, &here)? } else { 0 };
    write(&config.out.join("config.toml"), config.to_toml().as_bytes())?;
    note_environment(&config.out, &options.program, &device, start)?;
    samples::forget(&config.out, start)?;

    let mut stop_tokens = setup.config.eos_token_ids.clone();
    stop_tokens.push(setup.end_id()?);
    let mut session = Session {
        config,
        options,
        plan: Plan::new(config, train.len()),
        trainer: Trainer {
            network: &setup.network,
            precision: config.precision,
            normalisation: config.loss.normalisation,
            vision_is_frozen: frozen,
            dropout: setup.adapter.as_ref().map(|adapter| &**adapter.dropout()),
            features: reader.features.as_ref(),
        },
        collation: setup.collation(config.loss.over),
        metrics: Metrics::open(&config.out, start)?,
        optimizer,
        checkpoints,
        here,
        tokenizer: &setup.tokenizer,
        endings: Endings { stop_tokens, most_tokens: config.training.sample_tokens },
        reader: &reader,
        train: &train,
        validation: &validation,
    };
    drop(prepare);
    let (steps, stopped) = session.train(start)?;
    let export_phase = engine::profile::phase("export");
    let exported = if stopped {
        None
    } else {
        Some(if let Some(adapter) = &setup.adapter {
            let folder = config.out.join("adapter");
            adapter.save(&folder)?;
            if let Some(settings) = &setup.preprocessor {
                // PEFT does not mind it, and `report --adapter` must cut images as the run did.
                let json = format!("{:#}\n", settings.to_json());
                write(&folder.join("preprocessor_config.json"), json.as_bytes())?;
            }
            folder
        } else {
            let folder = config.out.join("model");
            export(&folder, &setup, config.training.export_dtype)?;
            folder
        })
    };
    drop(export_phase);
    let records = session.metrics.records();
    Ok(Summary {
        steps,
        total_steps: session.plan.total,
        stopped,
        parameters: session.optimizer.parameters.iter().map(|p| p.value.count()).sum(),
        rows: train.len(),
        text_rows: train.iter().filter(|sample| sample.is_text()).count(),
        loss: records.iter().rev().find_map(|r| match r {
            Record::Step(s) => Some(s.loss),
            Record::Validation(_) => None,
        }),
        validation: records.iter().rev().find_map(|r| match r {
            Record::Validation(v) => Some(v.clone()),
            Record::Step(_) => None,
        }),
        bad: cases.bad,
        unlisted: cases.unlisted,
        model: exported,
    })
}

/// Loads the newest checkpoint, if there is one, and gives its step.
fn resume(checkpoints: &Checkpoints, optimizer: &Optimizer, here: &State) -> Result<usize> {
    let Some(state) = checkpoints.newest()? else { return Ok(0) };
    let path = checkpoints.path(state.step);
    // Before anything is loaded: another configuration often makes other tensors.
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
    checkpoints.load(optimizer)?;
    Ok(state.step)
}

/// A bar on stderr, or none.
pub(crate) fn progress(visible: bool, length: usize, template: &str) -> ProgressBar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(length as u64), target).with_style(style)
}
