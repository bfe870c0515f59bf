//! Files of expected and generated texts, JSON Lines.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Prediction, Row};
use crate::error::{Error, Result};
use crate::metrics::write;

/// Names of the fields of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldNames {
    /// A name or number of the pair; without it a pair is called by its line.
    pub id: String,
    /// The reference text.
    pub expected: String,
    /// The text to score.
    pub generated: String,
}

impl Default for FieldNames {
    fn default() -> Self {
        Self { id: "id".into(), expected: "expected".into(), generated: "generated".into() }
    }
}

/// A line that cannot be scored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// Why.
    pub reason: String,
}

/// Lines of a file, good and bad.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    /// In the order of the file.
    pub good: Vec<Prediction>,
    /// In the order of the file.
    pub bad: Vec<BadLine>,
}

impl Pairs {
    /// Reads a file. Lines that cannot be scored are listed with the reason; empty lines are skipped.
    ///
    /// # Errors
    /// If the file cannot be read, or no line can be scored.
    pub fn read(path: &Path, names: &FieldNames) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read", e))?;
        let pairs = Self::parse(&bytes, names);
        if !pairs.good.is_empty() {
            return Ok(pairs);
        }
        let first: Vec<String> =
            pairs.bad.iter().take(5).map(|bad| format!("\n  line {}: {}", bad.line, bad.reason)).collect();
        Err(Error::Data(match pairs.bad.len() {
            0 => format!("{}: is empty", path.display()),
            n => format!("{}: none of its {n} lines can be scored:{}", path.display(), first.concat()),
        }))
    }

    /// As [`Self::read`], of bytes.
    pub fn parse(bytes: &[u8], names: &FieldNames) -> Self {
        let mut pairs = Self::default();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            let line_number = i + 1;
            let good = pair(line, line_number, names).and_then(|p| match seen.get(&p.id) {
                Some(first) => Err(format!("the id `{}` is already in line {first}", p.id)),
                None => Ok(p),
            });
            match good {
                Ok(pair) => {
                    seen.insert(pair.id.clone(), line_number);
                    pairs.good.push(pair);
                }
                Err(reason) => pairs.bad.push(BadLine { line: line_number, reason }),
            }
        }
        pairs
    }
}

fn pair(line: &[u8], number: usize, names: &FieldNames) -> Result<Prediction, String> {
    let text = std::str::from_utf8(line).map_err(|e| format!("not UTF-8 text: {e}"))?;
    let value: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let Value::Object(fields) = value else { return Err("not a JSON object".into()) };
    let id = match fields.get(&names.id) {
        None | Some(Value::Null) => format!("line {number}"),
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        Some(_) => return Err(format!("`{}` is neither text nor number", names.id)),
    };
    Ok(Prediction {
        id,
        expected: text_of(&fields, &names.expected)?,
        generated: text_of(&fields, &names.generated)?,
    })
}

fn text_of(fields: &Map<String, Value>, name: &str) -> Result<String, String> {
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Null) => Err(format!("`{name}` is null, expected a text")),
        Some(_) => Err(format!("`{name}` is no text")),
        None => {
            let there: Vec<&str> = fields.keys().map(String::as_str).take(12).collect();
            Err(format!("`{name}` is missing (fields: {})", there.join(", ")))
        }
    }
}

/// A line of an evaluation's own file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Id of the row.
    pub id: String,
    /// What was expected.
    pub expected: String,
    /// What the model wrote; `None` beside an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated: Option<String>,
    /// The limit of tokens ended it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Why there is no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The model that wrote it.
    pub model: String,
}

/// The file of one model's answers: written line by line, continued after a stop.
pub struct AnswerFile {
    path: PathBuf,
    file: File,
    lines: Vec<Line>,
    done: HashSet<String>,
}

impl AnswerFile {
    /// A new file; with `resume`, also one that an earlier run left: of that, answers to `rows` by `model` are kept,
    /// errors and a last line that was cut off are dropped.
    ///
    /// # Errors
    /// If there is a file and `resume` is false, or it is not by this model or of these rows.
    pub fn open(path: &Path, resume: bool, model: &str, rows: &[Row]) -> Result<Self> {
        let failed = |reason: String| Error::Data(format!("{}: {reason}", path.display()));
        let lines = match std::fs::read_to_string(path) {
            Ok(text) if text.is_empty() => Vec::new(),
            Ok(_) if !resume => {
                let reason = "exists already; --resume goes on with it, or choose another folder with --out";
                return Err(failed(reason.into()));
            }
            Ok(text) => kept(&text, model, rows).map_err(failed)?,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::io(path, "read", e)),
        };
        let text: Vec<String> = lines.iter().map(to_json).collect();
        write(path, text.concat().as_bytes())?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, "open", e))?;
        let done = lines.iter().map(|line| line.id.clone()).collect();
        Ok(Self { path: path.to_owned(), file, lines, done })
    }

    /// Whether a row has an answer.
    pub fn has(&self, id: &str) -> bool {
        self.done.contains(id)
    }

    /// Appends one line; it is with the system when this returns.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn push(&mut self, line: Line) -> Result<()> {
        let written = self.file.write_all(to_json(&line).as_bytes());
        written.map_err(|e| Error::io(&self.path, "write", e))?;
        self.done.insert(line.id.clone());
        self.lines.push(line);
        Ok(())
    }

    /// All lines, those of an earlier run first.
    pub fn into_lines(self) -> Vec<Line> {
        self.lines
    }
}

fn to_json(line: &Line) -> String {
    // Texts and a flag: nothing that JSON lacks.
    let text = serde_json::to_string(line).unwrap_or_default();
    format!("{text}\n")
}

/// The lines of an earlier run that stand.
fn kept(text: &str, model: &str, rows: &[Row]) -> Result<Vec<Line>, String> {
    let expected: HashMap<&str, &str> = rows.iter().map(|r| (r.id.as_str(), r.expected.as_str())).collect();
    let (mut lines, mut seen) = (Vec::new(), HashSet::new());
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let parsed: Line = match serde_json::from_str(line) {
            Ok(parsed) => parsed,
            // Only the last line of a run that was killed can lack its end.
            Err(_) if !line.ends_with('\n') => break,
            Err(e) => return Err(format!("line {}: not the output of an evaluation: {e}", i + 1)),
        };
        if parsed.model != model {
            return Err(format!("line {}: is by {}, this run's model is {model}", i + 1, parsed.model));
        }
        match expected.get(parsed.id.as_str()) {
            Some(wanted) if *wanted != parsed.expected => {
                return Err(format!("line {}: the data now expect another text for {}", i + 1, parsed.id));
            }
            // A row that this run leaves out (a smaller --limit) keeps its answer for another run.
            None | Some(_) => {}
        }
        if parsed.error.is_none() && parsed.generated.is_some() && seen.insert(parsed.id.clone()) {
            lines.push(parsed);
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> Row {
        Row {
            id: id.into(),
            image: None,
            instruction: String::new(),
            clinical_case: String::new(),
            limit: model::prompt::report::Limit::None,
            expected: format!("text of {id}"),
        }
    }

    fn line(id: &str) -> Line {
        Line {
            id: id.into(),
            expected: format!("text of {id}"),
            generated: Some("g".into()),
            cut: false,
            error: None,
            model: "m".into(),
        }
    }

    #[test]
    fn hostile_lines_are_listed_and_good_ones_kept() {
        let text = b"\xef\xbb\xbf{\"id\":\"a\",\"expected\":\"x\",\"generated\":\"y\"}\r\n\n{\"id\":7,\"expected\":\"\",\"generated\":\"\"}\n\
            [1]\n{\"expected\":\"x\",\"generated\":null}\n{\"expected\":\"x\"}\n{\n{\"id\":\"a\",\"expected\":\"x\",\"generated\":\"y\"}\n\
            {\"expected\":\"x\",\"generated\":\"\xff\"}\n{\"expected\":3,\"generated\":\"y\"}\n{\"id\":[],\"expected\":\"x\",\"generated\":\"y\"}\n\
            {\"expected\":\"x\",\"generated\":\"last\"}";
        let pairs = Pairs::parse(text, &FieldNames::default());
        let ids: Vec<&str> = pairs.good.iter().map(|p| p.id.as_str()).collect();
        assert_eq!(ids, ["a", "7", "line 12"]);
        let said: Vec<(usize, &str)> = pairs.bad.iter().map(|b| (b.line, b.reason.as_str())).collect();
        for (i, (line, part)) in [
            (4, "not a JSON object"),
            (5, "`generated` is null"),
            (6, "`generated` is missing (fields: expected)"),
            (7, "not JSON"),
            (8, "already in line 1"),
            (9, "UTF-8"),
            (10, "`expected` is no text"),
            (11, "neither text nor number"),
        ]
        .into_iter()
        .enumerate()
        {
            assert!(said[i].0 == line && said[i].1.contains(part), "{line} {part}: {said:?}");
        }
        assert_eq!(said.len(), 8);
    }

    #[test]
    fn answers_of_an_earlier_run_stay_and_errors_and_torn_lines_go() {
        let failed = Line { generated: None, error: Some("no image".into()), ..line("b") };
        let whole: String = [line("a"), failed, line("c"), line("gone")].iter().map(to_json).collect();
        let rows = ["a", "b", "c"].map(row);
        let lines = kept(&format!("{whole}{{\"id\":\"b\",\"exp"), "m", &rows).unwrap();
        assert_eq!(lines, [line("a"), line("c"), line("gone")]);
        assert!(kept(&whole, "other", &rows).unwrap_err().contains("is by m, this run's model is other"));
        assert!(kept("notes\n", "m", &rows).unwrap_err().contains("line 1"));
        let changed = to_json(&Line { expected: "old".into(), ..line("a") });
        assert!(kept(&changed, "m", &rows).unwrap_err().contains("another text for a"));
    }

    #[test]
    fn a_file_is_not_written_over_and_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rows) = (folder.path().join("base.jsonl"), ["a", "b"].map(row));
        let mut file = AnswerFile::open(&path, false, "m", &rows).unwrap();
        file.push(line("a")).unwrap();
        let error = AnswerFile::open(&path, false, "m", &rows).err().unwrap().to_string();
        assert!(error.contains("--resume"), "{error}");
        let mut file = AnswerFile::open(&path, true, "m", &rows).unwrap();
        assert!(file.has("a") && !file.has("b"));
        file.push(line("b")).unwrap();
        assert_eq!(file.into_lines(), [line("a"), line("b")]);
        // The file is one that `score` reads.
        assert_eq!(Pairs::read(&path, &FieldNames::default()).unwrap().good.len(), 2);
    }
}
