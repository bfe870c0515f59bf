//! Running the program.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a run ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Exit code 0.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Exit code 1, nothing on stdout, and an error that contains every one of `texts`.
    pub(crate) fn fails(self, texts: &[&str]) -> Self {
        assert_eq!(self.code, 1, "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        self.says(texts)
    }

    /// stderr contains every one of `texts`.
    pub(crate) fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is not in {self:#?}");
        }
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// stdout as JSON Lines.
    pub(crate) fn lines(&self) -> Vec<Value> {
        json_lines(&self.stdout)
    }
}

pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roentgen"));
    command.stdin(Stdio::null());
    command
}

/// Runs the program; whatever happens, it does not panic.
pub(crate) fn roentgen(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Outcome {
    finish(command().args(args))
}

/// As [`roentgen`], with this on stdin.
pub(crate) fn roentgen_reading(stdin: &str, args: &[&str]) -> Outcome {
    let mut child = command()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("it reads");
    outcome(&child.wait_with_output().expect("it ends"))
}

pub(crate) fn finish(command: &mut Command) -> Outcome {
    outcome(&command.output().expect("the program starts"))
}

fn outcome(output: &std::process::Output) -> Outcome {
    let outcome = Outcome {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    assert!(!outcome.stderr.contains("panicked"), "{outcome:#?}");
    outcome
}
