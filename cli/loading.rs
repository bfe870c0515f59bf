//! A bar on stderr while a GPU loads a model: weights on their way to it, kernels being compiled.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use engine::Progress;
use indicatif::{ProgressBar, ProgressStyle};

/// What is over sooner shows no bar.
const PATIENCE: Duration = Duration::from_millis(300);

/// What is going on: since when, and its bar once there is one.
#[derive(Default)]
struct Shown {
    kernels: bool,
    since: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Shown {
    fn show(&mut self, progress: Progress) {
        let (Progress::Weights { done, total } | Progress::Kernels { done, total }) = progress;
        let kernels = matches!(progress, Progress::Kernels { .. });
        if kernels != self.kernels || progress.over() {
            self.end();
            self.kernels = kernels;
        }
        if progress.over() {
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if self.bar.is_none() && since.elapsed() < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| bar(total, kernels));
        bar.set_position(done);
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        self.since = None;
    }
}

/// Nothing where stderr is no terminal.
fn bar(total: u64, kernels: bool) -> ProgressBar {
    let template = if kernels {
        "{bar:30} {pos}/{len} kernels compiled"
    } else {
        "{bar:30} {bytes}/{total_bytes} weights to the GPU, {eta} left"
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

/// A listener that shows it.
pub(crate) fn shower() -> impl Fn(Progress) + Send + Sync {
    let shown = Mutex::new(Shown::default());
    move |progress| {
        if let Ok(mut shown) = shown.lock() {
            shown.show(progress);
        }
    }
}
