use std::fs;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::config::DataSection;
use crate::data::Cases;

/// A cell as `csv` needs it.
fn cell(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

fn csv(head: &[&str], rows: &[&[&str]]) -> String {
    let line = |cells: &[&str]| cells.iter().map(|c| cell(c)).collect::<Vec<_>>().join(",") + "\n";
    line(head) + &rows.iter().map(|row| line(row)).collect::<String>()
}

/// A small release of version 1.
fn first_version() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let cases = csv(
        &["case_id", "pmcid", "case_text", "age", "gender"],
        &[
            &["PMC1_01", "PMC1", "A 29-year-old female,\nwith \"pain\".", "29.0", "Female"],
            &["PMC1_02", "PMC1", "A man.", "", "Unknown"],
            &["PMC2_01", "PMC2", "A boy.", "nan", "Male"],
            &["PMC3_01", "PMC3", "", "4", "Male"],
        ],
    );
    fs::write(folder.path().join("cases.csv"), cases).unwrap();
    let xray = "['radiology', 'x_ray', 'thorax', 'x_ray']";
    let images = csv(
        &["file_id", "file", "patient_id", "license", "caption", "chunk", "generic_label"],
        &[
            &["f1", "a.webp", "PMC1_01", "CC BY", "Whole figure.", "Pre-op film.", xray],
            &["f2", "b.webp", "PMC1_02", "CC BY", "Chest film.", "", xray],
            &["f3", "c.webp", "PMC2_01", "CC0", "Chest film of a boy.", "", xray],
            &["f4", "d.webp", "PMC1_01", "CC BY", "CT.", "", "['radiology', 'ct', 'thorax']"],
            &["f5", "e.webp", "PMC1_01", "CC BY", "", "", xray],
            &["f6", "f.webp", "PMC9_01", "CC BY", "Film.", "", xray],
            &["f7", "g.webp", "PMC3_01", "CC BY", "Film.", "", xray],
            &["f8", "gone.webp", "PMC2_01", "CC BY", "Film.", "", xray],
            &["f9", "c.webp", "PMC2_01", "CC BY", "Again.", "", xray],
            &["f10", "short row"],
        ],
    );
    fs::write(folder.path().join("captions_and_labels.csv"), images).unwrap();
    for (article, name) in
        [("PMC1", "a.png"), ("PMC1", "b.webp"), ("PMC2", "c.jpg"), ("PMC3", "c.jpg"), ("PMC3", "g.png")]
    {
        let at = folder.path().join("images").join(article);
        fs::create_dir_all(&at).unwrap();
        fs::write(at.join(name), b"any").unwrap();
    }
    folder
}

fn rows(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_first_version_is_read_and_every_drop_has_its_reason() {
    let folder = first_version();
    let out = folder.path().join("rows.jsonl");
    let shares = SplitShares::default();
    let conversion = convert(folder.path(), &out, &Filter::default(), &shares).unwrap();
    let dropped = [
        (why::LABELS, 1),
        (why::CAPTION, 1),
        (why::CASE, 1),
        (why::TEXT, 1),
        (why::FILE, 1),
        (why::TWICE, 1),
        (why::DAMAGED, 1),
    ];
    assert_eq!(conversion.dropped, BTreeMap::from(dropped));
    assert_eq!((conversion.images, conversion.kept(), conversion.articles), (10, 3, 2));
    assert_eq!((conversion.without_age, conversion.without_gender), (2, 1));
    let rows = rows(&out);
    assert_eq!(
        rows[0]["expected_output"],
        "Image Labels: radiology, x_ray, thorax | Gender: Female | Age: 29.0 | Image Caption: Pre-op film."
    );
    assert_eq!(
        rows[1]["expected_output"],
        "Image Labels: radiology, x_ray, thorax | Gender: unknown | Age: unknown | Image Caption: Chest film."
    );
    assert_eq!(rows[0]["clinical_case"], "A 29-year-old female,\nwith \"pain\".");
    let paths: Vec<&str> = rows.iter().map(|row| row["image_path"].as_str().unwrap()).collect();
    // The converted image before the original; of two with one name the article's own.
    assert_eq!(paths, ["images/PMC1/a.png", "images/PMC1/b.webp", "images/PMC2/c.jpg"]);
    // Cases of one article are in one part, and the rows are rows of this project.
    assert_eq!(rows[0]["split"], rows[1]["split"]);
    let all = Cases::read(&DataSection::new(folder.path(), vec!["rows.jsonl".into()])).unwrap();
    assert_eq!((all.cases.len(), all.bad.len()), (3, 0));
    assert_eq!(all.cases[0].group.as_deref(), Some("PMC1"));
    assert_eq!(all.cases[0].report.as_ref().unwrap().age, Some(29.0));
}

#[test]
fn the_second_version_has_labels_in_several_columns() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    // No `pmcid`: the article is in the case's id.
    let cases = csv(&["case_id", "case_text", "age", "gender"], &[&["PMC7_02", "A woman.", "61", "Female"]]);
    fs::write(folder.path().join("data/cases.csv"), format!("\u{feff}{cases}")).unwrap();
    let images = csv(
        &[
            "file",
            "patient_id",
            "caption",
            "gt_labels_for_semisupervised_classification",
            "image_subtype",
            "radiology_region",
        ],
        &[
            &["a.png", "PMC7_02", "A nodule.", "['nodule', 'frontal']", "x_ray", "thorax"],
            &["b.png", "PMC7_02", "The hand.", "['hand']", "x_ray", "upper_limb"],
        ],
    );
    fs::write(folder.path().join("data/captions_and_labels.csv"), images).unwrap();
    let out = folder.path().join("rows.jsonl");
    let any_file = Filter { images_must_exist: false, ..Filter::default() };
    let conversion = convert(folder.path(), &out, &any_file, &SplitShares::default()).unwrap();
    assert_eq!(conversion.kept(), 1);
    let rows = rows(&out);
    assert_eq!(rows[0]["pmcid"], "PMC7");
    assert_eq!(rows[0]["image_labels"], serde_json::json!(["nodule", "frontal", "x_ray", "thorax"]));
    // Keywords narrow it further, here to nothing, which is an error with the reasons.
    let filter = Filter { keywords: vec!["pneumothorax".into()], ..any_file };
    let said = convert(folder.path(), &out, &filter, &SplitShares::default()).unwrap_err().to_string();
    assert!(said.contains("no row is left") && said.contains(why::KEYWORDS), "{said}");
}

#[test]
fn what_is_no_multicare_folder_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("rows.jsonl");
    let said = || {
        let shares = SplitShares::default();
        convert(folder.path(), &out, &Filter::default(), &shares).unwrap_err().to_string()
    };
    assert!(said().contains("cases.csv"));
    fs::write(folder.path().join("cases.parquet"), b"PAR1").unwrap();
    assert!(said().contains("to_csv"));
    fs::write(folder.path().join("cases.csv"), "id,text\n").unwrap();
    fs::write(folder.path().join("captions_and_labels.csv"), "file\n").unwrap();
    assert!(said().contains("`case_id`; its columns are id, text"), "{}", said());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// Whatever is in the cells: each image is kept or dropped with a reason, and the parts share no article.
    #[test]
    fn every_image_is_accounted_for(
        texts in prop::collection::vec((0usize..6, ".{0,12}", ".{0,12}", prop::bool::ANY), 1..20),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<String> = (0..5).map(|i| format!("PMC{i}_01")).collect();
        let cases: Vec<Vec<&str>> =
            ids.iter().zip(&texts).map(|(id, (_, text, age, _))| vec![id.as_str(), text, age, "Male"]).collect();
        let cases: Vec<&[&str]> = cases.iter().map(Vec::as_slice).collect();
        fs::write(folder.path().join("cases.csv"), csv(&["case_id", "case_text", "age", "gender"], &cases)).unwrap();
        let names: Vec<(String, String)> =
            texts.iter().enumerate().map(|(i, (case, ..))| (format!("{i}.png"), format!("PMC{case}_01"))).collect();
        let images: Vec<Vec<&str>> = names
            .iter()
            .zip(&texts)
            .map(|((file, case), (_, caption, _, chest))| {
                vec![file.as_str(), case, caption, if *chest { "['x_ray', 'chest']" } else { caption }]
            })
            .collect();
        let images: Vec<&[&str]> = images.iter().map(Vec::as_slice).collect();
        let head = ["file", "patient_id", "caption", "generic_label"];
        fs::write(folder.path().join("captions_and_labels.csv"), csv(&head, &images)).unwrap();
        let out = folder.path().join("rows.jsonl");
        let filter = Filter { images_must_exist: false, ..Filter::default() };
        if let Ok(conversion) = convert(folder.path(), &out, &filter, &SplitShares::default()) {
            let dropped: usize = conversion.dropped.values().sum();
            prop_assert_eq!(conversion.kept() + dropped, conversion.images);
            let rows = rows(&out);
            prop_assert_eq!(rows.len(), conversion.kept());
            let mut parts = HashMap::new();
            for row in &rows {
                let split = row["split"].as_str().unwrap().to_owned();
                let first = parts.entry(row["pmcid"].as_str().unwrap().to_owned()).or_insert(split.clone());
                prop_assert_eq!(&*first, &split);
            }
        } else {
            prop_assert!(!out.exists());
        }
    }
}
