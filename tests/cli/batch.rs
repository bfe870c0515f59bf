//! `report` on many images.

use std::fs;

use serde_json::Value;

use crate::program::{Outcome, json_lines, roentgen};
use crate::tiny::{Images, Tiny};

fn report(tiny: &Tiny, more: &[&str]) -> Outcome {
    let base = ["report", "--model", tiny.name(), "--max-new-tokens", "4"];
    roentgen(base.iter().chain(more))
}

fn names(lines: &[Value]) -> Vec<String> {
    let name = |line: &Value| line["file"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    lines.iter().map(name).collect()
}

#[test]
fn a_folder_gives_a_line_for_each_image_in_order() {
    let (tiny, images) = (Tiny::new(), Images::new());
    images.gradient("b.png", 30, 30);
    images.gradient("a.jpg", 20, 45);
    // An image by its content, and a file that is none.
    fs::rename(images.gradient("x.png", 10, 10), images.path().join("c.dat")).unwrap();
    images.raw("notes.txt", b"not an image");
    let lines = report(&tiny, &[images.name()]).ok().lines();
    assert_eq!(names(&lines), ["a.jpg", "b.png", "c.dat"]);
    assert!(lines.iter().all(|line| line.get("error").is_none() && line["raw"].is_string()));
}

#[test]
fn a_broken_image_has_a_line_with_its_error() {
    let (tiny, images) = (Tiny::new(), Images::new());
    images.gradient("a.png", 30, 30);
    images.raw("b.png", b"this is text");
    images.gradient("c.png", 30, 30);
    let outcome = report(&tiny, &[images.name()]);
    assert_eq!(outcome.code, 1, "{outcome:#?}");
    let lines = outcome.lines();
    assert_eq!(names(&lines), ["a.png", "b.png", "c.png"]);
    assert!(lines[1]["error"].as_str().unwrap().contains("not a PNG, JPEG or WebP"), "{}", lines[1]);
    assert!(lines[0].get("error").is_none() && lines[2].get("error").is_none());
    outcome.says(&["1 of 3 images could not be read"]);
}

#[test]
fn a_run_is_continued_where_it_stopped() {
    let (tiny, images, elsewhere) = (Tiny::new(), Images::new(), Images::new());
    for name in ["a.png", "b.png", "c.png"] {
        images.gradient(name, 30, 30);
    }
    let out = elsewhere.path().join("out.jsonl");
    let out_name = out.to_str().unwrap();
    assert_eq!(report(&tiny, &[images.name(), "--out", out_name]).ok().stdout, "");
    let whole = fs::read_to_string(&out).unwrap();
    assert_eq!(names(&json_lines(&whole)), ["a.png", "b.png", "c.png"]);

    // Nothing is written over without being asked to.
    report(&tiny, &[images.name(), "--out", out_name]).fails(&["exists already", "--resume"]);
    assert_eq!(fs::read_to_string(&out).unwrap(), whole);

    // Torn in the middle of the second line.
    let first = whole.find('\n').unwrap() + 1;
    fs::write(&out, &whole[..first + 40]).unwrap();
    report(&tiny, &[images.name(), "--out", out_name, "--resume"])
        .ok()
        .says(&["1 of 3 images have a report"]);
    let again = fs::read_to_string(&out).unwrap();
    assert_eq!(again[..first], whole[..first]);
    let answers = |text: &str| -> Vec<_> {
        json_lines(text).into_iter().map(|line| (line["file"].clone(), line["raw"].clone())).collect()
    };
    assert_eq!(answers(&again), answers(&whole));

    // All there: nothing to do, no model is opened.
    fs::remove_file(tiny.path().join("model.safetensors")).unwrap();
    report(&tiny, &[images.name(), "--out", out_name, "--resume"]).ok();
    assert_eq!(fs::read_to_string(&out).unwrap(), again);
}

#[test]
fn an_image_that_was_broken_is_read_again() {
    let (tiny, images, elsewhere) = (Tiny::new(), Images::new(), Images::new());
    images.gradient("a.png", 30, 30);
    images.raw("b.png", b"");
    let out = elsewhere.path().join("out.jsonl");
    let out_name = out.to_str().unwrap();
    assert_eq!(report(&tiny, &[images.name(), "--out", out_name]).code, 1);
    images.gradient("b.png", 20, 20);
    report(&tiny, &[images.name(), "--out", out_name, "--resume"]).ok();
    let lines = json_lines(&fs::read_to_string(&out).unwrap());
    assert_eq!(names(&lines), ["a.png", "b.png"]);
    assert!(lines.iter().all(|line| line.get("error").is_none()));
}

#[test]
fn other_files_and_other_models_are_left_alone() {
    let (tiny, other, images, elsewhere) = (Tiny::new(), Tiny::new(), Images::new(), Images::new());
    images.gradient("a.png", 30, 30);
    let notes = elsewhere.raw("notes.txt", b"my notes\nmore of them\n");
    let notes = notes.to_str().unwrap();
    report(&tiny, &[images.name(), "--out", notes, "--resume"]).fails(&["notes.txt", "not the output"]);
    assert_eq!(fs::read_to_string(notes).unwrap(), "my notes\nmore of them\n");

    let out = elsewhere.path().join("out.jsonl");
    let out = out.to_str().unwrap();
    report(&tiny, &[images.name(), "--out", out]).ok();
    images.gradient("b.png", 30, 30);
    report(&other, &[images.name(), "--out", out, "--resume"]).fails(&["its reports are by", tiny.name()]);
    let nowhere = elsewhere.path().join("no/such/folder.jsonl");
    report(&tiny, &[images.name(), "--out", nowhere.to_str().unwrap()])
        .fails(&["folder.jsonl", "cannot be written"]);
}

#[test]
fn an_empty_folder_and_a_name_given_twice_are_errors() {
    let (tiny, images) = (Tiny::new(), Images::new());
    report(&tiny, &[images.name()]).fails(&["no PNG, JPEG or WebP image in this folder"]);
    let image = images.gradient("a.png", 30, 30);
    let image = image.to_str().unwrap();
    report(&tiny, &[image, image]).fails(&["named twice"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said() {
    let (tiny, images) = (Tiny::new(), Images::new());
    images.gradient("a.png", 30, 30);
    report(&tiny, &[images.name(), "--out", "/dev/full"]).fails(&[
        "/dev/full",
        "cannot be written",
        "--resume",
    ]);
}
