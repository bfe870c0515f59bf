//! `bench`: what it measures is not asserted, only that it does, and what it refuses.

use std::path::Path;

use crate::program::{Outcome, command, finish};

/// Runs `bench …` with the machine's ceilings in a folder of the test.
fn bench(folder: &Path, args: &[&str]) -> Outcome {
    let mut command = command();
    command.env("ROENTGEN_MACHINE", folder.join("machine.json")).arg("bench").args(args);
    finish(&mut command)
}

#[test]
fn an_operation_is_checked_timed_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let small = ["op", "matmul", "--shape", "33x65,65x17", "--seconds", "0.01", "--variant", "all"];
    let made = ["--out", &file("base.json"), "--html", &file("page.html")];
    let outcome = bench(folder.path(), &[&small[..], &made].concat()).ok();
    assert!(
        outcome.stdout.contains("33×65 bf16, 65×17 → 33×17") && outcome.stdout.contains("oracle"),
        "{outcome:#?}"
    );
    let page = std::fs::read_to_string(file("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("portable") && !page.contains("src="));

    let run = bench(folder.path(), &[&small[..], &["--json"]].concat()).ok().json();
    for row in run["rows"].as_array().unwrap() {
        assert_eq!(row["flops"], 2 * 33 * 65 * 17);
        assert!(row["checked"].as_u64().unwrap() > 100 && row["failure"].is_null());
        assert!(row["samples"].as_array().unwrap().len() >= 5);
        assert!(row["percent"].as_f64().unwrap() > 0.0);
    }
    // The base is this very build: its stored samples stand against a new run.
    let report = bench(folder.path(), &["compare", &file("base.json"), "--turns", "4", "--json"]).ok().json();
    assert_eq!(report["changes"].as_array().unwrap().len(), run["rows"].as_array().unwrap().len());
    assert!(report["paired"] == false && report["left_out"].as_array().unwrap().is_empty());
    assert!(folder.path().join("machine.json").exists());
}

/// What one does: measure, change, build over the old program, compare.
#[test]
fn a_program_that_was_built_over_still_takes_turns() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base.json").display().to_string();
    let old = folder.path().join("roentgen-old");
    // Another program that does the same: a byte after the end of an executable is not looked at.
    let mut bytes = std::fs::read(env!("CARGO_BIN_EXE_roentgen")).unwrap();
    bytes.push(0);
    std::fs::write(&old, bytes).unwrap();
    let permissions = std::fs::metadata(env!("CARGO_BIN_EXE_roentgen")).unwrap().permissions();
    std::fs::set_permissions(&old, permissions).unwrap();
    let settings = [
        ("ROENTGEN_MACHINE", folder.path().join("machine.json")),
        ("XDG_CACHE_HOME", folder.path().join("cache")),
    ];
    let small = ["bench", "op", "matmul", "--shape", "33x65,65x17", "--seconds", "0.01", "--out", &base];
    let mut measure = std::process::Command::new(&old);
    finish(measure.envs(settings.clone()).args(small)).ok();
    std::fs::remove_file(&old).unwrap();
    let mut compare = command();
    let compare = compare.envs(settings).args(["bench", "compare", &base, "--turns", "4", "--json"]);
    let report = finish(compare).ok().json();
    assert_eq!(report["paired"], true, "{report}");
    assert!(report["base"]["path"].as_str().unwrap().contains("measured-"), "{report}");
    assert_ne!(report["base"]["digest"], report["new"]["digest"]);
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.json");
    let base = path.display().to_string();
    std::fs::write(&path, "{\"format\": 1, \"rows\": [").unwrap();
    for (args, says) in [
        (&["op", "atention", "--model", "smolvlm-256m"][..], &["did you mean `attention`"][..]),
        (&["op", "attention"], &["--model smolvlm-256m", "--shape"]),
        (&["op", "attention", "--model", "gpt-5"], &["gpt-5", "vicuna-7b"]),
        (&["op", "attention", "--shape", "2x3x"], &["--shape", "2x3x"]),
        (&["op", "attention", "--shape", "2x3"], &["attention", "[2, 3]"]),
        (&["op", "matmul", "--shape", "8x8,8x8", "--variant", "sse9"], &["sse9", "portable"]),
        (&["op", "matmul", "--shape", "8x8,8x8", "--set", "a=b"], &["--set a", "none"]),
        (&["compare", &base], &["base.json", "no run"]),
        (&["compare", "/nowhere/base.json"], &["/nowhere/base.json"]),
        (&["compare", "--against", "--help", "--", "op", "all"], &[]),
        (&["compare", "--against", "HEAD"], &["what to measure"]),
    ] {
        let outcome = bench(folder.path(), args);
        assert!(outcome.code == 1 || outcome.code == 2, "{args:?}: {outcome:#?}");
        outcome.says(says);
    }
    assert_eq!(bench(folder.path(), &["compare"]).code, 2);
}

#[test]
fn a_broken_file_of_ceilings_is_measured_over() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("machine.json"), "{}").unwrap();
    let outcome = bench(folder.path(), &["op", "argmax", "--shape", "3x500", "--seconds", "0.01"]).ok();
    outcome.says(&["machine.json", "measuring now"]);
    let kept = std::fs::read_to_string(folder.path().join("machine.json")).unwrap();
    assert!(kept.contains("fingerprint"));
}
