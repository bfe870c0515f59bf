//! The structured report of a chest X-ray: how it is asked for, written and read (spec smolvlm §8).

use serde::Serialize;

use super::Message;

/// Names the four fields in the order and spelling of the answer.
pub const INSTRUCTION: &str = "Write a structured report of this chest X-ray on one line, with these four \
fields: Image Labels (comma-separated) | Gender | Age (years) | Image Caption (findings).";

/// The article limits the input to 500 characters.
pub const CASE_LIMIT: usize = 500;

/// What of the question is cut, in Unicode scalar values. The article leaves open which it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nothing.
    None,
    /// The clinical case alone.
    Case(usize),
    /// Instruction and case together.
    Whole(usize),
}

impl Default for Limit {
    fn default() -> Self {
        Self::Case(CASE_LIMIT)
    }
}

/// The text of the question: the instruction and, where there is one, the clinical case.
pub fn question(instruction: &str, case: Option<&str>, limit: Limit) -> String {
    let case = case.map(str::trim).filter(|case| !case.is_empty());
    let text = match (case, limit) {
        (None, _) => instruction.to_owned(),
        (Some(case), Limit::Case(n)) => format!("{instruction}\nClinical case: {}", first(case, n)),
        (Some(case), _) => format!("{instruction}\nClinical case: {case}"),
    };
    match limit {
        Limit::Whole(n) => first(&text, n).to_owned(),
        _ => text,
    }
}

/// One user turn: image, then question.
pub fn message(case: Option<&str>, limit: Limit) -> Message {
    Message::user(1, question(INSTRUCTION, case, limit))
}

/// The first `n` scalar values of `text`.
fn first(text: &str, n: usize) -> &str {
    text.char_indices().nth(n).map_or(text, |(end, _)| &text[..end])
}

/// A field of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Field {
    /// `Image Labels`.
    Labels,
    /// `Gender`.
    Gender,
    /// `Age`.
    Age,
    /// `Image Caption`.
    Caption,
}

impl Field {
    /// All four, in the order of the answer.
    pub const ALL: [Self; 4] = [Self::Labels, Self::Gender, Self::Age, Self::Caption];

    /// Its name in the answer.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Labels => "Image Labels",
            Self::Gender => "Gender",
            Self::Age => "Age",
            Self::Caption => "Image Caption",
        }
    }
}

/// A report. What is not known is `None` or empty, and written `unknown`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Labels, in order.
    pub labels: Vec<String>,
    /// `Female`, `Male`, or another word of the source.
    pub gender: Option<String>,
    /// Years.
    pub age: Option<f32>,
    /// What the image shows.
    pub caption: Option<String>,
}

/// A report read from a model's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Parsed {
    /// What could be read.
    pub report: Report,
    /// Fields whose name does not occur, or that nothing follows.
    pub missing: Vec<Field>,
    /// Fields whose value makes no sense (an age without a number), with the value.
    pub unreadable: Vec<(Field, String)>,
}

const UNKNOWN: &str = "unknown";

impl Report {
    /// `Image Labels: a, b | Gender: Female | Age: 29.0 | Image Caption: …`
    pub fn format(&self) -> String {
        let labels = if self.labels.is_empty() { UNKNOWN.to_owned() } else { self.labels.join(", ") };
        let gender = self.gender.as_deref().unwrap_or(UNKNOWN);
        let age = self.age.map_or_else(|| UNKNOWN.to_owned(), |age| format!("{age:.1}"));
        let caption = self.caption.as_deref().unwrap_or(UNKNOWN);
        format!("Image Labels: {labels} | Gender: {gender} | Age: {age} | Image Caption: {caption}")
    }

    /// Reads an answer. Fields may come in any order and any case, may be missing, and may be separated
    /// by `|`, by line ends or by two or more spaces (as in the article's figure). A field counts once,
    /// where it first occurs. A caption may contain `|`; what follows a `|` in another field is not part of it.
    pub fn parse(answer: &str) -> Parsed {
        let starts = fields(answer);
        let mut parsed = Parsed::default();
        for field in Field::ALL {
            let Some(at) = starts.iter().position(|start| start.field == field) else {
                parsed.missing.push(field);
                continue;
            };
            let end = starts.get(at + 1).map_or(answer.len(), |next| next.name);
            let value = answer[starts[at].value..end].trim_matches(|c: char| c.is_whitespace() || c == '|');
            let value = if field == Field::Caption {
                value
            } else {
                value.split(['|', '\n']).next().unwrap_or_default().trim()
            };
            if value.is_empty() {
                parsed.missing.push(field);
            } else if !is_unknown(value) {
                parsed.set(field, value);
            }
        }
        parsed
    }
}

impl Parsed {
    /// Whether all four fields were there and could be read.
    pub fn complete(&self) -> bool {
        self.missing.is_empty() && self.unreadable.is_empty()
    }

    fn set(&mut self, field: Field, value: &str) {
        match field {
            Field::Labels => {
                let labels = value.split(',').map(str::trim).filter(|label| !label.is_empty());
                self.report.labels = labels.map(str::to_owned).collect();
                if self.report.labels.is_empty() {
                    self.unreadable.push((field, value.into()));
                }
            }
            Field::Gender => self.report.gender = Some(value.into()),
            Field::Caption => self.report.caption = Some(value.into()),
            Field::Age => match years(value) {
                Some(age) => self.report.age = Some(age),
                None => self.unreadable.push((field, value.into())),
            },
        }
    }
}

/// `nan` is what an empty cell of a table of numbers prints as.
fn is_unknown(value: &str) -> bool {
    let bare = value.trim_end_matches('.');
    ["unknown", "nan", "none", "n/a", "null"].iter().any(|word| bare.eq_ignore_ascii_case(word))
}

/// The number at the start of `29.0`, `29`, `29 years`.
fn years(value: &str) -> Option<f32> {
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let age: f32 = value[..end].trim_end_matches('.').parse().ok()?;
    (0.0..=150.0).contains(&age).then_some(age)
}

/// Where a field begins: its name, and what follows the colon.
struct Start {
    field: Field,
    name: usize,
    value: usize,
}

/// First occurrences of the fields' names, in order of place.
fn fields(text: &str) -> Vec<Start> {
    let mut starts: Vec<Start> = Vec::new();
    for (name, _) in text.char_indices() {
        for field in Field::ALL {
            let Some(rest) = strip_name(&text[name..], field.name()) else { continue };
            if after_separator(&text[..name]) && starts.iter().all(|start| start.field != field) {
                starts.push(Start { field, name, value: text.len() - rest.len() });
            }
        }
    }
    starts
}

/// Whether a field may begin after `before`: at the start, after `|`, a line end, or two spaces.
fn after_separator(before: &str) -> bool {
    let trimmed = before.trim_end();
    let gap = &before[trimmed.len()..];
    trimmed.is_empty() || trimmed.ends_with('|') || gap.contains(['\n', '\t']) || gap.chars().count() >= 2
}

/// What follows `name` and a colon at the start of `text`.
fn strip_name<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let head = text.get(..name.len())?;
    if !head.eq_ignore_ascii_case(name) {
        return None;
    }
    text[name.len()..].trim_start_matches(' ').strip_prefix(':')
}
