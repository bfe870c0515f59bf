//! Whole models against the machine: vision, prefill, first token, decoding at a depth, and a training step.
//!
//! What a figure costs is what its operations declare ([`engine::Op::cost`]), added up over one run of it.

mod inference;
mod memory;
mod subject;
mod training;

use std::time::Instant;

use engine::profile::Recorder;
use engine::{Cost, Device};
use serde::Serialize;

pub use inference::Inference;
pub use memory::{Resident, resident, restart_peak};
pub use subject::{How, Subject};
pub use training::{Parts, Training};

use crate::Result;
use crate::machine::Ceilings;
use crate::stats::{Comparison, Summary, paired};
use crate::work::{Work, work};

/// What a figure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Tiles through the vision tower and the connector.
    Vision,
    /// Image and text to the first new token.
    FirstToken,
    /// A prompt into an empty cache, with the logits of its last token.
    Prefill,
    /// One token at a time after a context.
    Decode,
    /// Forward, backward and the optimiser on one sample.
    Step,
}

/// One measured figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// As `prefill 512`; the same in every run that measures the same.
    pub name: String,
    /// What it is about.
    pub kind: Kind,
    /// Tokens of one repeat; `None` for figures in seconds.
    pub tokens: Option<usize>,
    /// Seconds of each repeat.
    pub seconds: Vec<f64>,
    /// What the operations of one repeat declare.
    pub cost: Cost,
    /// Least seconds of these operations by the roofline, one after another; where it is known.
    pub least_seconds: Option<f64>,
    /// Most bytes of tensors at one time, weights included.
    pub peak_tensors: u64,
    /// Most resident bytes of the process during the figure, where the system says.
    pub peak_resident: Option<u64>,
    /// How many times as long it takes while a recorder listens, if that was asked for.
    pub recorded: Option<Comparison>,
}

impl Figure {
    /// `tokens/s`, or `s` where there is nothing to count.
    pub fn unit(&self) -> &'static str {
        if self.tokens.is_some() { "tokens/s" } else { "s" }
    }

    /// Each repeat in [`Self::unit`].
    pub fn values(&self) -> Vec<f64> {
        match self.tokens {
            Some(tokens) => self.seconds.iter().map(|s| tokens as f64 / s).collect(),
            None => self.seconds.clone(),
        }
    }

    /// Of [`Self::values`]; `None` without repeats.
    pub fn summary(&self) -> Option<Summary> {
        Summary::of(&self.values())
    }

    /// Median seconds of a repeat.
    pub fn median_seconds(&self) -> f64 {
        crate::stats::median(&self.seconds)
    }

    /// Declared floating-point operations a second.
    pub fn flops(&self) -> f64 {
        self.cost.flops as f64 / self.median_seconds()
    }

    /// Declared bytes read for a token, or for the whole figure where there are none.
    pub fn read_per_token(&self) -> f64 {
        self.cost.read as f64 / self.tokens.unwrap_or(1).max(1) as f64
    }

    /// Percent of what the roofline allows its operations.
    pub fn percent_of_roofline(&self) -> Option<f64> {
        Some(100.0 * self.least_seconds? / self.median_seconds())
    }

    /// Percent of the machine's peak in the type that the model multiplies in.
    pub fn percent_of_peak(&self, ceilings: &Ceilings, dtype: engine::DType) -> f64 {
        100.0 * self.flops() / ceilings.flops(dtype)
    }
}

/// How often, and against what.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Where it runs.
    pub device: Device,
    /// Measured runs of each figure, after one that is not.
    pub repeats: usize,
    /// The roofline, if percentages are wanted.
    pub ceilings: Option<Ceilings>,
    /// Take each figure with a recorder too, in turns.
    pub overhead: bool,
}

impl Meter {
    /// Times `run(state)` with `state = prepare()` outside the clock. The first run is not timed: it fills pools and
    /// caches, and its operations are added up.
    fn figure<S>(
        &self,
        name: String,
        kind: Kind,
        tokens: Option<usize>,
        mut prepare: impl FnMut() -> Result<S>,
        mut run: impl FnMut(S) -> Result<()>,
    ) -> Result<Figure> {
        let state = prepare()?;
        let (done, work) = work(|| run(state));
        done?;
        self.device.memory().reset_peak();
        restart_peak();
        let mut seconds = Vec::with_capacity(self.repeats);
        for _ in 0..self.repeats {
            let state = prepare()?;
            let begun = Instant::now();
            run(state)?;
            self.device.synchronize()?;
            seconds.push(begun.elapsed().as_secs_f64());
        }
        let mut figure = self.finish(name, kind, tokens, seconds, &work);
        if self.overhead {
            figure.recorded = Some(self.recorded(&mut prepare, &mut run)?);
        }
        Ok(figure)
    }

    fn finish(
        &self,
        name: String,
        kind: Kind,
        tokens: Option<usize>,
        seconds: Vec<f64>,
        work: &Work,
    ) -> Figure {
        // Decoding reads every weight once a token: what fits into a cache alone does not stay there.
        let shared =
            if kind == Kind::Decode { work.total().read as usize / tokens.unwrap_or(1).max(1) } else { 0 };
        Figure {
            name,
            kind,
            tokens,
            seconds,
            cost: work.total(),
            least_seconds: self.ceilings.as_ref().map(|ceilings| work.least_seconds(ceilings, shared)),
            peak_tensors: self.device.memory().total().peak as u64,
            peak_resident: resident().map(|r| r.peak),
            recorded: None,
        }
    }

    /// Pairs with and without a recorder, in turns.
    fn recorded<S>(
        &self,
        prepare: &mut impl FnMut() -> Result<S>,
        run: &mut impl FnMut(S) -> Result<()>,
    ) -> Result<Comparison> {
        let mut time = |recorded: bool| -> Result<f64> {
            let state = prepare()?;
            let recorder = Recorder::new();
            let timed = || -> Result<f64> {
                let begun = Instant::now();
                run(state)?;
                Ok(begun.elapsed().as_secs_f64())
            };
            if recorded { recorder.record(timed) } else { timed() }
        };
        let mut turns = Vec::new();
        for i in 0..self.repeats {
            let first = i.is_multiple_of(2);
            let (one, other) = (time(first)?, time(!first)?);
            turns.push(if first { (one, other) } else { (other, one) });
        }
        Ok(paired(&turns))
    }
}
