//! What was found: a row for each figure and rival, and what became of every rival.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::busy::Load;
use super::line::{Line, more_is_better};
use super::registry::Suite;
use super::schedule::Turn;
use crate::machine::Fingerprint;
use crate::stats::{self, Comparison, median};
use crate::{Error, Result};

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub machine: Fingerprint,
    /// Turns that were asked for.
    pub rounds: usize,
    /// The user ended it early.
    pub interrupted: bool,
    /// Figures.
    pub rows: Vec<Row>,
    /// Rivals.
    pub statuses: Vec<Status>,
}

/// One figure of ours beside a rival's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Where it belongs.
    pub suite: Suite,
    /// Of which shape or file.
    pub model: String,
    /// As `prefill 512`.
    pub figure: String,
    /// Of all values.
    pub unit: String,
    /// As in [`super::RIVALS`].
    pub rival: String,
    /// Us.
    pub ours: Side,
    /// Them.
    pub theirs: Side,
    /// Of our speed to theirs, above 1 where we are ahead: for seconds and bytes theirs over ours.
    pub comparison: Comparison,
    /// The greatest share that other programs took of the machine in these turns, in percent.
    pub others_percent: Option<f64>,
}

/// One side of a row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// As it calls itself.
    pub system: String,
    /// Of it.
    pub version: String,
    /// How weights are stored.
    pub weights: String,
    /// Median of the repeats of each turn.
    pub turns: Vec<f64>,
    /// Least of all repeats.
    pub min: f64,
    /// Greatest of all repeats.
    pub max: f64,
}

/// What became of a rival in a suite.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The suite.
    pub suite: Suite,
    /// The rival.
    pub rival: String,
    /// What became of it.
    #[serde(flatten)]
    pub state: State,
}

/// What became of a rival.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It has rows.
    Measured {
        /// Turns that it had.
        turns: usize,
    },
    /// It is not here.
    Absent {
        /// What is missing.
        why: String,
        /// How one gets it.
        install: String,
    },
    /// It went wrong.
    Failed {
        /// How.
        why: String,
    },
}

impl Side {
    fn of(lines: &[&Line]) -> Self {
        let values = || lines.iter().flat_map(|line| line.values.iter().copied());
        let last = lines[lines.len() - 1];
        Self {
            system: last.system.clone(),
            version: last.version.clone(),
            weights: last.weights.clone(),
            turns: lines.iter().map(|line| line.median()).collect(),
            min: values().fold(f64::INFINITY, f64::min),
            max: values().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Median of the turns.
    pub fn median(&self) -> f64 {
        median(&self.turns)
    }
}

impl Row {
    /// How many times as good as the rival we are.
    pub fn times(&self) -> &Comparison {
        &self.comparison
    }

    /// The cells of a table, without the model's: figure, unit, ours, rival, theirs, ratio, interval.
    pub fn cells(&self) -> [String; 7] {
        let (scale, unit) = if self.unit == "B" { (1e9, "GB") } else { (1.0, self.unit.as_str()) };
        let side = |side: &Side| {
            let [middle, low, high] = [side.median(), side.min, side.max].map(|x| digits(x / scale));
            if side.min == side.max { middle } else { format!("{middle} ({low}–{high})") }
        };
        let rival = if self.theirs.weights == self.ours.weights {
            self.theirs.system.clone()
        } else {
            format!("{} ({})", self.theirs.system, self.theirs.weights)
        };
        let interval = match self.comparison.interval {
            Some(i) => format!("{:.2}–{:.2}", i.low, i.high),
            None => "–".into(),
        };
        let ratio = format!("{:.2}", self.comparison.speedup);
        [self.figure.clone(), unit.into(), side(&self.ours), rival, side(&self.theirs), ratio, interval]
    }
}

/// Heads of [`Row::cells`].
pub(super) const HEADS: [&str; 7] =
    ["figure", "unit", "roentgen", "rival", "its figure", "times as good", "95 %"];

/// Three significant digits.
pub(super) fn digits(x: f64) -> String {
    let decimals = match x.abs() {
        99.95.. => 0,
        9.995.. => 1,
        0.9995.. => 2,
        _ => 3,
    };
    format!("{x:.decimals$}")
}

impl Report {
    pub(super) fn new(machine: Fingerprint, rounds: usize) -> Self {
        Self { machine, rounds, interrupted: false, rows: vec![], statuses: vec![] }
    }

    /// Adds the rows of a rival; returns how many.
    pub(super) fn take(&mut self, suite: Suite, rival: &str, turns: &[Turn]) -> usize {
        let before = self.rows.len();
        let Some(first) = turns.first() else { return 0 };
        for kind in &first.ours.lines {
            let same = |line: &&Line| line.figure == kind.figure && line.unit == kind.unit;
            let pairs: Option<Vec<(&Line, &Line)>> = turns
                .iter()
                .map(|turn| {
                    // Programs that measure us too (gemm) print our lines first.
                    let theirs =
                        turn.theirs.lines.iter().filter(|line| line.system != kind.system).find(same);
                    Some((turn.ours.lines.iter().find(same)?, theirs?))
                })
                .collect();
            let Some(pairs) = pairs else { continue };
            let (ours, theirs): (Vec<&Line>, Vec<&Line>) = pairs.into_iter().unzip();
            let (ours, theirs) = (Side::of(&ours), Side::of(&theirs));
            // As times: what is less where it is better.
            let cost = |value: f64| if more_is_better(&kind.unit) { 1.0 / value } else { value };
            let paired: Vec<_> =
                theirs.turns.iter().zip(&ours.turns).map(|(&t, &o)| (cost(t), cost(o))).collect();
            let loads = turns.iter().flat_map(|turn| [turn.ours.load, turn.theirs.load]);
            self.rows.push(Row {
                suite,
                model: kind.model.clone(),
                figure: kind.figure.clone(),
                unit: kind.unit.clone(),
                rival: rival.into(),
                ours,
                theirs,
                comparison: stats::paired(&paired),
                others_percent: loads.filter_map(|load| load.others_percent).reduce(f64::max),
            });
        }
        self.rows.len() - before
    }

    /// Reads an earlier one.
    ///
    /// # Errors
    /// If the file cannot be read or is none.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path);
        let bytes =
            bytes.map_err(|source| Error::Io { path: path.into(), action: "read this report", source })?;
        serde_json::from_slice(&bytes).map_err(|e| Error::File {
            path: path.into(),
            reason: format!("is no report of `roentgen bench rivals`: {e}"),
        })
    }

    /// Puts what `newer` found in the place of what this one has of the same rivals and suites.
    ///
    /// # Errors
    /// If it is of another machine: figures of two machines do not stand side by side.
    pub fn update(&mut self, newer: Self) -> Result<()> {
        let differences = self.machine.differences(&newer.machine);
        if !differences.is_empty() {
            return Err(Error::Input(format!("the earlier report is of another machine ({differences})")));
        }
        let renewed =
            |suite, rival: &str| newer.statuses.iter().any(|s| s.suite == suite && s.rival == rival);
        self.rows.retain(|row| !renewed(row.suite, &row.rival));
        self.statuses.retain(|status| !renewed(status.suite, &status.rival));
        self.rows.extend(newer.rows);
        self.statuses.extend(newer.statuses);
        self.rows.sort_by_key(|row| row.suite);
        self.statuses.sort_by_key(|status| status.suite);
        self.rounds = newer.rounds;
        self.interrupted = newer.interrupted;
        Ok(())
    }

    /// Rows together that share suite and figure, in order.
    pub(super) fn groups(&self) -> Vec<Vec<&Row>> {
        let mut groups: Vec<Vec<&Row>> = Vec::new();
        for row in &self.rows {
            match groups.iter_mut().find(|g| g[0].suite == row.suite && g[0].figure == row.figure) {
                Some(group) => group.push(row),
                None => groups.push(vec![row]),
            }
        }
        groups
    }

    /// Heads and rows of the table, for people.
    pub fn table(&self) -> (Vec<&'static str>, Vec<Vec<String>>) {
        let heads = std::iter::once("model").chain(HEADS).collect();
        let rows = self.groups().into_iter().flatten().map(|row| {
            let title = row.suite.title(&row.model);
            std::iter::once(title).chain(row.cells()).collect()
        });
        (heads, rows.collect())
    }

    /// What is to be said beside the table: absent and failed rivals, versions, crowded runs.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for status in &self.statuses {
            let who = format!("{}, {}", status.rival, status.suite.name());
            match &status.state {
                State::Measured { .. } => {}
                State::Absent { why, install } => {
                    notes.push(format!("{who}: absent: {why}. To have it: {install}"));
                }
                State::Failed { why } => notes.push(format!("{who}: failed: {why}")),
            }
        }
        let mut versions: Vec<String> =
            self.rows.iter().map(|row| format!("{} {}", row.theirs.system, row.theirs.version)).collect();
        versions.sort();
        versions.dedup();
        if !versions.is_empty() {
            notes.push(format!("measured: {}", versions.join("; ")));
        }
        let worst = self.rows.iter().filter_map(|row| row.others_percent).fold(0.0, f64::max);
        if (Load { others_percent: Some(worst), average: None }).crowded() {
            notes.push(format!(
                "the machine was busy: other programs took up to {worst:.0} % of it in a turn"
            ));
        }
        if self.interrupted {
            notes.push("interrupted: not all of it was measured".into());
        }
        notes
    }

    /// The table and the notes in Markdown.
    pub fn markdown(&self) -> String {
        let (heads, rows) = self.table();
        let clean = |cell: &str| cell.replace('|', "\\|").replace(['\n', '\r'], " ");
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(heads.iter().map(|h| (*h).to_owned()).collect());
        text += "|---|---|---|---:|---|---:|---:|---|\n";
        for mut row in rows {
            row[6] = format!("**{}**", row[6]);
            text += &line(row.iter().map(|cell| clean(cell)).collect());
        }
        for note in self.notes() {
            text += &["\n", &clean(&note), "\n"].concat();
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Measured;
    use super::super::schedule::tests::invented;
    use super::*;

    fn turns(n: usize) -> Vec<Turn> {
        let side = |system: &str, speed: f64| Measured {
            lines: vec![
                invented(system, "decode 64", "tokens/s", 100.0 * speed),
                invented(system, "peak memory", "B", 1e9 / speed),
                invented(system, &format!("only {system}"), "s", 1.0),
            ],
            load: Load { average: None, others_percent: Some(if speed > 1.0 { 1.0 } else { 30.0 }) },
        };
        (0..n)
            .map(|i| {
                let mood = 1.0 + 0.3 * i as f64;
                Turn { ours: side("roentgen", 1.5 * mood), theirs: side("candle", mood) }
            })
            .collect()
    }

    pub(in super::super) fn report() -> Report {
        let mut report = Report::new(Fingerprint::here(), 5);
        assert_eq!(
            report.take(Suite::TextBf16, "candle", &turns(5)),
            2,
            "figures of one side alone have no row"
        );
        let state = State::Absent { why: "a | b".into(), install: "build it".into() };
        report.statuses.push(Status { suite: Suite::Product, rival: "burn".into(), state });
        report
    }

    #[test]
    fn ratios_are_taken_within_turns() {
        let report = report();
        for row in &report.rows {
            let c = row.times();
            assert!((c.speedup - 1.5).abs() < 1e-9, "{row:?}");
            // The machine's mood changed by a factor of two from turn to turn, and the ratio never.
            let interval = c.interval.unwrap();
            assert!((interval.low - 1.5).abs() < 1e-9 && (interval.high - 1.5).abs() < 1e-9);
        }
    }

    #[test]
    fn the_table_and_its_notes() {
        let text = report().markdown();
        assert!(text.contains("| SmolLM2") || text.contains("| m, bf16 | decode 64 | tokens/s |"), "{text}");
        assert!(text.contains("**1.50** | 1.50–1.50 |") && text.contains("| GB |"), "{text}");
        assert!(text.contains("absent: a \\| b. To have it: build it"), "{text}");
        assert!(text.contains("up to 30 %"), "{text}");
        assert!(
            text.lines()
                .filter(|l| l.starts_with('|'))
                .all(|l| l.matches(" | ").count() == 7 || l.contains("---"))
        );
    }

    #[test]
    fn a_newer_run_takes_the_place_of_an_older_one() {
        let mut old = report();
        let mut newer = Report::new(Fingerprint::here(), 4);
        newer.take(Suite::TextBf16, "candle", &turns(4));
        let state = State::Measured { turns: 4 };
        newer.statuses.push(Status { suite: Suite::TextBf16, rival: "candle".into(), state });
        old.update(newer.clone()).unwrap();
        assert_eq!((old.rows.len(), old.statuses.len()), (2, 2));
        assert_eq!(old.rows[0].ours.turns.len(), 4);
        newer.machine.cpu = "another".into();
        assert!(old.update(newer).is_err());
    }

    #[test]
    fn a_report_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rivals.json");
        crate::record::write_json(&path, &report()).unwrap();
        let (back, wrote) = (Report::load(&path).unwrap(), report());
        assert_eq!(
            (back.machine, back.statuses, back.rows.len()),
            (wrote.machine, wrote.statuses, wrote.rows.len())
        );
        // JSON readers may be off by the last bit.
        let (back, wrote) = (&back.rows[0], &wrote.rows[0]);
        assert_eq!((&back.figure, back.suite, &back.rival), (&wrote.figure, wrote.suite, &wrote.rival));
        assert!((back.times().speedup / wrote.times().speedup - 1.0).abs() < 1e-12);
        std::fs::write(&path, "{\"rows\": 3}").unwrap();
        assert!(Report::load(&path).unwrap_err().to_string().contains("no report"));
    }

    #[test]
    fn three_digits() {
        assert_eq!(
            [1234.5, 99.97, 12.345, 1.2345, 0.56789].map(digits),
            ["1234", "100", "12.3", "1.23", "0.568"]
        );
    }
}
