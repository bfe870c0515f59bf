//! The output file of a run over many images: written line by line, continued after a stop.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use engine::weights::{WeightError, replace_file};
use serde_json::Value;

/// A JSON Lines file that is open for more.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    file: File,
    /// Images that have a report.
    done: HashSet<String>,
    /// Models that wrote the reports.
    models: HashSet<String>,
}

impl Lines {
    /// A new file; with `resume`, also one that an earlier run left. Of that, reports are kept; lines with
    /// an `error` and a last line that was cut off are dropped, and their images read again.
    pub(super) fn open(path: &Path, resume: bool) -> Result<Self> {
        let name = path.display();
        let mut kept = Kept::default();
        // A pipe or device has no earlier run in it.
        let file = fs::metadata(path).is_ok_and(|kind| !kind.is_file()).then_some(Ok(String::new()));
        match file.unwrap_or_else(|| fs::read_to_string(path)) {
            Ok(text) if text.is_empty() => {}
            Ok(_) if !resume => {
                bail!("{name}: exists already; --resume goes on with it, or name another file")
            }
            Ok(text) => {
                kept =
                    Kept::of(&text).with_context(|| format!("{name}: not the output of an earlier run"))?;
                if kept.text != text {
                    replace_file(path, |file| {
                        let written = file.write_all(kept.text.as_bytes());
                        written.map_err(|source| WeightError::Io {
                            path: path.into(),
                            action: "write",
                            source,
                        })
                    })?;
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("{name}: cannot be read")),
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        let file = file.with_context(|| format!("{name}: cannot be written"))?;
        Ok(Self { path: path.into(), file, done: kept.done, models: kept.models })
    }

    /// Whether an image has a report.
    pub(super) fn has(&self, image: &str) -> bool {
        self.done.contains(image)
    }

    /// Refuses to mix the reports of two models.
    pub(super) fn check_model(&self, origin: &str) -> Result<()> {
        match self.models.iter().find(|model| *model != origin) {
            Some(other) => bail!(
                "{}: its reports are by {other}, this run's model is {origin}; name another file",
                self.path.display()
            ),
            None => Ok(()),
        }
    }

    /// Appends one line; it is with the system when this returns.
    pub(super) fn push(&mut self, value: &Value) -> Result<()> {
        let written = self.file.write_all(format!("{value}\n").as_bytes());
        written.with_context(|| format!("{}: cannot be written; --resume goes on later", self.path.display()))
    }
}

/// What is kept of an earlier run.
#[derive(Debug, Default, PartialEq)]
struct Kept {
    text: String,
    done: HashSet<String>,
    models: HashSet<String>,
}

impl Kept {
    fn of(text: &str) -> Result<Self> {
        let mut kept = Self::default();
        for (i, line) in text.split_inclusive('\n').enumerate() {
            let value: Value = match serde_json::from_str(line) {
                Ok(value) => value,
                // Only the last line of a run that was killed can lack its end.
                Err(_) if !line.ends_with('\n') => break,
                Err(e) => bail!("line {}: {e}", i + 1),
            };
            let Some(file) = value["file"].as_str() else {
                bail!("line {}: no `file` in it", i + 1);
            };
            if value.get("error").is_none() && kept.done.insert(file.to_owned()) {
                kept.text.push_str(line.trim_end());
                kept.text.push('\n');
                kept.models.extend(value["model"].as_str().map(str::to_owned));
            }
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_stay_and_errors_and_torn_lines_go() {
        let whole = "{\"file\":\"a\",\"model\":\"m\"}\n{\"file\":\"b\",\"error\":\"x\"}\n{\"file\":\"c\"}\n";
        let kept = Kept::of(&format!("{whole}{{\"file\":\"d\",\"ra")).unwrap();
        assert_eq!(kept.text, "{\"file\":\"a\",\"model\":\"m\"}\n{\"file\":\"c\"}\n");
        assert_eq!(kept.done, HashSet::from(["a".to_owned(), "c".to_owned()]));
        assert_eq!(kept.models, HashSet::from(["m".to_owned()]));
        // A last line that is whole but for its end stays.
        assert_eq!(Kept::of("{\"file\":\"a\"}").unwrap().text, "{\"file\":\"a\"}\n");
    }

    #[test]
    fn other_files_are_refused() {
        assert!(Kept::of("some notes\nof mine\n").is_err());
        assert!(Kept::of("{\"id\":1}\n").is_err());
    }
}
