//! Training on a GPU, wgpu's and CUDA's: the processor's loss curve, its checkpoints, and a device that runs out of memory.

mod common;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use common::qlora::{Tiny, adapter};
use cuda_host::{How, again};
use engine::{Device, Wgpu};
use roentgen_oracle::gpu;
use serde_json::{Value, json};
use train::{Error, Options, Summary, TrainConfig, run};

/// Most relative difference between the losses of two devices at the same step, in f32.
const TOLERANCE: f64 = 1e-3;

/// Losses of the steps of a run that ends at step `until` or by itself.
fn losses(config: &TrainConfig, device: &Device, resume: bool, until: usize) -> (Vec<f64>, Summary) {
    let (stop, losses) = (AtomicBool::new(false), RefCell::new(Vec::new()));
    let seen = |record: &train::metrics::StepRecord| {
        losses.borrow_mut().push(record.loss);
        if record.step >= until {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let options = Options {
        device: Some(device),
        resume,
        stop: Some(&stop),
        on_step: Some(&seen),
        ..Options::default()
    };
    let summary = run(config, &options).unwrap();
    (losses.into_inner(), summary)
}

fn same_curve(ours: &[f64], theirs: &[f64]) {
    assert_eq!(ours.len(), theirs.len());
    let differences = ours.iter().zip(theirs).map(|(a, b)| ((a - b) / b).abs());
    let worst = differences.fold(0.0, f64::max);
    println!(
        "{} steps, loss {} to {}: largest relative difference {worst:.1e}",
        ours.len(),
        theirs[0],
        theirs[theirs.len() - 1]
    );
    assert!(worst <= TOLERANCE, "{ours:?} against {theirs:?}");
}

/// Rows that the demonstration model was trained on, with whole paths, or of its three pictures where those are not on
/// this machine. None is for validation: software GPUs need seconds for each step.
fn rows() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let shared = std::env::var_os("ROENTGEN_SHARED").map_or_else(|| root.join("../shared"), PathBuf::from);
    let mut rows: Vec<Value> = Vec::new();
    for set in ["data/cxr", "data/cxr-more"] {
        let Ok(text) = std::fs::read_to_string(shared.join(set).join("cases.jsonl")) else { continue };
        rows.extend(text.lines().map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            row["image_path"] = json!(shared.join(set).join(row["image_path"].as_str().unwrap()));
            row
        }));
    }
    rows.retain(|row| row["split"] == "train");
    if rows.is_empty() {
        println!(
            "SKIP: the demonstration model's own data are not on this machine; its three pictures stand in"
        );
        rows.extend(["nih-00004621_000", "nih-00015599_000", "nih-00028558_000"].iter().enumerate().map(
            |(i, image)| {
                json!({
                    "id": format!("c{i}"),
                    "split": "train",
                    "image_path": root.join(format!("assets/demo/images/{image}.jpg")),
                    "image_labels": ["thorax", "x_ray"],
                    "gender": "Female",
                    "age": 40 + i,
                    "image_caption": format!("Clear lungs in view {i}."),
                })
            },
        ));
    }
    rows.iter().map(|row| format!("{row}\n")).collect()
}

/// The demonstration model's recipe from its first step: all parameters, in f32. `ROENTGEN_TEST_STEPS` sets how many.
///
/// A trained model and few samples would not do: `AdamW` then turns rounding into steps of full size for parameters whose
/// gradient is zero, and after 18 steps two instruction sets of one processor are 2e-4 apart.
#[test]
fn the_demonstration_models_losses_follow_the_processors() {
    let Some(gpu) = gpu::gpu() else { return };
    let steps = std::env::var("ROENTGEN_TEST_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rows.jsonl"), rows()).unwrap();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/demo.toml");
    let curve = |device: &Device, out: &str| {
        let ours = folder.path().display();
        let overrides = [
            ("out", format!("{:?}", format!("{ours}/{out}"))),
            ("data.root", format!("{:?}", ours.to_string())),
            ("data.files", "[\"rows.jsonl\"]".to_owned()),
            ("training.epochs", "100".to_owned()),
            ("training.sample_count", "0".to_owned()),
        ];
        let overrides = overrides.map(|(key, value)| (key.to_owned(), value));
        let config = TrainConfig::from_file(&recipe, &overrides).unwrap();
        losses(&config, device, false, steps).0
    };
    let (ours, theirs) = (curve(&gpu, "gpu"), curve(&Device::cpu(), "cpu"));
    assert_eq!(theirs.len(), steps);
    same_curve(&ours, &theirs);
}

#[test]
fn a_run_goes_on_where_the_other_device_stopped() {
    let Some(gpu) = gpu::gpu() else { return };
    // The emulator needs seconds for each step.
    let (epochs, half) = if gpu.backend::<Wgpu>().is_some() { ("3", 3) } else { ("1", 1) };
    let tiny = || Tiny::new(&[("precision", "f32"), ("training.epochs", epochs)]);
    let whole = tiny();
    let (theirs, _) = losses(&whole.config, &Device::cpu(), false, usize::MAX);
    for order in [[&Device::cpu(), &gpu], [&gpu, &Device::cpu()]] {
        let moved = tiny();
        let (mut ours, summary) = losses(&moved.config, order[0], false, half);
        assert!(summary.stopped);
        let (rest, summary) = losses(&moved.config, order[1], true, usize::MAX);
        assert!(!summary.stopped);
        ours.extend(rest);
        same_curve(&ours, &theirs);
    }
}

/// A driver's reset, or a GPU that is pulled out: the run ends with an error that says so, its last checkpoint stands, and
/// continued on a fresh device it comes to the bytes of a run that was never disturbed.
#[test]
fn a_lost_device_is_an_error_that_a_run_survives() {
    let Some(gpu) = gpu::open() else { return };
    let tiny = || Tiny::new(&[("training.checkpoint_every", "1")]);
    let straight = tiny();
    losses(&straight.config, &gpu, false, usize::MAX);

    let disturbed = tiny();
    let lose = |record: &train::metrics::StepRecord| {
        if record.step == 3 {
            gpu.backend::<Wgpu>().unwrap().lose();
        }
    };
    let options = Options { device: Some(&gpu), on_step: Some(&lose), ..Options::default() };
    let text = run(&disturbed.config, &options).unwrap_err().to_string();
    assert!(text.contains("the GPU was lost") && text.contains("--resume"), "{text}");
    // What is left of it can do nothing more, and says so.
    let again = Options { device: Some(&gpu), resume: true, ..Options::default() };
    assert!(run(&disturbed.config, &again).unwrap_err().to_string().contains("the GPU was lost"));

    let fresh = gpu::open().unwrap();
    let (rest, summary) = losses(&disturbed.config, &fresh, true, usize::MAX);
    assert!(!summary.stopped && !rest.is_empty());
    assert!(adapter(&straight.config.out) == adapter(&disturbed.config.out));
}

/// What a step of QLoRA launches, for docs/benchmarks.md.
#[test]
fn launches_of_a_training_step_are_counted() {
    let Some(gpu) = gpu::open() else { return };
    let backend = gpu.backend::<Wgpu>().unwrap();
    let tiny = Tiny::new(&[("training.accumulation", "1"), ("training.epochs", "2")]);
    let counts = RefCell::new(Vec::new());
    let seen = |_: &train::metrics::StepRecord| {
        counts.borrow_mut().push([backend.launches(), backend.recordings()]);
    };
    let options = Options { device: Some(&gpu), on_step: Some(&seen), ..Options::default() };
    run(&tiny.config, &options).unwrap();
    let steps: Vec<[u64; 2]> =
        counts.into_inner().windows(2).map(|w| [w[1][0] - w[0][0], w[1][1] - w[0][1]]).collect();
    println!("launches and recordings of steps after the first: {steps:?}");
    assert!(
        steps.len() >= 3 && steps.iter().all(|[launches, _]| (100..1000).contains(launches)),
        "{steps:?}"
    );
}

/// The run ends with an error that says what was wanted, its last checkpoint stands, and continued with more memory it
/// comes to the bytes of a run that was never disturbed.
#[test]
fn a_full_device_is_an_error_that_a_run_survives() {
    let Some(gpu) = gpu::open() else { return };
    let tiny = || Tiny::new(&[("training.checkpoint_every", "1")]);
    let straight = tiny();
    losses(&straight.config, &gpu, false, usize::MAX);

    let disturbed = tiny();
    let backend = gpu.backend::<Wgpu>().unwrap();
    let fill = |record: &train::metrics::StepRecord| {
        if record.step == 3 {
            gpu.trim();
            backend.limit_memory(backend.buffer_bytes()[0]);
        }
    };
    let options = Options { device: Some(&gpu), on_step: Some(&fill), ..Options::default() };
    let error = run(&disturbed.config, &options).unwrap_err();
    assert!(
        matches!(&error, Error::Engine(engine::Error::OutOfMemory { .. }) | Error::Model(_)),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("wgpu") && text.contains("bytes"), "{text}");
    backend.limit_memory(u64::MAX);
    let (rest, summary) = losses(&disturbed.config, &gpu, true, usize::MAX);
    assert!(!summary.stopped && !rest.is_empty());
    assert!(adapter(&straight.config.out) == adapter(&disturbed.config.out));
}

/// A run moves between the processor and the stand-in for CUDA's driver.
#[test]
fn on_cuda() {
    again(&["a_run_goes_on_where_the_other_device_stopped"], How::SCHEDULES[1]);
}
