//! Rows of JSON Lines files, and what becomes of them on the way to a batch.
//!
//! A bad row never stops a run and never vanishes: it is listed with its line and the reason, and counted.

pub mod augment;
pub mod batch;
mod check;
pub mod features;
pub mod images;
pub mod multicare;
pub mod parallel;
mod row;
pub mod sample;
pub mod split;
pub mod store;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use model::prompt::report::Report;

use crate::config::DataSection;
use crate::error::{Error, Result};
pub use check::{Check, Part, check};
pub use split::Split;

/// One row: an image, the clinical case, and the answer that is expected.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Unique among all files: the row's `id`, else file and line.
    pub id: String,
    /// The patient or article, where the row says so; never in two parts.
    pub group: Option<String>,
    /// Its part.
    pub split: Split,
    /// The image file; `None` for a row of text alone.
    pub image: Option<PathBuf>,
    /// What was known before; may be empty.
    pub clinical_case: String,
    /// The expected answer.
    pub answer: String,
    /// The same as a structured report, where it is one.
    pub report: Option<Report>,
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

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
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
        write!(f, "{}: {}", self.place, self.reason)
    }
}

/// All rows of a run.
#[derive(Clone, Debug, Default)]
pub struct Cases {
    /// Good ones, in the order of the files.
    pub cases: Vec<Case>,
    /// Bad ones, by file and line.
    pub bad: Vec<BadRow>,
    /// Rows that are in no list of ids.
    pub unlisted: usize,
}

impl Cases {
    /// Reads all files of the section.
    ///
    /// # Errors
    /// If a file cannot be read, no row is good, or a patient or article is in two parts.
    pub fn read(section: &DataSection) -> Result<Self> {
        let parts = split::Parts::new(section)?;
        let mut all = Self::default();
        let mut seen: HashMap<String, Place> = HashMap::new();
        for file in &section.files {
            let path = section.root.join(file);
            let failed = |e| Error::io(&path, "read", e);
            let mut reader = BufReader::new(std::fs::File::open(&path).map_err(failed)?);
            let mut line = Vec::new();
            for number in 1.. {
                line.clear();
                if reader.read_until(b'\n', &mut line).map_err(failed)? == 0 {
                    break;
                }
                if line.trim_ascii().is_empty() {
                    continue;
                }
                let place = Place { file: path.clone(), line: number };
                let bad = |reason| BadRow { place: place.clone(), reason };
                match row::parse(&line, &place, section, &parts) {
                    Ok(None) => all.unlisted += 1,
                    Ok(Some(case)) => {
                        if let Some(first) = seen.get(&case.id) {
                            all.bad.push(bad(format!("the id `{}` is already at {first}", case.id)));
                        } else {
                            seen.insert(case.id.clone(), place);
                            all.cases.push(case);
                        }
                    }
                    Err(reason) => all.bad.push(bad(reason)),
                }
            }
        }
        if all.cases.is_empty() {
            return Err(all_bad(&all.bad));
        }
        if let Some(shares) = &section.split {
            split::draw(&mut all.cases, shares);
        }
        split::refuse_shared_groups(&all.cases)?;
        Ok(all)
    }

    /// Rows of one part.
    pub fn of(&self, split: Split) -> impl Iterator<Item = &Case> {
        self.cases.iter().filter(move |case| case.split == split)
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    pub(super) fn section(folder: &Path, lines: &[&str]) -> DataSection {
        std::fs::write(folder.join("rows.jsonl"), lines.join("\n")).unwrap();
        std::fs::write(folder.join("a.png"), b"any").unwrap();
        DataSection::new(folder, vec!["rows.jsonl".into()])
    }

    #[test]
    fn bad_rows_are_listed_with_line_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let good = r#"{"id":"g","split":"train","image_path":"a.png","image_caption":"clear","age":null,"gender":"Male"}"#;
        let mut section = section(
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
                r#"{"id":"f","split":"train","image_path":".","image_caption":"clear"}"#,
                r#"{"id":"h","split":"train","image_path":"","image_caption":"clear"}"#,
                r#"{"id":"i","split":"train","image_path":7,"image_caption":"clear"}"#,
                r#"{"id":"j","split":"train","expected_output":"Image Labels: a | Gender: Male | Age: 3 | Image Caption: "}"#,
                r#"{"id":"k","image_caption":"clear"}"#,
                r#"{"id":{},"split":"train","image_caption":"clear"}"#,
            ],
        );
        let mut bytes = std::fs::read(folder.path().join("rows.jsonl")).unwrap();
        bytes.extend(b"\n{\"id\":\"u\",\"image_caption\":\"\xff\"}\r\n\r\n");
        std::fs::write(folder.path().join("rows.jsonl"), bytes).unwrap();
        let all = Cases::read(&section).unwrap();
        assert_eq!(all.cases.len(), 1);
        assert_eq!(all.cases[0].report.as_ref().unwrap().age, None);
        let said: Vec<_> = all.bad.iter().map(|bad| (bad.place.line, bad.reason.as_str())).collect();
        let wanted = [
            (3, "not JSON"),
            (4, "no.png is not there"),
            (5, "`image_caption` is missing or empty"),
            (6, "`dev`"),
            (7, "`age`"),
            (8, "already at"),
            (9, "is a folder"),
            (10, "`image_path` is empty"),
            (11, "`image_path` is 7"),
            (12, "no Image Caption"),
            (13, "`split` is missing"),
            (14, "`id` is {}"),
            (15, "not UTF-8"),
        ];
        for (line, part) in wanted {
            assert!(said.iter().any(|(l, r)| *l == line && r.contains(part)), "{line} {part}: {said:?}");
        }
        assert_eq!(said.len(), wanted.len());
        section.files = vec!["missing.jsonl".into()];
        assert!(Cases::read(&section).unwrap_err().to_string().contains("missing.jsonl"));
    }

    #[test]
    fn nothing_but_bad_rows_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let said = Cases::read(&section(folder.path(), &["{}", "[]"])).unwrap_err().to_string();
        assert!(said.contains("2 bad ones") && said.contains("rows.jsonl:1"), "{said}");
    }

    #[test]
    fn rows_of_the_papers_fields_and_of_text_alone() {
        let folder = tempfile::tempdir().unwrap();
        let line = "Image Labels: thorax, x_ray | Gender: Female | Age: 29.0 | Image Caption: Pre-op film.";
        let paper = format!(
            r#"{{"clinical_case":"A case.","image_path":"a.png","expected_output":"{line}","split":"train"}}"#
        );
        let mut section = section(folder.path(), &[&paper]);
        let all = Cases::read(&section).unwrap();
        let case = &all.cases[0];
        assert_eq!((case.id.as_str(), case.answer.as_str()), ("rows.jsonl:1", line));
        assert_eq!(case.report.as_ref().unwrap().age, Some(29.0));
        assert!(case.image.as_ref().unwrap().ends_with("a.png"));

        let text = r#"{"id":7,"pmcid":"PMC1","keywords":["ct","thorax",3],"caption":"CT | of the thorax","split":"val"}"#;
        std::fs::write(folder.path().join("rows.jsonl"), format!("{paper}\n{text}")).unwrap();
        section.case_field = "keywords".into();
        section.answer_field = "caption".into();
        section.instruction = "Write a caption.".into();
        let all = Cases::read(&section).unwrap();
        assert_eq!(all.bad.len(), 1, "a row without the chosen answer is bad");
        assert!(all.bad[0].reason.contains("`caption` is missing"));
        let case = &all.cases[0];
        assert_eq!(
            (case.id.as_str(), case.group.as_deref(), case.split),
            ("7", Some("PMC1"), Split::Validation)
        );
        assert_eq!((case.image.as_ref(), case.report.as_ref()), (None, None));
        assert_eq!(case.answer, "CT | of the thorax");
        let question = section.question(Some(&case.clinical_case));
        assert_eq!(question, "Write a caption.\nClinical case: ct, thorax, 3");
    }

    #[test]
    fn the_limit_cuts_the_case_or_the_question() {
        use crate::config::LimitOver;
        let long = "é".repeat(100_000);
        let mut section = DataSection::new("", Vec::new());
        let count = |section: &DataSection| section.question(Some(&long)).chars().count();
        let rest = section.question(Some("")).chars().count() + "\nClinical case: ".len();
        assert_eq!(count(&section), rest + 500);
        section.limit_over = LimitOver::Question;
        assert_eq!(count(&section), 500);
        section.limit_over = LimitOver::Nothing;
        assert_eq!(count(&section), rest + 100_000);
    }
}
