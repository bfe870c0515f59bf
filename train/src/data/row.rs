//! One line to one row.

use std::path::{Path, PathBuf};

use model::prompt::report::{Field, Report};
use serde_json::{Map, Value};

use super::split::Parts;
use super::{Case, Place, Split};
use crate::config::{DataSection, EXPECTED_OUTPUT, group_by};

type Fields = Map<String, Value>;

/// A row, `None` if it is in no list, or why it is bad.
pub(super) fn parse(
    line: &[u8],
    place: &Place,
    section: &DataSection,
    parts: &Parts,
) -> Result<Option<Case>, String> {
    let line = str::from_utf8(line).map_err(|e| format!("not UTF-8 text (byte {})", e.valid_up_to() + 1))?;
    let value: Value = serde_json::from_str(line).map_err(|e| format!("not JSON: {e}"))?;
    let Value::Object(fields) = value else { return Err("not a JSON object".into()) };
    let id = text(&fields, "id")?.unwrap_or_else(|| {
        let file = place.file.strip_prefix(&section.root).unwrap_or(&place.file);
        format!("{}:{}", file.display(), place.line)
    });
    let split = match parts {
        Parts::Drawn => Split::Train,
        Parts::Listed(lists) => match lists.get(&id) {
            Some(&split) => split,
            None => return Ok(None),
        },
        Parts::Field(field) => match required(&fields, field)?.as_str() {
            "train" => Split::Train,
            "val" | "validation" => Split::Validation,
            "test" => Split::Test,
            other => return Err(format!("`{field}` is `{other}`, expected train, val or test")),
        },
    };
    let group = group(&fields, &section.group_by)?;
    let image = if section.images { image(&fields, place)? } else { None };
    let (answer, report) = answer(&fields, &section.answer_field)?;
    let clinical_case = text(&fields, &section.case_field)?.unwrap_or_default();
    Ok(Some(Case { id, group, split, image, clinical_case, answer, report, place: place.clone() }))
}

/// What the row says for the first of `names` that it has.
fn group(fields: &Fields, names: &[String]) -> Result<Option<String>, String> {
    for name in names {
        if let Some(group) = text(fields, name)? {
            return Ok(Some(group));
        }
    }
    // A name that was chosen and is not there would switch the check for leaks off without a word.
    if names.is_empty() || names == group_by() {
        return Ok(None);
    }
    Err(format!("`{}` is missing or empty (data.group_by)", names.join("`, `")))
}

fn image(fields: &Fields, place: &Place) -> Result<Option<PathBuf>, String> {
    let path = match fields.get("image_path") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(path)) if path.trim().is_empty() => {
            return Err("`image_path` is empty; leave it out in a row of text alone".into());
        }
        Some(Value::String(path)) => path,
        Some(other) => return Err(format!("`image_path` is {other}, expected a text")),
    };
    let path = place.file.parent().unwrap_or(Path::new(".")).join(path);
    match path.metadata() {
        Ok(meta) if meta.is_dir() => Err(format!("image {} is a folder", path.display())),
        Ok(meta) if meta.is_file() => Ok(Some(path)),
        Ok(_) => Err(format!("image {} is no ordinary file", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(format!("image {} is not there", path.display()))
        }
        Err(e) => Err(format!("image {} cannot be read: {e}", path.display())),
    }
}

/// The answer as it stands in `field`, or written from the fields of a report.
fn answer(fields: &Fields, field: &str) -> Result<(String, Option<Report>), String> {
    if field == EXPECTED_OUTPUT && matches!(fields.get(field), None | Some(Value::Null)) {
        let report = from_fields(fields)?;
        return Ok((report.format(), Some(report)));
    }
    let answer = required(fields, field)?;
    let parsed = Report::parse(&answer);
    if parsed.missing.len() == Field::ALL.len() {
        return Ok((answer, None));
    }
    if let Some((field, value)) = parsed.unreadable.first() {
        return Err(format!("the report's {} is `{value}`", field.name()));
    }
    if parsed.missing.contains(&Field::Caption) {
        return Err("the report has no Image Caption".into());
    }
    Ok((answer, Some(parsed.report)))
}

fn from_fields(fields: &Fields) -> Result<Report, String> {
    Ok(Report {
        labels: labels(fields)?,
        gender: text(fields, "gender")?,
        age: match fields.get("age") {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_f64() {
                Some(age) if (0.0..=150.0).contains(&age) => Some(age as f32),
                _ => return Err(format!("`age` is {}, expected years", short(value))),
            },
        },
        caption: Some(required(fields, "image_caption")?),
    })
}

/// A text, number or list of such as text; `None` if it is missing, null or empty.
fn text(fields: &Fields, key: &str) -> Result<Option<String>, String> {
    let one = |value: &Value| match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let text = match fields.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(items)) => items.iter().map(one).collect::<Option<Vec<_>>>().map(|t| t.join(", ")),
        Some(value) => one(value),
    };
    match text {
        Some(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        None => Err(format!("`{key}` is {}, expected a text", short(&fields[key]))),
    }
}

fn required(fields: &Fields, key: &str) -> Result<String, String> {
    text(fields, key)?.ok_or_else(|| format!("`{key}` is missing or empty"))
}

fn labels(fields: &Fields) -> Result<Vec<String>, String> {
    let wrong = || "`image_labels` is not a list of texts".to_owned();
    match fields.get("image_labels") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// The beginning of a value, for a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
