//! The file of a run: what was asked for, by which program, on which machine, and every sample.
//!
//! `bench op`, `bench model` and `bench rivals` write it with `--json` or `--out`; `bench compare` reads it back and
//! asks for the same again.

use std::path::{Path, PathBuf};

use engine::weights::{WeightError, replace_file};
use serde::{Deserialize, Serialize};

use crate::machine::{Machine, now};
use crate::{Error, Result};

/// Version of this format; other versions are refused.
pub const FORMAT: u32 = 1;
/// Larger files are no runs.
const MOST_BYTES: u64 = 64 << 20;
/// More rows or samples than a run ever has.
const MOST_ROWS: usize = 100_000;

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`FORMAT`].
    pub format: u32,
    /// Words after `roentgen bench` that ask for the same again, without where to write.
    pub command: Vec<String>,
    /// Who measured.
    pub program: Program,
    /// Unix time of the measurement, seconds.
    pub measured: u64,
    /// The ceilings that percentages refer to: the best ever seen of this machine.
    pub machine: Machine,
    /// A short measurement of the machine during the run: how it was doing then.
    pub probe: Machine,
    /// What was measured.
    pub rows: Vec<Row>,
}

/// A program that measures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// Its file.
    pub path: PathBuf,
    /// Hash of the file, sixteen digits: another build of the same path is another program.
    pub digest: String,
}

/// One thing that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it is, the same in every run that measures the same.
    pub case: String,
    /// Seconds of each repeat; none if it failed.
    pub samples: Vec<f64>,
    /// Whatever else the kind of run says about it.
    #[serde(flatten)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

impl Run {
    /// A run of this program, now.
    pub fn new(command: Vec<String>, machine: Machine, probe: Machine, rows: Vec<Row>) -> Result<Self> {
        Ok(Self { format: FORMAT, command, program: Program::this()?, measured: now(), machine, probe, rows })
    }

    /// Reads and checks a run.
    ///
    /// # Errors
    /// If the file cannot be read, or is no run of this format.
    pub fn load(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: path.into(), action: "read this run", source };
        if std::fs::metadata(path).map_err(failed)?.len() > MOST_BYTES {
            return Err(Error::File { path: path.into(), reason: "is too large for a run".into() });
        }
        Self::parse(&std::fs::read(path).map_err(failed)?, path)
    }

    /// A run from the text of a file; `origin` names it in errors.
    ///
    /// # Errors
    /// If it is no run of this format.
    pub fn parse(text: &[u8], origin: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::File {
            path: origin.into(),
            reason: format!("is no run of `roentgen bench … --json`: {reason}"),
        };
        let run: Self = serde_json::from_slice(text).map_err(|e| wrong(e.to_string()))?;
        if run.format != FORMAT {
            return Err(wrong(format!("format {}, this program reads {FORMAT}", run.format)));
        }
        let samples: usize = run.rows.iter().map(|r| r.samples.len()).sum();
        if run.rows.len() > MOST_ROWS || samples > MOST_ROWS * 100 {
            return Err(wrong(format!("{} rows with {samples} samples", run.rows.len())));
        }
        if let Some(row) = run.rows.iter().find(|r| r.samples.iter().any(|s| !s.is_finite() || *s <= 0.0)) {
            return Err(wrong(format!("a time of `{}` is not positive", row.case)));
        }
        for machine in [&run.machine, &run.probe] {
            machine.check().map_err(wrong)?;
        }
        Ok(run)
    }

    /// Writes the run.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }
}

impl Program {
    /// The program that runs.
    pub fn this() -> Result<Self> {
        let path = std::env::current_exe();
        let path = path.map_err(|source| Error::Io {
            path: "roentgen".into(),
            action: "find this program",
            source,
        })?;
        Self::at(&path)
    }

    /// The program in a file; the version is this crate's.
    pub fn at(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path);
        let bytes =
            bytes.map_err(|source| Error::Io { path: path.into(), action: "read this program", source })?;
        // A word at a time: a program has tens of megabytes.
        let digest = bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325u64, |hash, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(29)
        });
        Ok(Self {
            version: env!("CARGO_PKG_VERSION").into(),
            path: path.into(),
            digest: format!("{digest:016x}"),
        })
    }

    /// A copy of the program in `folder`, for comparisons after it has been built anew: the copy if it can be made, else
    /// the program itself. The folder keeps the last eight.
    #[must_use]
    pub fn kept_in(&self, folder: &Path) -> Self {
        let name = format!("measured-{}{}", self.digest, std::env::consts::EXE_SUFFIX);
        let copy = Self { path: folder.join(name), ..self.clone() };
        let made = copy.is_there() || self.copy_to(&copy.path).is_ok();
        if made { copy } else { self.clone() }
    }

    fn copy_to(&self, path: &Path) -> std::io::Result<()> {
        const KEPT: usize = 8;
        let folder = path.parent().unwrap_or(path);
        std::fs::create_dir_all(folder)?;
        let mut old: Vec<_> = std::fs::read_dir(folder)?
            .filter_map(std::result::Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("measured-"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        old.sort();
        for (_, path) in old.iter().take((old.len() + 1).saturating_sub(KEPT)) {
            std::fs::remove_file(path)?;
        }
        // Beside it and renamed: a comparison may look at any time.
        let partial = path.with_extension(format!("part-{}", std::process::id()));
        std::fs::copy(&self.path, &partial)?;
        std::fs::rename(&partial, path)
    }

    /// Whether the file still holds the program that it was.
    pub fn is_there(&self) -> bool {
        Self::at(&self.path).is_ok_and(|now| now.digest == self.digest)
    }
}

/// Writes indented JSON beside `path` and renames it.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::File { path: path.into(), reason: format!("cannot be written as JSON: {e}") })?;
    write_text(path, &text)
}

/// Writes a text beside `path` and renames it.
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    let io = |source| Error::Io { path: path.into(), action: "write this file", source };
    replace_file(path, |file| {
        let written = std::io::Write::write_all(file, text.as_bytes());
        written.map_err(|source| WeightError::Io { path: path.into(), action: "write", source })
    })
    .map_err(|error| io(std::io::Error::other(error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::invented;

    fn run() -> Run {
        let details = serde_json::json!({"gflops": 3.5}).as_object().cloned().unwrap_or_default();
        let row = Row { case: "a".into(), samples: vec![1.0, 2.0], details };
        Run::new(vec!["op".into(), "matmul".into()], invented(), invented(), vec![row]).unwrap()
    }

    #[test]
    fn a_run_comes_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        run().save(&path).unwrap();
        assert_eq!(Run::load(&path).unwrap(), run());
        assert!(run().program.is_there());
        let moved = Program { digest: "0".into(), ..run().program };
        assert!(!moved.is_there());
    }

    #[test]
    fn a_program_outlives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let kept: Vec<Program> = (0..10u8)
            .map(|i| {
                let path = folder.path().join("program");
                std::fs::write(&path, [i; 100]).unwrap();
                let kept = Program::at(&path).unwrap().kept_in(&cache);
                // Times of files may be as coarse as this.
                std::thread::sleep(std::time::Duration::from_millis(15));
                kept
            })
            .collect();
        let there: Vec<bool> = kept.iter().map(Program::is_there).collect();
        assert_eq!(there, [vec![false; 2], vec![true; 8]].concat());
        // Without room for a copy it is the program itself.
        let program = Program::at(&folder.path().join("program")).unwrap();
        assert_eq!(program.kept_in(&folder.path().join("program/below")), program);
    }

    #[test]
    fn hostile_runs_are_refused() {
        let origin = Path::new("base.json");
        let good = serde_json::to_value(run()).unwrap();
        let with = |pointer: &str, value: serde_json::Value| {
            let mut run = good.clone();
            *run.pointer_mut(pointer).unwrap() = value;
            run.to_string()
        };
        for (text, says) in [
            (String::new(), "no run"),
            ("[]".into(), "no run"),
            ("{\"rows\": 3}".into(), "no run"),
            (with("/format", 2.into()), "format 2"),
            (with("/rows/0/samples/0", 0.0.into()), "not positive"),
            (with("/rows/0/samples/0", (-1.0).into()), "not positive"),
            (with("/rows/0/samples/0", "x".into()), "no run"),
            (with("/machine/levels", serde_json::json!([])), "bandwidths"),
            (with("/probe/peaks/0/flops", 0.into()), "peaks"),
        ] {
            let error = Run::parse(text.as_bytes(), origin).unwrap_err().to_string();
            assert!(error.contains("base.json") && error.contains(says), "{error}");
        }
        assert!(Run::parse(good.to_string().as_bytes(), origin).is_ok());
    }
}
