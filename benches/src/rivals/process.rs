//! Running one program, with a limit on its time and on what is kept of its output.

use std::ffi::OsString;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::busy::{Load, Watch};
use super::line::Line;

/// A program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Who is measured, for messages.
    pub who: String,
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Where.
    pub folder: PathBuf,
}

impl Job {
    /// The command as one could type it.
    pub fn text(&self) -> String {
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Its figures.
    pub lines: Vec<Line>,
    /// What others did meanwhile.
    pub load: Load,
}

/// Why nothing came of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It went wrong.
    #[error("{0}")]
    Failed(String),
    /// The user ended the run.
    #[error("interrupted")]
    Interrupted,
}

/// Runs jobs; tests have one that only notes them.
pub trait Runner {
    /// Runs the job to its end.
    ///
    /// # Errors
    /// If it cannot be started, fails, takes too long, or prints no figures.
    fn run(&mut self, job: &Job) -> Result<Measured, Failure>;
}

/// Runs jobs as processes.
pub struct Processes<'a> {
    /// Longest that one may take.
    pub limit: Duration,
    /// Set from outside to end the run.
    pub stop: &'a AtomicBool,
}

/// What is kept of an output.
const MOST_OUTPUT: u64 = 16 << 20;
/// What is shown of an error output.
const SHOWN: usize = 600;

impl Runner for Processes<'_> {
    fn run(&mut self, job: &Job) -> Result<Measured, Failure> {
        let (program, args) =
            job.command.split_first().ok_or_else(|| Failure::Failed("no command".into()))?;
        let mut command = Command::new(program);
        command.args(args).current_dir(&job.folder);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // So that what it starts itself can be ended with it.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let watch = Watch::start();
        let mut child = command.spawn().map_err(|e| {
            Failure::Failed(format!("`{}` cannot be started: {e}", program.to_string_lossy()))
        })?;
        let (out, err) = (reader(child.stdout.take()), reader(child.stderr.take()));
        let status = self.wait(&mut child);
        let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
        let load = watch.stop();
        let status = status.map_err(|failure| with_tail(failure, &err))?;
        if !status.success() {
            return Err(with_tail(Failure::Failed(format!("{status}")), &err));
        }
        let lines = Line::all(&out).map_err(|reason| with_tail(Failure::Failed(reason), &err))?;
        Ok(Measured { lines, load })
    }
}

impl Processes<'_> {
    /// Waits for the end, or brings it about.
    fn wait(&self, child: &mut Child) -> Result<std::process::ExitStatus, Failure> {
        let begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => {}
                Err(e) => return Err(Failure::Failed(format!("cannot be waited for: {e}"))),
            }
            let failure = if self.stop.load(Ordering::Relaxed) {
                Failure::Interrupted
            } else if begun.elapsed() > self.limit {
                Failure::Failed(format!("not done after {} s (--limit)", self.limit.as_secs_f64()))
            } else {
                // Coarse, so that waiting takes nothing from what is measured.
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            end(child);
            return Err(failure);
        }
    }
}

/// Ends the process and what it started.
fn end(child: &mut Child) {
    #[cfg(unix)]
    {
        // Its group has its number. The standard library has no call for groups.
        let group = format!("-{}", child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Reads to the end in a thread of its own, so that no pipe fills up; keeps the beginning.
fn reader(source: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let Some(mut source) = source else { return String::new() };
        let mut kept = Vec::new();
        let _ = source.by_ref().take(MOST_OUTPUT).read_to_end(&mut kept);
        let _ = std::io::copy(&mut source, &mut std::io::sink());
        String::from_utf8_lossy(&kept).into_owned()
    })
}

/// Adds the end of what the program said.
fn with_tail(failure: Failure, err: &str) -> Failure {
    let Failure::Failed(reason) = failure else { return failure };
    let said = err.trim();
    if said.is_empty() {
        return Failure::Failed(reason);
    }
    let from = said.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
    let mark = if from > 0 { "…" } else { "" };
    Failure::Failed(format!("{reason}; it said: {mark}{}", &said[from..]))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    const FIGURE: &str = r#"{"system":"x","version":"1","figure":"f","model":"m","weights":"w","unit":"s","values":[1.5],"threads":1}"#;

    fn run(script: &str, seconds: f64) -> Result<Measured, Failure> {
        let stop = AtomicBool::new(false);
        let mut processes = Processes { limit: Duration::from_secs_f64(seconds), stop: &stop };
        let command = ["sh", "-c", script].map(OsString::from).to_vec();
        processes.run(&Job { who: "x".into(), command, folder: ".".into() })
    }

    fn says(script: &str, seconds: f64, texts: &[&str]) {
        let Err(Failure::Failed(error)) = run(script, seconds) else { panic!("{script}") };
        assert!(texts.iter().all(|text| error.contains(text)), "{error}");
    }

    #[test]
    fn figures_come_back() {
        let measured = run(&format!("echo talk; echo '{FIGURE}'; echo noise >&2"), 10.0).unwrap();
        assert_eq!(measured.lines[0].values, [1.5]);
    }

    #[test]
    fn broken_rivals_say_why() {
        says("echo reason >&2; exit 3", 10.0, &["3", "it said: reason"]);
        says(&format!("echo '{FIGURE}'; exit 1"), 10.0, &["1"]);
        says("exit 0", 10.0, &["printed nothing"]);
        says("head -c 100000 /dev/urandom | tr -d '{'", 10.0, &["no figure"]);
        says("echo '{\"system\": 3}'", 10.0, &["no figure"]);
        says("kill -9 $$", 10.0, &["9"]);
        let stop = AtomicBool::new(false);
        let mut processes = Processes { limit: Duration::from_secs(1), stop: &stop };
        let job = Job { who: "x".into(), command: vec!["no-such-program".into()], folder: ".".into() };
        let Err(Failure::Failed(error)) = processes.run(&job) else { panic!() };
        assert!(error.contains("no-such-program") && error.contains("cannot be started"), "{error}");
    }

    #[test]
    fn a_rival_that_hangs_is_ended_with_its_children() {
        let begun = Instant::now();
        // The inner one holds the pipe: were it left alone, reading would wait for it.
        says("sleep 60 & echo started >&2; sleep 60", 0.3, &["not done after 0.3 s", "started"]);
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn endless_output_neither_fills_memory_nor_hangs() {
        says("yes x", 0.5, &["not done"]);
    }

    #[test]
    fn the_user_can_end_it() {
        let stop = AtomicBool::new(true);
        let mut processes = Processes { limit: Duration::from_mins(1), stop: &stop };
        let command = ["sleep", "60"].map(OsString::from).to_vec();
        let job = Job { who: "x".into(), command, folder: ".".into() };
        assert_eq!(processes.run(&job), Err(Failure::Interrupted));
    }
}
