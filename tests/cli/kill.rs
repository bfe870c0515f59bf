//! SIGKILL at any moment of a run: what is on the disk is whole, and the run that goes on ends with the same bytes.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use engine::Rng;

use crate::program::{command, json_lines, roentgen};
use crate::train::data;

const KILLS: usize = 20;

/// A short run with everything in it that is written: checkpoints, validation, samples, caches.
const CHANGES: [&str; 9] = [
    "training.epochs=30",
    "training.checkpoint_every=1",
    "training.export_dtype=f32",
    "training.sample_count=1",
    "training.sample_tokens=4",
    "data.case_dropout=0.5",
    "image.augmentation.shift=0.1",
    "schedule.warmup_steps=2",
    "optimizer.lr=0.01",
];

fn arguments(config: &str) -> Vec<String> {
    let mut arguments = vec!["train".to_owned(), config.to_owned(), "--resume".to_owned()];
    for change in CHANGES {
        arguments.extend(["--set".to_owned(), change.to_owned()]);
    }
    arguments
}

/// Every file of the run by its name. What tells the time or the place is made the same.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let run = folder.join("run");
    let mut files = BTreeMap::new();
    let mut folders = vec![run.clone()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&run).unwrap().display().to_string();
            let bytes = std::fs::read(&path).unwrap();
            let bytes = match name.as_str() {
                // Starts, seconds, bytes held: these may differ.
                "environment.json" | "throughput.svg" | "memory.svg" | "index.html" => Vec::new(),
                "metrics.jsonl" => {
                    let mut lines = json_lines(std::str::from_utf8(&bytes).unwrap());
                    for line in &mut lines {
                        let fields = line.as_object_mut().unwrap();
                        fields.retain(|key, _| !["tokens_per_second", "peak_memory"].contains(&key.as_str()));
                    }
                    lines.iter().map(|line| format!("{line}\n")).collect::<String>().into_bytes()
                }
                _ if path.extension().is_some_and(|e| e == "json" || e == "toml") => {
                    let text = String::from_utf8(bytes).unwrap();
                    text.replace(folder.to_str().unwrap(), "HERE").into_bytes()
                }
                _ => bytes,
            };
            files.insert(name, bytes);
        }
    }
    files
}

/// Steps that the run's metrics hold.
fn steps(folder: &Path) -> usize {
    let metrics = std::fs::read_to_string(folder.join("run/metrics.jsonl")).unwrap_or_default();
    metrics.matches("\"kind\":\"step\"").count()
}

#[test]
fn a_run_killed_at_any_moment_ends_with_the_same_bytes() {
    let (straight, config) = data();
    let begun = Instant::now();
    roentgen(arguments(&config)).ok();
    let steps = steps(straight.path());
    let (whole, step) = (begun.elapsed(), begun.elapsed() / steps as u32);

    let (killed, config) = data();
    let mut rng = Rng::new(7);
    let mut moments = Vec::new();
    for kill in 0..KILLS {
        let before = self::steps(killed.path());
        let mut child =
            command().args(arguments(&config)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if kill % 3 == 0 {
            // From the first instructions of the program on.
            std::thread::sleep(step.mul_f64(rng.uniform() * 4.0));
        } else {
            // Some steps later, and a random part of a step: by what the run has done, not by the clock, which other
            // tests share.
            let target = before + 1 + rng.below(2);
            let patience = Instant::now();
            while self::steps(killed.path()) < target && child.try_wait().unwrap().is_none() {
                assert!(patience.elapsed() < whole.max(Duration::from_mins(1)), "no step in {patience:?}");
                std::thread::sleep(Duration::from_micros(200));
            }
            std::thread::sleep(step.mul_f64(rng.uniform()));
        }
        // SIGKILL.
        let _ = child.kill();
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "kill {kill} of {KILLS} came too late: {status}");
        moments.push(self::steps(killed.path()));
    }
    roentgen(arguments(&config)).ok();

    moments.dedup();
    assert!(moments.len() >= KILLS / 3, "the kills did not fall into different steps: {moments:?}");
    let (want, got) = (contents(straight.path()), contents(killed.path()));
    assert_eq!(want.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    for (name, bytes) in &want {
        assert!(got[name] == *bytes, "{name} differs");
    }
}
