//! The order of things: suite by suite, round by round, each rival in a turn of its own beside us.

use super::process::{Failure, Measured, Runner};
use super::registry::{Jobs, Rival, Suite};
use super::report::{Report, State, Status};
use crate::machine::Fingerprint;

/// What to measure.
pub struct Plan {
    /// In the order of the table.
    pub suites: Vec<Suite>,
    /// All, or those asked for.
    pub rivals: Vec<&'static Rival>,
    /// Turns of each rival.
    pub rounds: usize,
    /// Where both sides run.
    pub machine: Fingerprint,
}

/// One rival beside us.
pub(super) struct Turn {
    pub(super) ours: Measured,
    pub(super) theirs: Measured,
}

/// Measures all of it. Absent and failing rivals are noted and the run goes on; `tell` hears of every process before
/// it starts.
pub fn run(plan: &Plan, jobs: &impl Jobs, runner: &mut impl Runner, tell: &mut dyn FnMut(&str)) -> Report {
    let mut report = Report::new(plan.machine.clone(), plan.rounds);
    for &suite in &plan.suites {
        if one_suite(plan, suite, jobs, runner, tell, &mut report).is_err() {
            report.interrupted = true;
            break;
        }
    }
    report
}

struct Interrupted;

fn one_suite(
    plan: &Plan,
    suite: Suite,
    jobs: &impl Jobs,
    runner: &mut impl Runner,
    tell: &mut dyn FnMut(&str),
    report: &mut Report,
) -> Result<(), Interrupted> {
    let mut running: Vec<(&'static Rival, Vec<Turn>)> = Vec::new();
    let mut states = Vec::new();
    for &rival in plan.rivals.iter().filter(|rival| rival.suites.contains(&suite)) {
        match jobs.missing(rival) {
            None => running.push((rival, Vec::new())),
            Some(why) => states.push((rival, State::Absent { why, install: rival.install.into() })),
        }
    }
    let mut interrupted = false;
    'rounds: for round in 0..plan.rounds {
        let mut i = 0;
        while i < running.len() {
            let (rival, turns) = &mut running[i];
            let number = format!("{}, round {} of {}", suite.name(), round + 1, plan.rounds);
            match turn(rival, suite, round, &number, jobs, runner, tell) {
                Ok(turn) => {
                    turns.push(turn);
                    i += 1;
                }
                Err(Ended::Theirs(why)) => {
                    states.push((rival, State::Failed { why }));
                    running.remove(i);
                }
                Err(Ended::Ours(why)) => {
                    let why = format!("roentgen itself failed: {why}");
                    states.extend(
                        running.drain(..).map(|(rival, _)| (rival, State::Failed { why: why.clone() })),
                    );
                    break 'rounds;
                }
                Err(Ended::Interrupted) => {
                    interrupted = true;
                    break 'rounds;
                }
            }
        }
    }
    for (rival, turns) in running.into_iter().filter(|(_, turns)| !turns.is_empty()) {
        let state = match report.take(suite, rival.name, &turns) {
            0 => State::Failed { why: "it printed none of the figures that are asked for".into() },
            _ => State::Measured { turns: turns.len() },
        };
        states.push((rival, state));
    }
    let order = |rival: &Rival| plan.rivals.iter().position(|r| r.name == rival.name);
    states.sort_by_key(|(rival, _)| order(rival));
    let status = |(rival, state): (&Rival, State)| Status { suite, rival: rival.name.into(), state };
    report.statuses.extend(states.into_iter().map(status));
    if interrupted { Err(Interrupted) } else { Ok(()) }
}

enum Ended {
    Ours(String),
    Theirs(String),
    Interrupted,
}

/// Who goes first alternates, so that a drift of the machine favours neither.
fn turn(
    rival: &Rival,
    suite: Suite,
    round: usize,
    number: &str,
    jobs: &impl Jobs,
    runner: &mut impl Runner,
    tell: &mut dyn FnMut(&str),
) -> Result<Turn, Ended> {
    let mut one = |rival: Option<&Rival>| {
        let failed = |why| if rival.is_some() { Ended::Theirs(why) } else { Ended::Ours(why) };
        let job = jobs.job(rival, suite).map_err(failed)?;
        tell(&format!("{number}: {}", job.who));
        runner.run(&job).map_err(|failure| match failure {
            Failure::Interrupted => Ended::Interrupted,
            Failure::Failed(why) => failed(why),
        })
    };
    if round.is_multiple_of(2) {
        let ours = one(None)?;
        Ok(Turn { ours, theirs: one(Some(rival))? })
    } else {
        let theirs = one(Some(rival))?;
        Ok(Turn { ours: one(None)?, theirs })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::line::Line;
    use super::super::process::Job;
    use super::super::registry::RIVALS;
    use super::super::{Load, Measured};
    use super::*;

    /// Everything is here but what `absent` names.
    struct Fake {
        absent: &'static str,
    }

    impl Jobs for Fake {
        fn missing(&self, rival: &Rival) -> Option<String> {
            (rival.name == self.absent).then(|| "not here".into())
        }
        fn job(&self, rival: Option<&Rival>, suite: Suite) -> Result<Job, String> {
            let who = rival.map_or("roentgen", |r| r.name).to_owned();
            Ok(Job { who, command: vec![suite.name().into()], folder: ".".into() })
        }
    }

    /// Notes who ran; gives invented figures, or none from `broken` on the `nth` call.
    #[derive(Default)]
    struct Notes {
        ran: Vec<String>,
        broken: Option<(&'static str, usize, Option<Failure>)>,
    }

    pub(in super::super) fn invented(system: &str, figure: &str, unit: &str, value: f64) -> Line {
        let text = |t: &str| t.to_owned();
        Line {
            system: text(system),
            version: text("1"),
            figure: text(figure),
            model: text("m"),
            weights: text("bf16"),
            unit: text(unit),
            values: vec![value, value * 1.1, value * 0.9],
            threads: 2,
            about: serde_json::Map::new(),
        }
    }

    impl Runner for Notes {
        fn run(&mut self, job: &Job) -> Result<Measured, Failure> {
            let before = self.ran.iter().filter(|who| **who == job.who).count();
            self.ran.push(job.who.clone());
            if let Some((who, nth, failure)) = &self.broken
                && *who == job.who
                && *nth == before
            {
                return match failure {
                    Some(failure) => Err(failure.clone()),
                    None => Ok(Measured {
                        lines: vec![invented(who, "something else", "s", 1.0)],
                        load: Load::default(),
                    }),
                };
            }
            let speed = if job.who == "roentgen" { 2.0 } else { 1.0 };
            let lines = vec![
                invented(&job.who, "prefill 512", "tokens/s", 100.0 * speed),
                invented(&job.who, "step", "s", 1.0 / speed),
            ];
            Ok(Measured { lines, load: Load::default() })
        }
    }

    fn plan(names: &[&str], suites: &[Suite], rounds: usize) -> Plan {
        let rivals = names.iter().map(|n| RIVALS.iter().find(|r| r.name == *n).unwrap()).collect();
        Plan { suites: suites.to_vec(), rivals, rounds, machine: Fingerprint::here() }
    }

    fn go(plan: &Plan, absent: &'static str, notes: &mut Notes) -> Report {
        run(plan, &Fake { absent }, notes, &mut |_| ())
    }

    fn state<'a>(report: &'a Report, rival: &str) -> &'a State {
        &report.statuses.iter().find(|s| s.rival == rival).unwrap().state
    }

    #[test]
    fn systems_take_turns_and_the_first_alternates() {
        let plan = plan(&["llama.cpp", "candle"], &[Suite::TextBf16], 3);
        let mut notes = Notes::default();
        let report = go(&plan, "", &mut notes);
        let (us, l, c) = ("roentgen", "llama.cpp", "candle");
        assert_eq!(notes.ran, [us, l, us, c, l, us, c, us, us, l, us, c]);
        assert!(matches!(state(&report, "candle"), State::Measured { turns: 3 }));
        let row =
            |figure: &str| report.rows.iter().find(|r| r.figure == figure && r.rival == "candle").unwrap();
        assert!((row("prefill 512").times().speedup - 2.0).abs() < 1e-9);
        assert!((row("step").times().speedup - 2.0).abs() < 1e-9, "seconds: less is better");
    }

    #[test]
    fn absent_rivals_are_named_and_not_run() {
        let plan = plan(&["llama.cpp", "candle", "PEFT"], &[Suite::TextBf16], 1);
        let mut notes = Notes::default();
        let report = go(&plan, "llama.cpp", &mut notes);
        assert_eq!(notes.ran, ["roentgen", "candle"], "PEFT has nothing to do here");
        let State::Absent { why, install } = state(&report, "llama.cpp") else { panic!() };
        assert!(why == "not here" && install.contains("llama_build.sh"));
        assert_eq!(report.statuses.len(), 2);
    }

    #[test]
    fn a_failing_rival_is_left_out_and_the_run_goes_on() {
        let plan = plan(&["llama.cpp", "candle"], &[Suite::TextBf16, Suite::Text4bit], 2);
        let failure = Failure::Failed("exploded".into());
        let mut notes = Notes { broken: Some(("llama.cpp", 1, Some(failure))), ..Notes::default() };
        let report = go(&plan, "", &mut notes);
        let State::Failed { why } = state(&report, "llama.cpp") else { panic!() };
        assert_eq!(why, "exploded");
        assert!(matches!(state(&report, "candle"), State::Measured { turns: 2 }));
        assert!(
            report.rows.iter().any(|r| r.suite == Suite::Text4bit && r.rival == "llama.cpp"),
            "tried anew"
        );
        assert!(!report.rows.iter().any(|r| r.suite == Suite::TextBf16 && r.rival == "llama.cpp"));
    }

    #[test]
    fn our_own_failure_ends_the_suite() {
        let plan = plan(&["llama.cpp", "candle"], &[Suite::TextBf16, Suite::Text4bit], 2);
        let failure = Failure::Failed("oh".into());
        let mut notes = Notes { broken: Some(("roentgen", 0, Some(failure))), ..Notes::default() };
        let report = go(&plan, "", &mut notes);
        let State::Failed { why } = state(&report, "candle") else { panic!() };
        assert!(why.contains("roentgen itself failed: oh"));
        assert_eq!(report.statuses.len(), 4);
        assert!(report.rows.iter().all(|r| r.suite == Suite::Text4bit) && !report.rows.is_empty());
    }

    #[test]
    fn figures_that_nobody_asked_for_are_no_measurement() {
        let plan = plan(&["candle"], &[Suite::TextBf16], 1);
        let mut notes = Notes { broken: Some(("candle", 0, None)), ..Notes::default() };
        let report = go(&plan, "", &mut notes);
        let State::Failed { why } = state(&report, "candle") else { panic!() };
        assert!(why.contains("none of the figures"));
    }

    #[test]
    fn an_interrupted_run_keeps_what_it_has() {
        let plan = plan(&["candle"], &[Suite::TextBf16, Suite::Text4bit], 3);
        let mut notes = Notes { broken: Some(("candle", 2, Some(Failure::Interrupted))), ..Notes::default() };
        let report = go(&plan, "", &mut notes);
        assert!(report.interrupted);
        assert!(matches!(state(&report, "candle"), State::Measured { turns: 2 }));
        assert!(report.rows.iter().all(|r| r.suite == Suite::TextBf16));
    }
}
