//! `profile` around other commands.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::roentgen;
use crate::tiny::{Images, Tiny};
use crate::train::data;

/// An image that the demonstration model knows.
fn known_image() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo/images");
    let mut images: Vec<PathBuf> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    images.sort();
    images
        .iter()
        .find(|p| p.extension().is_some_and(|e| e == "png" || e == "jpg"))
        .unwrap()
        .display()
        .to_string()
}

fn read(folder: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The rows of a list of the profile by a member of theirs.
fn names(list: &Value, member: &str) -> HashSet<String> {
    list.as_array().unwrap().iter().map(|row| row[member].as_str().unwrap().to_owned()).collect()
}

/// The numbers fit together, and the trace has what Perfetto needs.
fn check(folder: &Path) -> Value {
    let profile = read(folder, "profile.json");
    let ns = |name: &str| profile[name].as_u64().unwrap();
    assert_eq!(ns("kernel_ns") + ns("gap_ns"), ns("wall_ns"));
    assert!(ns("kernel_ns") > 0 && ns("dropped") == 0);
    let top =
        profile["phases"].as_array().unwrap().iter().filter(|p| !p["path"].as_str().unwrap().contains('/'));
    assert_eq!(top.map(|p| p["ns"].as_u64().unwrap()).sum::<u64>(), ns("wall_ns"));

    let trace = read(folder, "trace.json");
    let events = trace["traceEvents"].as_array().unwrap();
    let kernels = events.iter().filter(|e| e["ph"] == "X" && e["cat"] == "op");
    let mut calls = 0;
    for kernel in kernels {
        calls += 1;
        assert!(
            kernel["ts"].is_number() && kernel["dur"].is_number() && kernel["tid"].is_number(),
            "{kernel}"
        );
        assert!(kernel["args"]["shapes"].as_str().unwrap().contains("->"), "{kernel}");
    }
    let operations = profile["operations"].as_array().unwrap();
    assert_eq!(calls, operations.iter().map(|row| row["calls"].as_u64().unwrap()).sum::<u64>());
    assert!(events.iter().any(|e| e["ph"] == "C") && events.iter().any(|e| e["ph"] == "M"));

    let page = std::fs::read_to_string(folder.join("index.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("By operation") && page.ends_with("</html>\n"));
    profile
}

#[test]
fn a_report_of_the_demonstration_model() {
    let (image, files) = (known_image(), Images::new());
    let folder = files.path().join("profile");
    let out = folder.to_str().unwrap();
    let plain = roentgen(["report", &image]).ok();
    let profiled = roentgen(["profile", "--out", out, "report", &image]).ok();
    assert_eq!(profiled.stdout, plain.stdout, "the command says what it always says");
    profiled.says(&["By phase", "By operation", "matmul", "trace.json"]);

    let profile = check(&folder);
    assert_eq!(profile["title"], format!("report {image}"));
    let phases = names(&profile["phases"], "path");
    for phase in ["load", "image", "vision", "prefill", "decode"] {
        assert!(phases.contains(phase), "{phase} in {phases:?}");
    }
    let folded = names(&profile["folded"], "name");
    for module in [
        "model.text_model.layers.*.mlp.gate_proj",
        "model.vision_model.encoder.layers.*.self_attn",
        "lm_head",
    ] {
        assert!(folded.contains(module), "{module} in {folded:?}");
    }
    assert!(names(&profile["modules"], "name").contains("model.text_model.layers.1.mlp"));

    // It is not written over by chance.
    let again = ["profile", "--out", out, "report", &image];
    roentgen(again).fails(&["has a profile already", "--force"]);
    roentgen(["profile", "--out", out, "--force", "report", &image]).ok();
}

#[test]
fn a_training_run() {
    let (files, config) = data();
    let folder = files.path().join("profile");
    let out = folder.to_str().unwrap();
    let summary = roentgen(["profile", "--out", out, "train", &config, "--json"]).ok().json();
    assert_eq!(summary["steps"], 4);
    let profile = check(&folder);
    let phases = names(&profile["phases"], "path");
    for phase in ["prepare", "forward", "forward/vision", "backward", "optimizer", "checkpoint", "export"] {
        assert!(phases.contains(phase), "{phase} in {phases:?}");
    }
    let step = profile["phases"].as_array().unwrap().iter().find(|p| p["path"] == "backward").unwrap();
    assert_eq!(step["calls"], 4);
    assert!(names(&profile["operations"], "name").contains("adamw"));
}

#[test]
fn global_options_and_failures_pass_through() {
    let (tiny, images) = (Tiny::new(), Images::new());
    let image = images.gradient("a.png", 40, 50).display().to_string();
    let folder = images.path().join("profile");
    let out = folder.to_str().unwrap();
    let args = [
        "profile",
        "--out",
        out,
        "report",
        &image,
        "--model",
        tiny.name(),
        "--max-new-tokens",
        "4",
        "--json",
    ];
    let outcome = roentgen(args.iter().chain(&["-v", "--threads", "1"])).ok();
    assert_eq!(outcome.json()["file"], image.as_str());
    outcome.says(&["first token", "By phase"]);

    let missing = images.path().join("failed");
    let args = ["profile", "--out", missing.to_str().unwrap(), "report", "nowhere.png"];
    let outcome = roentgen(args).fails(&["nowhere.png"]);
    outcome.says(&["in all"]);
    assert!(missing.join("index.html").is_file(), "what there was is written");
    assert_eq!(roentgen(["profile", "profile", "report", &image]).code, 2);
    assert_eq!(roentgen(["profile"]).code, 2);
}

/// Ctrl-C ends the command; the profile of what ran is there.
#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_profile() {
    use std::io::Read;
    use std::process::Stdio;

    let (tiny, files) = (Tiny::new(), Images::new());
    tiny.edit_config(|config| config["text_config"]["max_position_embeddings"] = 1_000_000.into());
    let folder = files.path().join("profile");
    let args = ["generate", "--model", tiny.name(), "--prompt", "User:", "--max-new-tokens", "900000"];
    let mut child = crate::program::command()
        .args(["profile", "--out", folder.to_str().unwrap()])
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The first token comes from the prompt; after some more it is decoding.
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 64]).unwrap();
    let asked = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(asked.success());
    std::io::copy(&mut stdout, &mut std::io::sink()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let profile = check(&folder);
    assert!(names(&profile["phases"], "path").contains("decode"));
}
