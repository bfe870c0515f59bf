//! Training on a GPU, wgpu's and CUDA's: the processor's loss curve, its checkpoints, and a device that runs out of memory.

mod common;

use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::qlora::{Tiny, adapter};
use cuda_host::{How, again};
use engine::{Device, Wgpu};
use roentgen_oracle::gpu;
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

/// All of the demonstration model's parameters in f32. `ROENTGEN_TEST_STEPS` sets the number of steps: software GPUs need
/// seconds for each.
#[test]
fn the_demonstration_models_losses_follow_the_processors() {
    let Some(gpu) = gpu::gpu() else { return };
    let steps = std::env::var("ROENTGEN_TEST_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/demo");
    let folder = tempfile::tempdir().unwrap();
    let mut rows = String::new();
    for (i, image) in ["nih-00004621_000", "nih-00015599_000", "nih-00028558_000"].iter().enumerate() {
        let path = demo.join(format!("images/{image}.jpg"));
        let row = serde_json::json!({
            "id": format!("c{i}"),
            "split": "train",
            "image_path": path,
            "image_labels": ["thorax", "x_ray"],
            "gender": "Female",
            "age": 40 + i,
            "image_caption": format!("Clear lungs in view {i}."),
        });
        rows.push_str(&row.to_string());
        rows.push('\n');
    }
    std::fs::write(folder.path().join("rows.jsonl"), rows).unwrap();
    let curve = |device: &Device, out: &str| {
        let text = format!(
            "out = {out:?}\nprecision = \"f32\"\n[model]\nfolder = {:?}\n[data]\nfiles = [\"rows.jsonl\"]\n\
             [optimizer]\nlr = 5e-4\n[schedule]\nwarmup_steps = 2\n\
             [training]\nbatch_size = 3\naccumulation = 1\nepochs = {steps}\nsample_count = 0\n",
            demo.display().to_string()
        );
        let config = TrainConfig::from_toml(&text, "demo.toml", folder.path(), &[]).unwrap();
        losses(&config, device, false, usize::MAX).0
    };
    let (ours, theirs) = (curve(&gpu, "gpu"), curve(&Device::cpu(), "cpu"));
    assert_eq!(theirs.len(), steps);
    assert!(theirs[steps - 1] < theirs[0]);
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
