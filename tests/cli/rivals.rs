//! `bench rivals` with rivals that are scripts of the test.

use std::path::Path;

use crate::program::{Outcome, roentgen};

const FIGURE: &str = r#"{"system": "gemm", "version": "9", "figure": "product 1024", "model": "random", "weights": "f32",
 "unit": "GFLOP/s", "values": [0.5, 0.25], "threads": 1}"#;

/// A folder of rivals in which a script stands for `gemm` and another for PyTorch's, by way of a Python that has every package.
#[cfg(unix)]
fn folder(gemm: &str, torch: &str) -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rival_bench.py"), "").unwrap();
    let place = folder.path().join("gemm/target/release");
    std::fs::create_dir_all(&place).unwrap();
    let python = format!("if [ \"$1\" = -c ]; then exit 0; fi\n{torch}");
    for (file, script) in [(place.join("gemm-rival"), gemm), (folder.path().join("python"), &python)] {
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

fn product(folder: &Path, args: &[&str]) -> Outcome {
    let fixed = ["bench", "rivals", "--suites", "product", "--repeats", "1", "--scripts"];
    let python = folder.join("python");
    let paths = [folder.to_str().unwrap(), "--python", python.to_str().unwrap()];
    roentgen(fixed.iter().chain(&paths).chain(args))
}

#[test]
fn the_list_says_what_is_missing_and_how_to_get_it() {
    let outcome = roentgen(["bench", "rivals", "--list", "--python", "no-such-python"]).ok();
    for text in
        ["llama.cpp", "--llama is not given", "llama_build.sh", "PyTorch", "no-such-python", "candle", "burn"]
    {
        assert!(outcome.stdout.contains(text), "{text}: {}", outcome.stdout);
    }
    let all = roentgen(["bench", "rivals", "--list", "--json", "--python", "no-such-python"]).ok().json();
    assert!(all.as_array().unwrap().iter().any(|r| r["rival"] == "PEFT" && r["missing"].is_string()));
}

#[cfg(unix)]
#[test]
fn good_broken_and_absent_rivals_in_one_run() {
    let good = format!("cat <<'END'\nhello\n{}\nEND", FIGURE.replace('\n', " "));
    let rivals = folder(&good, "echo no adapter >&2; exit 7");
    let page = rivals.path().join("page.html");
    let outcome = product(rivals.path(), &["--rounds", "2", "--json", "--html", page.to_str().unwrap()]).ok();
    let report = outcome.json();
    assert_eq!(report["rows"].as_array().unwrap().len(), 1);
    let row = &report["rows"][0];
    assert_eq!(
        (&row["rival"], &row["theirs"]["turns"]),
        (&"gemm".into(), &serde_json::json!([0.375, 0.375]))
    );
    assert!(row["comparison"]["speedup"].as_f64().unwrap() > 1.0, "half a GFLOP/s is slow: {row}");
    let state = |rival: &str| {
        let all = report["statuses"].as_array().unwrap();
        all.iter().find(|s| s["rival"] == rival).unwrap_or_else(|| panic!("{rival}")).clone()
    };
    assert_eq!(state("gemm")["state"], "measured");
    assert_eq!(state("PyTorch")["state"], "failed");
    assert!(state("PyTorch")["why"].as_str().unwrap().contains("no adapter"));
    // It runs on a GPU alone.
    assert_eq!(state("burn")["state"], "absent");
    assert!(state("burn")["why"].as_str().unwrap().contains("--device cpu"));
    assert!(std::fs::read_to_string(page).unwrap().contains("<svg"));
    // Who runs is told in order: the first of a turn alternates.
    let order: Vec<_> =
        outcome.stderr.lines().filter_map(|line| line.rsplit_once(": ")).map(|l| l.1).collect();
    assert_eq!(order[..4], ["roentgen", "PyTorch", "roentgen", "gemm"], "{}", outcome.stderr);
    assert!(order.ends_with(&["gemm", "roentgen"]), "{}", outcome.stderr);

    let text = product(rivals.path(), &["--rounds", "1", "--markdown"]).ok().stdout;
    assert!(text.starts_with("| model | figure |") && text.contains("no adapter"), "{text}");
}

#[cfg(unix)]
#[test]
fn rivals_that_hang_or_talk_nonsense_do_not_stop_the_program() {
    let rivals = folder("sleep 600", "echo '{\"values\": []}'");
    let outcome = product(rivals.path(), &["--limit", "1"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(
        outcome.stdout.contains("not done after 1 s") && outcome.stdout.contains("no figure"),
        "{outcome:?}"
    );
    outcome.says(&["no rival could be measured"]);
}

#[cfg(unix)]
#[test]
fn a_later_run_renews_its_rows_in_an_earlier_report() {
    let good = format!("echo '{}'", FIGURE.replace('\n', " "));
    let rivals = folder(&good, "exit 1");
    let file = rivals.path().join("report.json");
    let update = |args: &[&str]| {
        product(rivals.path(), &[&["--json", "--update", file.to_str().unwrap()][..], args].concat())
            .ok()
            .json()
    };
    assert_eq!(update(&["--rounds", "1"])["statuses"].as_array().unwrap().len(), 3);
    let renewed = update(&["--rivals", "gemm", "--rounds", "3"]);
    assert_eq!(renewed["statuses"].as_array().unwrap().len(), 3);
    assert_eq!(renewed["rows"][0]["theirs"]["turns"].as_array().unwrap().len(), 3);
    std::fs::write(&file, "{}").unwrap();
    product(rivals.path(), &["--update", file.to_str().unwrap()]).fails(&["report.json", "no report"]);
}

#[test]
fn wrong_requests_are_refused() {
    roentgen(["bench", "rivals", "--suites", "speed"]).fails(&["no suite `speed`", "text-bf16"]);
    roentgen(["bench", "rivals", "--rivals", "tinygrad"]).fails(&["no rival `tinygrad`", "llama.cpp"]);
    roentgen(["bench", "rivals", "--suites", "text-bf16"]).fails(&["--weights"]);
    roentgen(["bench", "rivals", "--weights", "nowhere.gguf", "--suites", "text-bf16"])
        .fails(&["nowhere.gguf"]);
    roentgen(["bench", "rivals", "--scripts", "nowhere"]).fails(&["nowhere", "--scripts"]);
}
