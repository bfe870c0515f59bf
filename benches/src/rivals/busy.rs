//! Whether somebody else uses the machine.

use std::fs;
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// What others did meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Runnable processes at the start, averaged over a minute.
    pub average: Option<f64>,
    /// Percent of the machine's processor time that went to other processes.
    pub others_percent: Option<f64>,
}

impl Load {
    /// From this share on, figures are of a crowded machine.
    pub const CROWDED_PERCENT: f64 = 10.0;

    /// Whether others took enough to be worth a word.
    pub fn crowded(&self) -> bool {
        self.others_percent.is_some_and(|p| p > Self::CROWDED_PERCENT)
    }
}

/// Clock ticks a second of `/proc`, which Linux fixes for programs on every architecture that it runs on today.
const TICKS: f64 = 100.0;

/// Watches from [`Watch::start`] to [`Watch::stop`].
pub(super) struct Watch {
    begun: Instant,
    average: Option<f64>,
    machine: Option<f64>,
    own: Option<f64>,
}

impl Watch {
    pub(super) fn start() -> Self {
        Self {
            begun: Instant::now(),
            average: fs::read_to_string("/proc/loadavg").ok().and_then(|t| t.split(' ').next()?.parse().ok()),
            machine: machine_seconds(),
            own: own_seconds(),
        }
    }

    /// Children must have been waited for: only then their time counts as ours.
    pub(super) fn stop(self) -> Load {
        let wall = self.begun.elapsed().as_secs_f64();
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let spent = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
        let others = || {
            let others = spent(machine_seconds(), self.machine)? - spent(own_seconds(), self.own)?;
            // In a tenth of a second the ticks are too coarse.
            (wall > 0.1).then(|| (100.0 * others / (wall * cores)).max(0.0))
        };
        Load { average: self.average, others_percent: others() }
    }
}

/// Seconds that all processes of the machine have used.
fn machine_seconds() -> Option<f64> {
    parse_machine(&fs::read_to_string("/proc/stat").ok()?)
}

fn parse_machine(stat: &str) -> Option<f64> {
    let fields: Vec<f64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    // user, nice, system; irq, softirq. Not idle, iowait, and not steal, which is no process of ours to see.
    let at = |i: usize| fields.get(i).copied();
    Some((at(0)? + at(1)? + at(2)? + at(5)? + at(6)?) / TICKS)
}

/// Seconds that this process and the children that it waited for have used.
fn own_seconds() -> Option<f64> {
    parse_own(&fs::read_to_string("/proc/self/stat").ok()?)
}

fn parse_own(stat: &str) -> Option<f64> {
    // The name, in parentheses, may hold anything; utime is the 14th field and cstime the 17th.
    let after = stat.rsplit_once(')')?.1;
    let fields: Vec<f64> = after.split_whitespace().skip(11).take(4).filter_map(|n| n.parse().ok()).collect();
    (fields.len() == 4).then(|| fields.iter().sum::<f64>() / TICKS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert_eq!(parse_machine("cpu  100 50 25 9999 1 5 20 3 0 0\ncpu0 1\n"), Some(2.0));
        assert_eq!(parse_machine("intr 5"), None);
        let stat = "7 (a) b) R 1 1 1 0 -1 4194304 1 2 3 4 150 50 100 100 20 0 1 0";
        assert_eq!(parse_own(stat), Some(4.0));
        assert_eq!(parse_own("7 (x"), None);
    }
}
