//! MultiCaRe (Nievas Offidani and Delrieux, Data in Brief 52:110008; spec smolvlm §8) to rows of this project: the
//! chest X-rays among its images of all kinds, with case text, age, sex, labels and caption.
//!
//! Both releases are read: version 1 has `generic_label`, a Python list written as text; version 2 has
//! `gt_labels_for_semisupervised_classification` or `ml_labels_for_supervised_classification`, and columns such as
//! `image_subtype` and `radiology_region`, which count as labels too.

mod labels;
mod table;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use engine::weights::{WeightError, replace_file};
use model::prompt::report::Report;
use serde_json::json;

use super::split::{Split, assign};
use crate::config::SplitShares;
use crate::error::{Error, Result};
pub use labels::parse as parse_labels;
use table::Table;

/// What is taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    /// Each group must be met by a label: one of its words, in any case.
    pub all_of: Vec<Vec<String>>,
    /// No label may be one of these.
    pub none_of: Vec<String>,
    /// If not empty, the caption must have one of these words or phrases, in any case.
    pub keywords: Vec<String>,
    /// Rows whose image file is not there are dropped.
    pub images_must_exist: bool,
}

impl Default for Filter {
    /// X-rays of the chest.
    fn default() -> Self {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            all_of: vec![
                words(&["x_ray", "xray", "x-ray", "radiography"]),
                words(&["thorax", "chest", "lung"]),
            ],
            none_of: words(&["ct", "mri", "ultrasound", "pet", "scintigraphy", "tomography"]),
            keywords: Vec::new(),
            images_must_exist: true,
        }
    }
}

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversion {
    /// Images in the table.
    pub images: usize,
    /// Rows written, by part.
    pub kept: BTreeMap<Split, usize>,
    /// Articles of the rows written.
    pub articles: usize,
    /// Rows written without an age.
    pub without_age: usize,
    /// Rows written without a sex.
    pub without_gender: usize,
    /// Rows left out, by reason.
    pub dropped: BTreeMap<&'static str, usize>,
}

impl Conversion {
    /// Rows written in all.
    pub fn kept(&self) -> usize {
        self.kept.values().sum()
    }
}

const CASES: [&str; 2] = ["cases.csv", "cases.parquet"];
const IMAGES: [&str; 1] = ["captions_and_labels.csv"];

/// Columns whose content counts as labels, in this order.
const LABEL_COLUMNS: [&str; 8] = [
    "gt_labels_for_semisupervised_classification",
    "ml_labels_for_supervised_classification",
    "generic_label",
    "image_type",
    "image_subtype",
    "radiology_region",
    "radiology_region_granular",
    "radiology_view",
];

/// Why an image is left out.
mod why {
    pub(super) const DAMAGED: &str = "damaged line in the table";
    pub(super) const LABELS: &str = "labels do not pass the filter";
    pub(super) const KEYWORDS: &str = "caption has none of the keywords";
    pub(super) const CAPTION: &str = "no caption";
    pub(super) const CASE: &str = "its case is not in the table of cases";
    pub(super) const TEXT: &str = "its case has no text";
    pub(super) const FILE: &str = "image file is not there";
    pub(super) const TWICE: &str = "file is in the table twice";
}

struct Patient {
    pmcid: String,
    text: String,
    age: Option<f32>,
    gender: Option<String>,
}

struct Row {
    id: String,
    case: String,
    image: PathBuf,
    labels: Vec<String>,
    caption: String,
    license: String,
}

/// Reads the MultiCaRe folder `folder` and writes the rows that pass `filter` to `out`, parts drawn by article.
///
/// # Errors
/// If a table is missing, has no such columns, or nothing is left.
pub fn convert(folder: &Path, out: &Path, filter: &Filter, shares: &SplitShares) -> Result<Conversion> {
    let patients = read_patients(&table::find(folder, &CASES)?)?;
    let images = table::find(folder, &IMAGES)?;
    let files = Files::below(folder)?;
    let mut conversion = Conversion::default();
    let rows = read_images(&images, &patients, &files, filter, &mut conversion)?;
    if rows.is_empty() {
        let reasons: Vec<String> =
            conversion.dropped.iter().map(|(reason, n)| format!("{reason}: {n}")).collect();
        return Err(Error::Data(format!("{}: no row is left ({})", images.display(), reasons.join("; "))));
    }
    let parts = assign(rows.iter().map(|row| patients[&row.case].pmcid.as_str()), shares);
    conversion.articles = parts.len();
    let folder = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let folder = folder.parent().unwrap_or(Path::new(".")).to_owned();
    let mut lines = String::new();
    for row in &rows {
        let patient = &patients[&row.case];
        let split = parts[patient.pmcid.as_str()];
        *conversion.kept.entry(split).or_default() += 1;
        conversion.without_age += usize::from(patient.age.is_none());
        conversion.without_gender += usize::from(patient.gender.is_none());
        lines += &line(row, patient, split, &folder);
        lines.push('\n');
    }
    replace_file(out, |file| {
        file.write_all(lines.as_bytes()).map_err(|source| WeightError::Io {
            path: out.to_owned(),
            action: "write",
            source,
        })
    })?;
    Ok(conversion)
}

fn line(row: &Row, patient: &Patient, split: Split, folder: &Path) -> String {
    let report = Report {
        labels: row.labels.clone(),
        gender: patient.gender.clone(),
        age: patient.age,
        caption: Some(row.caption.clone()),
    };
    let image = std::path::absolute(&row.image).unwrap_or_else(|_| row.image.clone());
    // Beside or below the file: a path that moves with it.
    let image = image.strip_prefix(folder).unwrap_or(&image);
    json!({
        "id": row.id,
        "pmcid": patient.pmcid,
        "case_id": row.case,
        "split": split.name(),
        "image_path": image,
        "clinical_case": patient.text,
        "image_labels": report.labels,
        "gender": report.gender,
        "age": report.age,
        "image_caption": report.caption,
        "expected_output": report.format(),
        "license": row.license,
    })
    .to_string()
}

fn read_patients(path: &Path) -> Result<HashMap<String, Patient>> {
    let mut table = Table::open(path)?;
    let id = table.column(&["case_id"])?;
    let text = table.column(&["case_text"])?;
    let (pmcid, age, gender) = (table.maybe("pmcid"), table.maybe("age"), table.maybe("gender"));
    let mut patients = HashMap::new();
    table.each(|row| {
        // A damaged line has no case; its images will say so.
        let Some(row) = row else { return };
        let id = row.get(id).to_owned();
        let article = match pmcid.map(|column| row.get(column)).filter(|p| !p.is_empty()) {
            Some(pmcid) => pmcid.to_owned(),
            None => article_of(&id).to_owned(),
        };
        let patient = Patient {
            pmcid: article,
            text: row.get(text).to_owned(),
            age: age.and_then(|column| years(row.get(column))),
            gender: gender.and_then(|column| word(row.get(column))),
        };
        patients.insert(id, patient);
    })?;
    Ok(patients)
}

fn read_images(
    path: &Path,
    patients: &HashMap<String, Patient>,
    files: &Files,
    filter: &Filter,
    conversion: &mut Conversion,
) -> Result<Vec<Row>> {
    let mut table = Table::open(path)?;
    let file = table.column(&["file", "file_name"])?;
    let case = table.column(&["patient_id", "case_id"])?;
    let caption = table.column(&["caption"])?;
    let (chunk, id) = (table.maybe("chunk"), table.maybe("file_id"));
    let license = table.maybe("license");
    let columns: Vec<usize> = LABEL_COLUMNS.iter().filter_map(|name| table.maybe(name)).collect();
    if columns.is_empty() {
        let reason = format!("{}: has none of the columns {}", path.display(), LABEL_COLUMNS.join(", "));
        return Err(Error::Data(reason));
    }
    let mut rows = Vec::new();
    let mut seen = HashSet::new();
    table.each(|row| {
        conversion.images += 1;
        let made = row.ok_or(why::DAMAGED).and_then(|row| {
            let labels = labels::merge(columns.iter().map(|&column| row.get(column)));
            if !filter.takes(&labels) {
                return Err(why::LABELS);
            }
            // The part of a figure's caption that speaks of this sub-image, where the source has cut it.
            let own = chunk.map(|column| row.get(column)).filter(|text| !text.is_empty());
            let caption = own.unwrap_or(row.get(caption));
            if caption.is_empty() {
                return Err(why::CAPTION);
            }
            if !filter.speaks_of(caption) {
                return Err(why::KEYWORDS);
            }
            let case = row.get(case);
            let patient = patients.get(case).ok_or(why::CASE)?;
            if patient.text.is_empty() {
                return Err(why::TEXT);
            }
            let name = row.get(file);
            let image = match files.find(name, &patient.pmcid) {
                Some(path) => path,
                None if filter.images_must_exist => return Err(why::FILE),
                None => files.folder.join(name),
            };
            if !seen.insert(image.clone()) {
                return Err(why::TWICE);
            }
            let id = id.map(|column| row.get(column)).filter(|id| !id.is_empty()).unwrap_or(name);
            Ok(Row {
                id: id.to_owned(),
                case: case.to_owned(),
                image,
                labels,
                caption: caption.to_owned(),
                license: license.map(|column| row.get(column)).unwrap_or_default().to_owned(),
            })
        });
        match made {
            Ok(row) => rows.push(row),
            Err(reason) => *conversion.dropped.entry(reason).or_default() += 1,
        }
    })?;
    Ok(rows)
}

impl Filter {
    fn takes(&self, labels: &[String]) -> bool {
        let is = |label: &String, word: &String| label.eq_ignore_ascii_case(word);
        let any = |words: &[String]| labels.iter().any(|label| words.iter().any(|word| is(label, word)));
        self.all_of.iter().all(|words| any(words)) && !any(&self.none_of)
    }

    fn speaks_of(&self, caption: &str) -> bool {
        let caption = caption.to_lowercase();
        self.keywords.is_empty() || self.keywords.iter().any(|word| caption.contains(&word.to_lowercase()))
    }
}

/// Image files of the release by name: it keeps them in nested folders (`images/PMC1/PMC10/…` in version 1).
struct Files {
    folder: PathBuf,
    by_name: HashMap<String, Vec<PathBuf>>,
}

impl Files {
    fn below(folder: &Path) -> Result<Self> {
        let mut by_name: HashMap<String, Vec<PathBuf>> = HashMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(at) = folders.pop() {
            for entry in std::fs::read_dir(&at).map_err(|e| Error::io(&at, "read", e))? {
                let entry = entry.map_err(|e| Error::io(&at, "read", e))?;
                let kind = entry.file_type().map_err(|e| Error::io(&entry.path(), "read", e))?;
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if let Ok(name) = entry.file_name().into_string() {
                    by_name.entry(name).or_default().push(entry.path());
                }
            }
        }
        Ok(Self { folder: folder.to_owned(), by_name })
    }

    /// The file `name`, by preference in a folder of its article; also as the PNG or JPEG that it was converted to.
    fn find(&self, name: &str, article: &str) -> Option<PathBuf> {
        let stem = Path::new(name).file_stem()?.to_str()?;
        let name = Path::new(name).file_name()?.to_str()?.to_owned();
        let mut names = vec![format!("{stem}.png"), format!("{stem}.jpg"), format!("{stem}.jpeg"), name];
        // What can be decoded first: the release has WebP.
        names.dedup();
        let candidates = names.iter().find_map(|name| self.by_name.get(name))?;
        let of_article = |path: &&PathBuf| path.components().any(|part| part.as_os_str() == article);
        candidates.iter().find(of_article).or(candidates.iter().min()).cloned()
    }
}

/// `PMC1234_01` is a case of the article `PMC1234`.
fn article_of(case: &str) -> &str {
    case.split('_').next().unwrap_or(case)
}

/// Years; `None` for an empty cell, `nan`, or a number that is no age.
fn years(cell: &str) -> Option<f32> {
    let age: f32 = cell.trim().parse().ok()?;
    (0.0..=150.0).contains(&age).then_some(age)
}

/// A word of the source; `None` where it says that it does not know.
fn word(cell: &str) -> Option<String> {
    let unknown = ["", "unknown", "nan", "none", "n/a"];
    (!unknown.iter().any(|u| cell.eq_ignore_ascii_case(u))).then(|| cell.to_owned())
}

#[cfg(test)]
mod tests;
