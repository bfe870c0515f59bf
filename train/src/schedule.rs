//! Learning-rate schedules with the semantics of transformers (`optimization.py`): a factor on the peak rate,
//! read *before* the step, so that with warm-up the first step has rate 0.

use serde::{Deserialize, Serialize};

/// Shape of the learning rate over a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// The peak rate throughout; no warm-up.
    Constant,
    /// Warm-up, then the peak rate.
    ConstantWithWarmup,
    /// Warm-up, then straight down to 0 at the last step.
    Linear,
    /// Warm-up, then half a cosine down to 0 at the last step.
    Cosine,
}

/// Steps of warm-up in a run of `total` steps: `steps` if that is not 0, else `ratio` of all, rounded up.
pub fn warmup_steps(steps: usize, ratio: f64, total: usize) -> usize {
    if steps > 0 { steps } else { (total as f64 * ratio).ceil() as usize }
}

impl Schedule {
    /// Factor of step `step`, counted from 0, in a run of `total` steps of which `warmup` rise.
    pub fn factor(self, step: usize, warmup: usize, total: usize) -> f64 {
        if self != Self::Constant && step < warmup {
            return step as f64 / warmup.max(1) as f64;
        }
        let span = total.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Constant | Self::ConstantWithWarmup => 1.0,
            Self::Linear => total.saturating_sub(step) as f64 / span,
            Self::Cosine => {
                // Beyond the last step it rises again, as there; no run goes so far.
                let progress = step.saturating_sub(warmup) as f64 / span;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}
