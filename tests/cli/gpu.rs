//! Every command on a GPU: wgpu's, and in `cuda.rs` again on CUDA's.

use std::path::Path;

use serde_json::Value;

use crate::program::{command, finish, roentgen};
use crate::tiny::{Images, Tiny};
use crate::train::data;

/// `--device` for the GPU of the tests; `None`, with a line that says so, where there is none.
fn device() -> Option<String> {
    roentgen_oracle::gpu::argument()
}

fn root(path: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path).display().to_string()
}

/// Runs the same on the processor and on the GPU and gives both results.
fn both(args: &[&str]) -> Option<[Value; 2]> {
    let gpu = device()?;
    Some(["cpu", &gpu].map(|device| roentgen(args.iter().chain(&["--device", device, "--json"])).ok().json()))
}

#[test]
fn the_demonstration_models_report_is_the_processors() {
    let image = root("assets/demo/images/nih-00028558_000.jpg");
    let Some([cpu, gpu]) = both(&["report", &image, "--dtype", "f32"]) else { return };
    assert_eq!(cpu["raw"], gpu["raw"]);
    assert_eq!(cpu["report"], gpu["report"]);
}

#[test]
fn generating_by_all_ways_of_choosing() {
    let tiny = Tiny::new();
    let base =
        ["generate", "--model", tiny.name(), "--dtype", "f32", "--prompt", "Age:", "--max-new-tokens", "8"];
    for more in [
        &[][..],
        &["--temperature", "0.8", "--top-k", "5", "--seed", "3"],
        &["--temperature", "0.8", "--top-k", "40", "--top-p", "0.9", "--seed", "4"],
        &["--temperature", "0.7", "--top-p", "0.8", "--seed", "5"],
        &["--temperature", "0.9", "--seed", "6"],
        &["--temperature", "1.1", "--min-p", "0.05", "--seed", "7"],
        &["--repetition-penalty", "1.3"],
        &["--repetition-penalty", "1.3", "--temperature", "0.8", "--top-p", "0.9", "--seed", "8"],
        &["--chat"],
    ] {
        let Some([cpu, gpu]) = both(&[&base[..], more].concat()) else { return };
        assert_eq!(cpu["answers"], gpu["answers"], "{more:?}");
    }
}

#[test]
fn every_stage_and_gradient_is_within_tolerance() {
    let Some(gpu) = device() else { return };
    let (model, reference) =
        (root("tests/fixtures/smolvlm-tiny"), root("tests/fixtures/smolvlm-tiny/base.safetensors"));
    let outcome = roentgen(["parity", &model, &reference, "--device", &gpu]).ok();
    assert!(outcome.stdout.contains("stages within tolerance"), "{}", outcome.stdout);
}

#[test]
fn training_scoring_and_measuring() {
    let Some(gpu) = device() else { return };
    let (folder, config) = data();
    let summary = roentgen(["train", &config, "--json", "--device", &gpu]).ok().json();
    assert_eq!(summary["steps"], 4);
    let environment = std::fs::read_to_string(folder.path().join("run/environment.json")).unwrap();
    let backend = gpu.split(':').next().unwrap();
    assert!(environment.contains(&format!("\"device\": \"{backend}: ")), "{environment}");

    let tiny = Tiny::new();
    let args = [
        "bench",
        "model",
        tiny.name(),
        "--dtype",
        "f32",
        "--prefill",
        "16",
        "--decode",
        "0",
        "--tokens",
        "2",
    ];
    let text = roentgen(args.iter().chain(&["--repeats", "1", "--device", &gpu])).ok().stdout;
    assert!(text.contains("prefill 16") && text.contains(&format!("on {backend}: ")), "{text}");
    let args = ["bench", "op", "matmul", "--shape", "48x32,32x40", "--dtype", "f32", "--seconds", "0.05"];
    let text = roentgen(args.iter().chain(&["--device", &gpu])).ok().stdout;
    assert!(text.contains("matmul"), "{text}");
}

/// Times are the device's own where it has timestamps.
#[test]
fn a_profile_has_the_devices_times() {
    let Some(gpu) = device() else { return };
    let (tiny, images) = (Tiny::new(), Images::new());
    let image = images.gradient("a.png", 40, 40).display().to_string();
    let out = images.path().join("profile").display().to_string();
    let args = ["profile", "--out", &out, "report", &image, "--model", tiny.name(), "--max-new-tokens", "2"];
    roentgen(args.iter().chain(&["--device", &gpu])).ok();
    let json = std::fs::read_to_string(Path::new(&out).join("profile.json")).unwrap();
    let offers = roentgen(["devices", "--json"]).ok().json();
    let timestamps =
        gpu == "cuda" || offers["wgpu"].as_array().unwrap().iter().any(|g| g["timestamps"] == true);
    assert_eq!(json.contains("its own clock"), timestamps, "{json}");
}

/// The first process writes down which kernels a model needed; the next makes them all while it loads the model.
#[test]
fn kernels_of_the_last_run_are_made_at_load() {
    let Some(gpu) = device() else { return };
    let (tiny, cache) = (Tiny::new(), tempfile::tempdir().unwrap());
    let args =
        ["generate", "--model", tiny.name(), "--prompt", "Age", "--max-new-tokens", "3", "-v", "--json"];
    let run = || {
        finish(command().args(args.iter().chain(&["--device", &gpu])).env("XDG_CACHE_HOME", cache.path()))
            .ok()
    };
    let first = run();
    assert!(!first.stderr.contains("kernels of the last run"), "{first:#?}");
    let kept = || {
        let files = std::fs::read_dir(cache.path().join("roentgen")).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|e| e == "txt"));
        assert_eq!(files.len(), 1, "{files:?}");
        std::fs::read_to_string(&files[0]).unwrap()
    };
    let list = kept();
    let count = list.lines().count() - 1;
    assert!(count > 5, "{list}");
    let second = run();
    assert!(second.stderr.contains(&format!("{count} kernels of the last run")), "{second:#?}");
    assert_eq!(first.json()["answers"], second.json()["answers"]);
    assert_eq!(kept(), list, "the same kernels were needed");
}

/// `auto` takes a GPU, but not the processor in its disguise; a GPU that is not there is an error, never the processor.
#[test]
fn the_choice_of_a_device() {
    let devices = roentgen(["devices", "--json"]).ok().json();
    let real = devices["wgpu"].as_array().unwrap().iter().any(|gpu| gpu["kind"] != "software");
    let tiny = Tiny::new();
    let args = ["generate", "--model", tiny.name(), "--prompt", "Age", "--max-new-tokens", "1", "-v"];
    let outcome = finish(command().args(args)).ok();
    assert_eq!(outcome.stderr.contains("computing on wgpu"), real, "{outcome:#?}");
    roentgen(args.iter().chain(&["--device", "wgpu:no such adapter"])).fails(&["no adapter"]);
}
