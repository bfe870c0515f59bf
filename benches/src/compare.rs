//! A run against an earlier one, or two programs against each other.
//!
//! Where both programs are there they take turns, ABBA, and each turn gives one median a case: what moves the machine
//! moves both. Where only the figures of the base are left, as many runs of the new program show how much one run differs
//! from the next, and the interval is widened by what a short probe of the machine says has changed since.

mod build;

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::machine::Fingerprint;
use crate::record::{Program, Run};
use crate::stats::{Comparison, Summary, median, one_against_many, paired};
use crate::{Error, Result};

pub use build::{build, default_cache};

/// What is said about one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// The case.
    pub case: String,
    /// The case for people.
    pub label: String,
    /// Seconds of the base.
    pub base: Summary,
    /// Seconds of the new program.
    pub new: Summary,
    /// How they differ.
    pub comparison: Comparison,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What both were asked.
    pub command: Vec<String>,
    /// Who the base is.
    pub base: Program,
    /// Who is compared with it.
    pub new: Program,
    /// Turns that both took, or runs of the new program where the base is a stored run.
    pub turns: usize,
    /// Whether both took turns.
    pub paired: bool,
    /// By what factor the machine may have changed since the base's run; 1 for turns.
    pub drift: f64,
    /// Every case that both measured.
    pub changes: Vec<Change>,
    /// Cases that only one of them has, or for which one had no right result, with the reason.
    pub left_out: Vec<String>,
}

/// Both programs in turns.
///
/// # Errors
/// If a program cannot be started, fails, or writes no run.
pub fn in_turns(
    base: &Program,
    new: &Program,
    command: &[String],
    turns: usize,
    mut progress: impl FnMut(usize, &str),
) -> Result<Report> {
    let mut runs: [Vec<Run>; 2] = Default::default();
    for turn in 0..turns {
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in order {
            progress(turn, if side == 0 { "base" } else { "new" });
            runs[side].push(ask(if side == 0 { &base.path } else { &new.path }, command)?);
        }
    }
    Ok(report(base, new, command, &runs))
}

/// The report of turns: `runs[0]` of the base, `runs[1]` of the new program.
fn report(base: &Program, new: &Program, command: &[String], runs: &[Vec<Run>; 2]) -> Report {
    let medians = |side: usize, case: &str| -> Vec<f64> {
        let rows = runs[side].iter().filter_map(|run| run.rows.iter().find(|r| r.case == case));
        rows.map(|row| median(&row.samples)).filter(|m| m.is_finite()).collect()
    };
    let mut changes = Vec::new();
    let cases = cases(runs[0].first(), runs[1].first());
    let mut left_out = cases.1;
    for case in cases.0 {
        let (a, b) = (medians(0, &case), medians(1, &case));
        match (Summary::of(&a), Summary::of(&b)) {
            (Some(base), Some(new)) if a.len() == b.len() => {
                let pairs: Vec<(f64, f64)> = a.into_iter().zip(b).collect();
                let label = label(&runs[1], &case);
                changes.push(Change { case, label, base, new, comparison: paired(&pairs) });
            }
            _ => left_out.push(format!("{case}: no right result in every turn")),
        }
    }
    Report {
        command: command.to_vec(),
        base: base.clone(),
        new: new.clone(),
        turns: runs[0].len(),
        paired: true,
        drift: 1.0,
        changes,
        left_out,
    }
}

/// A stored run against `turns` new ones of `program`, asked for the same.
///
/// # Errors
/// If the machines differ, or the program fails.
pub fn with_stored(
    base: &Run,
    program: &Program,
    turns: usize,
    mut progress: impl FnMut(usize, &str),
) -> Result<Report> {
    let same = |here: &Fingerprint| {
        let differences = base.machine.fingerprint.differences(here);
        if differences.is_empty() {
            return Ok(());
        }
        Err(Error::Input(format!(
            "the base was measured on another machine or with other threads ({differences}): times do not compare"
        )))
    };
    // A GPU is known when the program has opened it.
    if !base.machine.fingerprint.gpu() {
        same(&Fingerprint::here())?;
    }
    let run = |turn| {
        progress(turn, "new");
        let run = ask(&program.path, &base.command)?;
        same(&run.machine.fingerprint)?;
        Ok(run)
    };
    let new = (0..turns).map(run).collect::<Result<Vec<_>>>()?;
    Ok(stored(base, &new, program))
}

fn stored(base: &Run, new: &[Run], program: &Program) -> Report {
    // The least of the changes seen: a probe can only be too low.
    let drift = new.iter().map(|run| base.probe.drift(&run.probe)).fold(f64::INFINITY, f64::min);
    let drift = if new.is_empty() { 1.0 } else { drift };
    let (cases, mut left_out) = cases(Some(base), new.first());
    let mut changes = Vec::new();
    for case in cases {
        let of = |run: &Run| -> Option<f64> {
            let row = run.rows.iter().find(|r| r.case == case)?;
            Some(median(&row.samples)).filter(|m| m.is_finite())
        };
        let medians: Vec<f64> = new.iter().filter_map(of).collect();
        let samples = base.rows.iter().find(|r| r.case == case).and_then(|row| Summary::of(&row.samples));
        match (samples, Summary::of(&medians)) {
            (Some(base), Some(summary)) if medians.len() == new.len() => changes.push(Change {
                label: label(new, &case),
                base,
                new: summary,
                comparison: one_against_many(base.median, &medians, drift),
                case,
            }),
            _ => left_out.push(format!("{case}: no right result")),
        }
    }
    Report {
        command: base.command.clone(),
        base: base.program.clone(),
        new: program.clone(),
        turns: new.len(),
        paired: false,
        drift,
        changes,
        left_out,
    }
}

/// Operation, inputs and path where a run of `bench op` says them, else the case.
fn label(runs: &[Run], case: &str) -> String {
    let row = runs.first().and_then(|run| run.rows.iter().find(|r| r.case == case));
    let text = |key: &str| row.and_then(|r| r.details.get(key)).and_then(serde_json::Value::as_str);
    match (text("op"), text("shapes"), text("variant")) {
        (Some(op), Some(shapes), Some(variant)) => format!("{op} {shapes} ({variant})"),
        _ => case.to_owned(),
    }
}

/// Cases that both runs have, in the order of the base; and what is said of the others.
fn cases(base: Option<&Run>, new: Option<&Run>) -> (Vec<String>, Vec<String>) {
    let names = |run: Option<&Run>| -> Vec<String> {
        run.map_or_else(Vec::new, |run| run.rows.iter().map(|r| r.case.clone()).collect())
    };
    let (base, new) = (names(base), names(new));
    let only = |a: &[String], b: &[String], who: &str| -> Vec<String> {
        a.iter().filter(|case| !b.contains(case)).map(|case| format!("{case}: only {who} has it")).collect()
    };
    let left_out = [only(&base, &new, "the base"), only(&new, &base, "the new program")].concat();
    (base.into_iter().filter(|case| new.contains(case)).collect(), left_out)
}

/// Runs `program bench COMMAND --json` and reads its run.
fn ask(program: &Path, command: &[String]) -> Result<Run> {
    if !["op", "model"].contains(&command.first().map_or("", String::as_str)) {
        return Err(Error::Input(format!(
            "`bench {}` cannot be compared; `op` and `model` can",
            command.join(" ")
        )));
    }
    let output = Command::new(program).arg("bench").args(command).arg("--json").output();
    let output =
        output.map_err(|source| Error::Io { path: program.into(), action: "start this program", source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
        return Err(Error::File {
            path: program.into(),
            reason: format!("failed at `bench {}`: {}", command.join(" "), last.trim()),
        });
    }
    Run::parse(&output.stdout, program)
}

impl Report {
    /// Rows for people: case, base, new, speedup, interval, verdict.
    pub fn cells(&self) -> Vec<Vec<String>> {
        let time = crate::op::seconds;
        let row = |c: &Change| {
            let interval = c.comparison.interval;
            vec![
                c.label.clone(),
                time(c.base.median),
                time(c.new.median),
                format!("{:.3}", c.comparison.speedup),
                interval.map_or_else(|| "–".into(), |i| format!("{:.3}–{:.3}", i.low, i.high)),
                c.comparison.verdict.text().to_owned(),
            ]
        };
        self.changes.iter().map(row).collect()
    }

    /// How the comparison was made.
    pub fn note(&self) -> String {
        let turns = self.turns;
        if self.paired {
            return format!(
                "{turns} turns of both programs, ABBA; speedup is the median of the turns' ratios, with its 95 % bootstrap interval"
            );
        }
        format!(
            "{}: {turns} new runs against one stored; the machine differs by {:.0} % since, and the 95 % intervals, from the spread of the new runs, are widened by that",
            if self.base.digest == self.new.digest {
                "the base is of this very program"
            } else {
                "the base's program is gone"
            },
            100.0 * (self.drift - 1.0)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::invented;
    use crate::record::Row;
    use crate::stats::Verdict;

    fn run(rows: &[(&str, &[f64])]) -> Run {
        let rows = rows.iter().map(|(case, samples)| Row {
            case: (*case).into(),
            samples: samples.to_vec(),
            details: serde_json::Map::new(),
        });
        Run::new(vec!["op".into(), "all".into()], invented(), invented(), rows.collect()).unwrap()
    }

    #[test]
    fn turns_are_paired_and_the_rest_is_named() {
        let moods = [1.0, 2.0, 1.3, 1.7, 1.1, 1.9];
        let turn = |factor: f64| -> Vec<Run> {
            let base = |m: &f64| run(&[("a", &[m * factor]), ("b", &[*m]), ("gone", &[1.0]), ("bad", &[])]);
            moods.iter().map(base).collect()
        };
        let mut new = turn(0.8);
        for run in &mut new {
            run.rows.retain(|r| r.case != "gone");
        }
        let program = Program::this().unwrap();
        let report = report(&program, &program, &[], &[turn(1.0), new]);
        let verdict = |case: &str| report.changes.iter().find(|c| c.case == case).unwrap().comparison.verdict;
        assert_eq!((verdict("a"), verdict("b")), (Verdict::Faster, Verdict::NoDifferenceSeen));
        assert_eq!(report.left_out.len(), 2, "{:?}", report.left_out);
        assert!(report.note().contains("6 turns"));
    }

    #[test]
    fn a_stored_run_is_compared_with_care() {
        let runs = |center: f64| -> Vec<Run> {
            (0..8).map(|i| run(&[("a", &[center * (1.0 + 0.003 * f64::from(i % 3))])])).collect()
        };
        let (base, new) = (run(&[("a", &[1.0, 1.01, 0.99])]), runs(0.9));
        let program = Program::this().unwrap();
        assert_eq!(stored(&base, &new, &program).changes[0].comparison.verdict, Verdict::Faster);
        let same = stored(&base, &runs(0.998), &program);
        assert_eq!(same.changes[0].comparison.verdict, Verdict::NoDifferenceSeen);
        let mut slow = base.clone();
        for level in &mut slow.probe.levels {
            level.read /= 1.5;
            level.triad /= 1.5;
        }
        let report = stored(&slow, &new, &program);
        assert!((report.drift - 1.5).abs() < 1e-9);
        assert_eq!(report.changes[0].comparison.verdict, Verdict::NoDifferenceSeen);
        let mut elsewhere = base;
        elsewhere.machine.fingerprint.cpu = "another".into();
        assert!(
            with_stored(&elsewhere, &program, 1, |_, _| ())
                .unwrap_err()
                .to_string()
                .contains("another machine")
        );
    }

    #[test]
    fn a_hostile_base_starts_nothing() {
        let mut base = run(&[("a", &[1.0])]);
        for command in [vec![], vec!["compare".into()], vec!["--version".into()]] {
            base.command = command;
            let error = with_stored(&base, &Program::this().unwrap(), 1, |_, _| ()).unwrap_err().to_string();
            assert!(error.contains("cannot be compared"), "{error}");
        }
        let missing = Program { path: "/nowhere/roentgen".into(), ..Program::this().unwrap() };
        let command = ["op".to_owned(), "matmul".to_owned()];
        let error = in_turns(&missing, &missing, &command, 1, |_, _| ()).unwrap_err().to_string();
        assert!(error.contains("/nowhere/roentgen"), "{error}");
    }
}
