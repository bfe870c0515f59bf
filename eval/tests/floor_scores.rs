//! What can be scored on the shared chest X-ray cases without looking at an image. A model below these floors has
//! learned nothing; how far it lies above them is what its report should say. Run with `--nocapture` for the table.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use eval::bootstrap::Bootstrap;
use eval::report_scores::{self, Report};
use eval::table::ResultTable;
use eval::text::TextScorer;
use eval::wordnet::WordNet;
use serde_json::Value;

/// `ROENTGEN_SHARED`, or a folder `shared` beside the repository.
fn shared(path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("ROENTGEN_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    Some(root.join(path)).filter(|p| p.exists())
}

fn line(labels: &[String], gender: Option<&str>, age: Option<f64>, caption: &str) -> Report {
    let gender = gender.unwrap_or("unknown").to_owned();
    let age = age.map_or("unknown".to_owned(), |a| format!("{a:.1}"));
    Report {
        line: format!(
            "Image Labels: {} | Gender: {gender} | Age: {age} | Image Caption: {caption}",
            labels.join(", ")
        ),
        labels: Some(labels.to_vec()),
        gender: Some(gender),
        age: Some(age),
        caption: Some(caption.to_owned()),
    }
}

struct Case {
    split: String,
    text: String,
    labels: Vec<String>,
    gender: Option<String>,
    age: Option<f64>,
    caption: String,
}

impl Case {
    fn new(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        let labels = value["image_labels"].as_array().unwrap();
        Self {
            split: text("split").unwrap(),
            text: text("clinical_case").unwrap(),
            labels: labels.iter().map(|l| l.as_str().unwrap().to_owned()).collect(),
            gender: text("gender"),
            age: value["age"].as_f64(),
            caption: text("image_caption").unwrap(),
        }
    }

    fn expected(&self) -> Report {
        line(&self.labels, self.gender.as_deref(), self.age, &self.caption)
    }
}

/// The most frequent value, the alphabetically first of equals.
fn most_frequent<T: Ord + std::hash::Hash + Clone>(values: impl Iterator<Item = T>) -> T {
    let mut counts = HashMap::new();
    for v in values {
        *counts.entry(v).or_insert(0usize) += 1;
    }
    let best = counts.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(&a.0)));
    best.expect("there are training cases").0
}

/// Gender by the words of the clinical case.
fn gender_in(text: &str) -> Option<&'static str> {
    let find = |words: &[&str]| {
        text.split(|c: char| !c.is_alphabetic()).any(|w| words.contains(&w.to_lowercase().as_str()))
    };
    if find(&["woman", "female", "girl", "she", "her"]) {
        Some("Female")
    } else if find(&["man", "male", "boy", "he", "his"]) {
        Some("Male")
    } else {
        None
    }
}

/// Age by "62-year-old" and "62 years old".
fn age_in(text: &str) -> Option<f64> {
    let pattern = regex::Regex::new(r"(\d+)[- ]years?[- ]old").unwrap();
    pattern.captures(text)?[1].parse().ok()
}

#[test]
fn floors_without_an_image() {
    let Some(path) = shared("data/cxr/cases.jsonl") else {
        println!("SKIP: the shared chest X-ray cases are not here (set ROENTGEN_SHARED)");
        return;
    };
    let text = std::fs::read_to_string(path).unwrap();
    let cases: Vec<Case> = text.lines().map(|l| Case::new(&serde_json::from_str(l).unwrap())).collect();
    let train: Vec<&Case> = cases.iter().filter(|c| c.split == "train").collect();
    let test: Vec<&Case> = cases.iter().filter(|c| c.split == "test").collect();
    let references: Vec<Report> = test.iter().map(|c| c.expected()).collect();

    let labels = most_frequent(train.iter().map(|c| c.labels.clone()));
    let gender = most_frequent(train.iter().filter_map(|c| c.gender.clone()));
    let age = most_frequent(train.iter().filter_map(|c| c.age.map(|a| a as u32)));
    let caption = most_frequent(train.iter().map(|c| c.caption.clone()));
    let constant: Vec<Report> =
        test.iter().map(|_| line(&labels, Some(&gender), Some(f64::from(age)), &caption)).collect();
    let copied: Vec<Report> =
        test.iter().map(|c| line(&labels, gender_in(&c.text), age_in(&c.text), &caption)).collect();
    let case_text: Vec<Report> =
        test.iter().map(|c| line(&labels, gender_in(&c.text), age_in(&c.text), &c.text)).collect();
    let empty = vec![Report::default(); test.len()];

    // The folder of Debian's wordnet-base; METEOR's row says which of the two it was.
    let folder = std::env::var_os("ROENTGEN_WORDNET").unwrap_or_else(|| "/usr/share/wordnet".into());
    let wordnet = WordNet::open(Path::new(&folder)).ok();
    let scorer = TextScorer::new(wordnet);
    let mut table = ResultTable::new("Floors without an image, test split");
    let mut score = |name: &str, reports: &[Report]| {
        let samples =
            report_scores::samples(&scorer, reports, &references, &report_scores::AGE_WITHIN).unwrap();
        table.add_measures(name, &samples.measures(), &Bootstrap::default());
        samples.scores()
    };
    let empty = score("empty", &empty);
    let constant = score("constant", &constant);
    let copied = score("copied", &copied);
    let with_case = score("copied+case", &case_text);
    let perfect = score("reference", &references);
    table.note(&format!(
        "{} cases; constant: most frequent training labels, gender, age, caption",
        test.len()
    ));
    table.note(
        "copied: gender and age read from the clinical case; copied+case: the case as the caption, too",
    );
    println!("{}", table.to_text());

    assert_eq!(empty.line.rouge.rouge1.f1, 0.0);
    assert_eq!((perfect.line.rouge.rouge1.f1, perfect.well_formed, perfect.labels_f1), (1.0, 1.0, 1.0));
    assert_eq!((perfect.age.exact, perfect.gender.exact, perfect.age_error), (1.0, 1.0, Some(0.0)));
    assert!((perfect.line.bleu - 1.0).abs() < 1e-9);
    assert!(constant.line.rouge.rouge1.f1 > 0.4, "fixed words alone score high");
    assert!(copied.gender.exact_where_given > 0.8 && copied.age.exact_where_given > 0.8);
    assert!(copied.line.rouge.rouge1.f1 > constant.line.rouge.rouge1.f1);
    assert!(copied.caption == constant.caption, "the caption is the same constant");
    assert!(with_case.caption.rouge.rouge1.f1 < perfect.caption.rouge.rouge1.f1);
}
