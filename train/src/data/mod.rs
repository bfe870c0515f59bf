//! Rows of JSON Lines files, and what becomes of them on the way to a batch.
//!
//! A bad row never stops a run and never vanishes: it is listed with its line and the reason, and counted.

pub mod augment;
pub mod batch;
pub mod sample;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use model::prompt::report::Report;
use serde_json::{Map, Value};

use crate::config::DataSection;
use crate::error::{Error, Result};

/// To which part of the data a row belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// Trained on.
    Train,
    /// Watched during training.
    Validation,
    /// Kept for the end.
    Test,
}

/// One row: an image, the clinical case, and the report that is expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Unique among all files.
    pub id: String,
    /// The patient or article, where the row says so; never in two parts.
    pub patient: Option<String>,
    /// Its part.
    pub split: Split,
    /// The image file.
    pub image: PathBuf,
    /// What was known before; may be empty.
    pub clinical_case: String,
    /// The expected answer.
    pub report: Report,
    /// File and line, from 1.
    pub place: Place,
}

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// From 1.
    pub line: usize,
}

/// A row that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// File and line.
    pub place: Place,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.place.file.display(), self.place.line, self.reason)
    }
}

/// All rows of a run.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// Good ones, in the order of the files.
    pub cases: Vec<Case>,
    /// Bad ones, in the same order.
    pub bad: Vec<BadRow>,
    /// Rows that are in no list of ids.
    pub unlisted: usize,
}

impl Cases {
    /// Reads all files of the section.
    ///
    /// # Errors
    /// If a file cannot be read, no row is good, or a patient is in two parts.
    pub fn read(section: &DataSection) -> Result<Self> {
        let lists = section.lists.as_ref().map(|lists| {
            let mut parts = HashMap::new();
            let files = [
                (Some(&lists.train), Split::Train),
                (lists.validation.as_ref(), Split::Validation),
                (lists.test.as_ref(), Split::Test),
            ];
            for (file, split) in files {
                let Some(file) = file else { continue };
                let path = section.root.join(file);
                let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
                for id in text.lines().map(str::trim).filter(|id| !id.is_empty()) {
                    if parts.insert(id.to_owned(), split).is_some_and(|other| other != split) {
                        return Err(Error::Data(format!("{}: `{id}` is in two lists", path.display())));
                    }
                }
            }
            Ok(parts)
        });
        let lists = lists.transpose()?;
        let mut all = Self::default();
        let mut seen: HashMap<String, Place> = HashMap::new();
        for file in &section.files {
            let path = section.root.join(file);
            let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, "read", e))?;
            for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                let place = Place { file: path.clone(), line: i + 1 };
                match row(line, &place, section, lists.as_ref()) {
                    Ok(None) => all.unlisted += 1,
                    Ok(Some(case)) => {
                        if let Some(first) = seen.get(&case.id) {
                            let at = format!("{}:{}", first.file.display(), first.line);
                            let reason = format!("the id `{}` is already at {at}", case.id);
                            all.bad.push(BadRow { place, reason });
                        } else {
                            seen.insert(case.id.clone(), place);
                            all.cases.push(case);
                        }
                    }
                    Err(reason) => all.bad.push(BadRow { place, reason }),
                }
            }
        }
        if all.cases.is_empty() {
            return Err(all_bad(&all.bad));
        }
        all.refuse_leaks()?;
        Ok(all)
    }

    /// Rows of one part.
    pub fn of(&self, split: Split) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |case| case.split == split)
    }

    fn refuse_leaks(&self) -> Result<()> {
        let mut part: HashMap<&str, &Case> = HashMap::new();
        let mut leaks = Vec::new();
        let mut told = HashSet::new();
        for case in &self.cases {
            let Some(patient) = &case.patient else { continue };
            let first = part.entry(patient).or_insert(case);
            if first.split != case.split && told.insert(patient) {
                leaks.push(format!("{patient} ({:?} and {:?})", first.split, case.split));
            }
        }
        if leaks.is_empty() {
            return Ok(());
        }
        let more = leaks.len().saturating_sub(5);
        leaks.truncate(5);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        Err(Error::Data(format!(
            "patients in more than one part: {}{more}; test scores would be too good: split by patient",
            leaks.join(", ")
        )))
    }
}

/// What to say when nothing is left to train on.
pub(crate) fn all_bad(bad: &[BadRow]) -> Error {
    let first: Vec<String> = bad.iter().take(5).map(ToString::to_string).collect();
    Error::Data(match bad.len() {
        0 => "the data files have no rows for this part".into(),
        n => format!("no row can be used: {n} bad ones, the first of them\n  {}", first.join("\n  ")),
    })
}

/// A row, `None` if it is in no list, or why it is bad.
fn row(
    line: &str,
    place: &Place,
    section: &DataSection,
    lists: Option<&HashMap<String, Split>>,
) -> Result<Option<Case>, String> {
    let value: Value = serde_json::from_str(line).map_err(|e| format!("not JSON: {e}"))?;
    let Value::Object(fields) = value else { return Err("not a JSON object".into()) };
    let id = required(&fields, "id")?;
    let split = match lists {
        Some(lists) => match lists.get(&id) {
            Some(&split) => split,
            None => return Ok(None),
        },
        None => match required(&fields, &section.split_field)?.as_str() {
            "train" => Split::Train,
            "val" | "validation" => Split::Validation,
            "test" => Split::Test,
            other => {
                let field = &section.split_field;
                return Err(format!("`{field}` is `{other}`, expected train, val or test"));
            }
        },
    };
    let image = required(&fields, "image_path")?;
    let folder = place.file.parent().unwrap_or(Path::new("."));
    let image = folder.join(image);
    if !image.is_file() {
        return Err(format!("image {} is not there", image.display()));
    }
    let report = Report {
        labels: labels(&fields)?,
        gender: text(&fields, "gender")?,
        age: match fields.get("age") {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_f64() {
                Some(age) if (0.0..=150.0).contains(&age) => Some(age as f32),
                _ => return Err(format!("`age` is {value}, expected years")),
            },
        },
        caption: Some(required(&fields, "image_caption")?),
    };
    let clinical_case = text(&fields, "clinical_case")?.unwrap_or_default();
    let patient = text(&fields, "patient_id")?;
    Ok(Some(Case { id, patient, split, image, clinical_case, report, place: place.clone() }))
}

/// A text field; `None` if it is missing, null or empty.
fn text(fields: &Map<String, Value>, key: &str) -> Result<Option<String>, String> {
    match fields.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(other) => Err(format!("`{key}` is {other}, expected a text")),
    }
}

fn required(fields: &Map<String, Value>, key: &str) -> Result<String, String> {
    text(fields, key)?.ok_or_else(|| format!("`{key}` is missing or empty"))
}

fn labels(fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    let wrong = || "`image_labels` is not a list of texts".to_owned();
    match fields.get("image_labels") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(folder: &Path, lines: &[&str]) -> DataSection {
        std::fs::write(folder.join("rows.jsonl"), lines.join("\n")).unwrap();
        std::fs::write(folder.join("a.png"), b"any").unwrap();
        DataSection {
            root: folder.to_owned(),
            files: vec!["rows.jsonl".into()],
            split_field: "split".into(),
            lists: None,
            case_limit: 500,
            case_dropout: 0.0,
        }
    }

    #[test]
    fn bad_rows_are_listed_with_line_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let good = r#"{"id":"g","split":"train","image_path":"a.png","image_caption":"clear","age":null,"gender":"Male"}"#;
        let section = section(
            folder.path(),
            &[
                good,
                "",
                "{",
                r#"{"id":"b","split":"train","image_path":"no.png","image_caption":"clear"}"#,
                r#"{"id":"c","split":"train","image_path":"a.png","image_caption":" "}"#,
                r#"{"id":"d","split":"dev","image_path":"a.png","image_caption":"clear"}"#,
                r#"{"id":"e","split":"train","image_path":"a.png","image_caption":"clear","age":"old"}"#,
                good,
            ],
        );
        let all = Cases::read(&section).unwrap();
        assert_eq!(all.cases.len(), 1);
        assert_eq!(all.cases[0].report.age, None);
        let said: Vec<_> = all.bad.iter().map(|bad| (bad.place.line, bad.reason.as_str())).collect();
        for (line, part) in [
            (3, "not JSON"),
            (4, "no.png is not there"),
            (5, "`image_caption` is missing or empty"),
            (6, "`dev`"),
            (7, "`age`"),
            (8, "already at"),
        ] {
            assert!(said.iter().any(|(l, r)| *l == line && r.contains(part)), "{line} {part}: {said:?}");
        }
        assert_eq!(said.len(), 6);
    }

    #[test]
    fn nothing_but_bad_rows_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let said = Cases::read(&section(folder.path(), &["{}", "[]"])).unwrap_err().to_string();
        assert!(said.contains("2 bad ones") && said.contains("rows.jsonl:1"), "{said}");
    }

    #[test]
    fn a_patient_in_two_parts_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let row = |id: &str, split: &str| {
            format!(
                r#"{{"id":"{id}","patient_id":"p1","split":"{split}","image_path":"a.png","image_caption":"clear"}}"#
            )
        };
        let (a, b) = (row("a", "train"), row("b", "test"));
        let said = Cases::read(&section(folder.path(), &[&a, &b])).unwrap_err().to_string();
        assert!(said.contains("p1 (Train and Test)"), "{said}");
    }

    #[test]
    fn lists_of_ids_choose_rows() {
        let folder = tempfile::tempdir().unwrap();
        let row = |id: &str| format!(r#"{{"id":"{id}","image_path":"a.png","image_caption":"clear"}}"#);
        let rows = ["a", "b", "c"].map(row);
        let mut section = section(folder.path(), &rows.each_ref().map(String::as_str));
        std::fs::write(folder.path().join("train.txt"), "a\n").unwrap();
        std::fs::write(folder.path().join("test.txt"), "c\n").unwrap();
        section.lists = Some(crate::config::IdLists {
            train: "train.txt".into(),
            validation: None,
            test: Some("test.txt".into()),
        });
        let all = Cases::read(&section).unwrap();
        assert_eq!((all.of(Split::Train).count(), all.of(Split::Test).count(), all.unlisted), (1, 1, 1));
        std::fs::write(folder.path().join("test.txt"), "a\n").unwrap();
        assert!(Cases::read(&section).unwrap_err().to_string().contains("two lists"));
    }
}
