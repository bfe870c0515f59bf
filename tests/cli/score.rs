//! `score`: texts that are there already.

use crate::program::roentgen;
use crate::tiny::Images;

const EXPECTED: &str =
    "Image Labels: thorax, x_ray | Gender: Female | Age: 29.0 | Image Caption: Clear lungs on both sides.";

fn line(id: &str, generated: &str) -> String {
    serde_json::json!({ "id": id, "expected": EXPECTED, "generated": generated }).to_string() + "\n"
}

/// Four pairs and, with `hostile`, five lines that are none.
fn file(folder: &Images, hostile: bool) -> String {
    let mut text = line("a", EXPECTED);
    text += &line("b", &EXPECTED.replace("29.0", "31").replace("Female", "Male"));
    text += &line("c", "A chest X-ray.");
    text += &line("d", &EXPECTED.replace("x_ray", "frontal").replace("both sides", "the left"));
    if hostile {
        text += "{\"id\":\"a\",\"expected\":\"again\",\"generated\":\"x\"}\n\nno JSON\n[]\n{\"id\":\"e\",\"expected\":\"x\"}\n";
        text += "{\"id\":\"f\",\"expected\":null,\"generated\":\"x\"}";
    }
    folder.raw("hyp.jsonl", text.as_bytes()).display().to_string()
}

fn value(json: &serde_json::Value, table: usize, metric: &str) -> f64 {
    let rows = json["tables"][table]["metrics"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == metric).unwrap_or_else(|| panic!("{metric}: {rows:#?}"));
    row["values"]["score"].as_f64().unwrap()
}

#[test]
fn scores_of_a_file_as_text_json_and_page() {
    let folder = Images::new();
    let (path, page) = (file(&folder, false), folder.path().join("scores.html"));
    let outcome = roentgen(["score", &path, "--html", page.to_str().unwrap()]).ok();
    for text in ["ROUGE-1", "[95 % intervals]", "Image caption alone", "Age within 5 years", "4 pairs of"] {
        assert!(outcome.stdout.contains(text), "{text}: {}", outcome.stdout);
    }
    assert_eq!(outcome.stderr, "");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<table>") && page.contains("Labels micro-F1") && !page.contains("<script"));

    let json = roentgen(["score", &path, "--json", "--age-within", "1,2"]).ok().json();
    assert_eq!(json["pairs"], 4);
    for (metric, wanted) in [
        ("Well-formed", 0.75),
        ("Gender exact", 0.5),
        ("Age exact", 0.5),
        ("Age within 1 year", 0.5),
        ("Age within 2 years", 0.75),
        ("Labels exact", 0.5),
    ] {
        assert_eq!(value(&json, 2, metric), wanted, "{metric}");
    }
    let interval = &json["tables"][0]["metrics"][0]["intervals"]["score"];
    let (low, high) = (interval[0].as_f64().unwrap(), interval[1].as_f64().unwrap());
    assert!(low < value(&json, 0, "ROUGE-1") && value(&json, 0, "ROUGE-1") < high && high <= 1.0);
    // The same seed, the same digits; without resamples no interval.
    assert_eq!(roentgen(["score", &path, "--json", "--age-within", "1,2"]).ok().json(), json);
    let bare = roentgen(["score", &path, "--json", "--bootstrap", "0"]).ok().json();
    assert!(bare["tables"][0]["metrics"][0].get("intervals").is_none());
}

#[test]
fn hostile_lines_are_listed_with_their_numbers_and_counted() {
    let folder = Images::new();
    let path = file(&folder, true);
    let outcome = roentgen(["score", &path]).ok().says(&[
        "line 5: the id `a` is already in line 1",
        "line 7: not JSON",
        "line 8: not a JSON object",
        "line 9: `generated` is missing",
        "line 10: `expected` is null",
    ]);
    assert!(outcome.stdout.contains("4 pairs of") && outcome.stdout.contains("5 lines could not be scored"));
    let json = roentgen(["score", &path, "--json"]).ok().json();
    assert_eq!(json["bad_lines"].as_array().unwrap().len(), 5);
    assert_eq!(json["bad_lines"][1]["line"], 7);

    let none = folder.raw("none.jsonl", b"x\ny\n").display().to_string();
    roentgen(["score", &none]).fails(&["none of its 2 lines", "line 1: not JSON"]);
    let empty = folder.raw("empty.jsonl", b"").display().to_string();
    roentgen(["score", &empty]).fails(&["is empty"]);
    roentgen(["score", "absent.jsonl"]).fails(&["absent.jsonl", "cannot read"]);
}

#[test]
fn fields_have_other_names_and_texts_need_not_be_reports() {
    let folder = Images::new();
    let text = "{\"ref\":\"No effusion.\",\"hyp\":\"No effusion.\"}\n{\"ref\":\"Clear.\",\"hyp\":\"\"}\n";
    let path = folder.raw("free.jsonl", text.as_bytes()).display().to_string();
    roentgen(["score", &path]).fails(&["`expected` is missing (fields: ref, hyp)"]);
    let names = ["--expected-field", "ref", "--generated-field", "hyp"];
    let json = roentgen(["score", &path, "--json"].iter().chain(&names)).ok().json();
    assert_eq!(json["tables"].as_array().unwrap().len(), 1);
    assert_eq!(value(&json, 0, "ROUGE-1"), 0.5);
}

#[test]
fn options_of_metrics_are_checked() {
    let folder = Images::new();
    let path = file(&folder, false);
    let absent = folder.path().join("absent").display().to_string();
    roentgen(["score", &path, "--wordnet", &absent]).fails(&["--wordnet", "absent"]);
    roentgen(["score", &path, "--bertscore", &absent]).fails(&["--bertscore", "config.json"]);
    assert_eq!(roentgen(["score", &path, "--idf"]).code, 2);
    assert_eq!(roentgen(["score", &path, "--age-within", "-1"]).code, 2);
}

#[test]
fn bertscore_by_a_real_encoder() {
    let Some(model) = std::env::var_os("ROENTGEN_MINILM").map(|p| p.to_str().unwrap().to_owned()) else {
        println!("SKIP: ROENTGEN_MINILM does not name a folder with all-MiniLM-L6-v2");
        return;
    };
    let folder = Images::new();
    let path = file(&folder, false);
    // An encoder of no known name: its layer must be said.
    roentgen(["score", &path, "--bertscore", &model]).fails(&["no BERTScore layer is known", "6 layers"]);
    let score = |more: &[&str]| {
        let args = ["score", &path, "--json", "--bertscore", &model, "--bertscore-layer", "6"];
        roentgen(args.iter().chain(more)).ok().json()
    };
    let plain = score(&[]);
    let f1 = value(&plain, 0, "BERTScore F1");
    assert!((0.5..1.0).contains(&f1), "{f1}");
    let rows = plain["tables"][0]["metrics"].as_array().unwrap();
    assert!(rows[7]["implementation"].as_str().unwrap().ends_with("L6, not rescaled"));
    assert!(value(&score(&["--idf"]), 0, "BERTScore F1") != f1);
    let baseline = folder.raw("b.tsv", b"LAYER,P,R,F\n6,0.2,0.2,0.2\n").display().to_string();
    let rescaled = value(&score(&[&format!("--rescale={baseline}")]), 0, "BERTScore F1");
    assert!((rescaled - (f1 - 0.2) / 0.8).abs() < 1e-9);
    let args = ["score", &path, "--bertscore", &model, "--bertscore-layer", "6", "--rescale"];
    roentgen(args).fails(&["no baseline is built in"]);
    let args = ["score", &path, "--bertscore", &model, "--bertscore-layer", "7"];
    roentgen(args).fails(&["layer 7", "has 6"]);
}
