//! `report` on one image.

use crate::program::roentgen;
use crate::tiny::{Images, Tiny};

fn paths(names: &[&std::path::Path]) -> Vec<String> {
    names.iter().map(|name| name.display().to_string()).collect()
}

#[test]
fn one_image_gives_a_table_or_an_object() {
    let (tiny, images) = (Tiny::new(), Images::new());
    let image = paths(&[&images.gradient("a.png", 40, 50)]).remove(0);
    let base = ["report", &image, "--model", tiny.name(), "--max-new-tokens", "12"];
    let table = roentgen(base).ok().stdout;
    let names: Vec<_> = table.lines().map(|line| line.split("  ").next().unwrap()).collect();
    assert_eq!(names, ["Image Labels", "Gender", "Age", "Image Caption"]);

    let outcome = roentgen(base.iter().chain(&["--json", "-v"])).ok();
    let json = outcome.json();
    assert_eq!(json["file"], image.as_str());
    assert_eq!(json["model"], tiny.name());
    assert!(json["tokens"].as_u64().unwrap() <= 12);
    assert!(json["raw"].is_string() && json["report"].is_object() && json["missing"].is_array());
    for time in ["image_s", "vision_s", "prefill_s", "first_token_s", "decode_s"] {
        assert!(json["timings"][time].as_f64().unwrap() >= 0.0, "{time}");
    }
    assert!(json["peak_memory"]["tensor_bytes"].as_u64().unwrap() > 700_000);
    outcome.says(&["first token", "tokens/s", "peak memory"]);
}

#[test]
fn image_and_case_both_reach_the_model() {
    let (tiny, images) = (Tiny::new(), Images::new());
    let a = paths(&[&images.gradient("a.png", 40, 40), &images.raw("b.png", &white())]);
    let case = images.raw("case.txt", b"A 29 years old female");
    let report = |image: &str, more: &[&str]| {
        let base = ["report", image, "--model", tiny.name(), "--max-new-tokens", "16", "--json"];
        roentgen(base.iter().chain(more)).ok().json()
    };
    let plain = report(&a[0], &[]);
    assert_eq!(
        plain["raw"],
        report(&a[0], &["--threads", "1"])["raw"],
        "one answer for any number of threads"
    );
    assert_ne!(plain["raw"], report(&a[1], &[])["raw"], "another image, another answer");
    let with_case = report(&a[0], &["--case", "A 29 years old female"]);
    assert_ne!(plain["raw"], with_case["raw"], "another case, another answer");
    assert_eq!(with_case["raw"], report(&a[0], &["--case-file", case.to_str().unwrap()])["raw"]);
    let tokens = |json: &serde_json::Value| json["timings"]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens(&with_case) > tokens(&plain));
}

/// A white PNG.
fn white() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::GrayImage::from_pixel(40, 40, image::Luma([255]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

#[test]
fn a_long_case_is_cut_with_a_word() {
    let (tiny, images) = (Tiny::new(), Images::new());
    let image = paths(&[&images.gradient("a.jpg", 24, 24)]).remove(0);
    let case = "pain ".repeat(120);
    let args = ["report", &image, "--model", tiny.name(), "--max-new-tokens", "2", "--case", &case];
    roentgen(args).ok().says(&["599 characters", "500"]);
}

#[test]
fn without_a_model_the_demonstration_model_answers_or_its_absence_is_said() {
    let images = Images::new();
    let image = paths(&[&images.gradient("a.png", 60, 60)]).remove(0);
    let outcome = roentgen(["report", &image, "--max-new-tokens", "4", "--json"]);
    if std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/model.safetensors").exists() {
        let json = outcome.ok().json();
        assert_eq!(json["model"], "assets/demo");
        // The bars for start-up: a thirtieth of a second and 23 MB where this was written.
        assert!(json["timings"]["first_token_s"].as_f64().unwrap() < 1.0, "{json}");
        assert!(
            json["peak_memory"]["process_bytes"].as_u64().is_none_or(|bytes| bytes < 300_000_000),
            "{json}"
        );
    } else {
        println!("SKIP: assets/demo is not there yet");
        outcome.fails(&["without the demonstration model", "--model"]);
    }
}
