//! A run that was stopped and continued gives the bytes of one that was not.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::options;
use engine::cpu::threads::with_threads;
use engine::weights::{FileDType, Weights};
use roentgen_oracle::gpu::device;
use train::checkpoint::Checkpoints;
use train::config::{OptimizerKind, OptimizerSection, StatePlace};
use train::data::Cases;
use train::metrics::StepRecord;
use train::optimizer::Optimizer;
use train::setup::Setup;
use train::{Options, Summary, TrainConfig, run};

/// Everything random switched on, and steps that do not divide the epoch.
const CHANGES: [(&str, &str); 6] = [
    ("data.case_dropout", "0.5"),
    ("image.augmentation.shift", "0.1"),
    ("image.augmentation.brightness", "0.2"),
    ("training.batch_size", "1"),
    ("training.accumulation", "3"),
    ("training.epochs", "3"),
];

fn until(step: usize, config: &TrainConfig, resume: bool) -> Summary {
    let stop = AtomicBool::new(false);
    let seen = |record: &StepRecord| {
        if record.step >= step {
            stop.store(true, Ordering::Relaxed);
        }
    };
    run(config, &Options { resume, stop: Some(&stop), on_step: Some(&seen), ..options() }).unwrap()
}

fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("run/model/model.safetensors")).unwrap()
}

fn fresh(overrides: &[(&str, &str)]) -> (tempfile::TempDir, TrainConfig) {
    let folder = tempfile::tempdir().unwrap();
    common::data(folder.path());
    let mut all = CHANGES.to_vec();
    all.push(("training.export_dtype", "f32"));
    all.extend(overrides);
    let config = common::config(folder.path(), &all);
    (folder, config)
}

#[test]
fn six_steps_are_three_and_three_for_any_number_of_threads() {
    for precision in ["f32", "bf16"] {
        let change = [("precision", precision)];
        let (straight, config) = fresh(&change);
        assert_eq!(with_threads(1, || run(&config, &options())).unwrap().steps, 6);

        let (stopped, config) = fresh(&change);
        let first = with_threads(2, || until(3, &config, false));
        assert_eq!((first.steps, first.stopped), (3, true));
        assert!(first.model.is_none());
        let second = with_threads(2, || run(&config, &Options { resume: true, ..options() })).unwrap();
        assert_eq!((second.steps, second.stopped), (6, false));
        assert!(weights(straight.path()) == weights(stopped.path()), "weights differ ({precision})");

        // Each step is in the metrics once.
        let metrics = std::fs::read_to_string(stopped.path().join("run/metrics.jsonl")).unwrap();
        assert_eq!(metrics.matches("\"kind\":\"step\"").count(), 6);
    }
}

/// With 8-bit moments, also of the small tensors of this model, in memory first and then in a file; and with the
/// other kinds of state.
#[test]
fn every_kind_of_state_is_continued_from() {
    for (kind, momentum) in [("adamw_8bit", "0.0"), ("sgd", "0.9"), ("sgd", "0.0")] {
        // Some tensors have 8-bit moments, some f32.
        let change =
            [("optimizer.kind", kind), ("optimizer.momentum", momentum), ("optimizer.min_8bit_size", "1000")];
        let (straight, config) = fresh(&change);
        run(&config, &options()).unwrap();
        let (stopped, mut config) = fresh(&change);
        until(3, &config, false);
        config.optimizer.state = StatePlace::File;
        config.optimizer.state_file = Some(stopped.path().join("run/state.bin"));
        let second = run(&config, &Options { resume: true, ..options() }).unwrap();
        assert_eq!((second.steps, second.stopped), (6, false));
        assert!(weights(straight.path()) == weights(stopped.path()), "weights differ ({kind} {momentum})");
        assert!(!stopped.path().join("run/state.bin").exists());
        if kind == "adamw_8bit" {
            let state = stopped.path().join("run/checkpoints/step-000006/optimizer.safetensors");
            let state = Weights::open(state).unwrap();
            let kinds = |dtype| state.entries().iter().filter(|e| e.dtype() == dtype).count();
            assert!(kinds(FileDType::U8) > 4 && kinds(FileDType::F32) > kinds(FileDType::U8), "a mixture");
        }
    }
}

#[test]
fn another_kind_of_state_is_refused() {
    let (_folder, config) = fresh(&[("optimizer.kind", "adamw_8bit"), ("optimizer.min_8bit_size", "1000")]);
    until(2, &config, false);
    let resume = Options { resume: true, ..options() };
    let mut kind = config.clone();
    kind.optimizer.kind = Some(OptimizerKind::Adamw);
    let mut size = config.clone();
    size.optimizer.min_8bit_size = 10;
    for (other, key) in [(&kind, "optimizer.kind"), (&size, "optimizer.min_8bit_size")] {
        let said = run(other, &resume).unwrap_err().to_string();
        assert!(said.contains(key) && said.contains("step-000002"), "{said}");
    }

    // The files themselves are held against the state that is to take them, too.
    let checkpoints = Checkpoints::new(config.out.join("checkpoints"), 2);
    let load = |section: &OptimizerSection| {
        let cases = Cases::read(&config.data).unwrap();
        let setup = Setup::new(&config, &cases, &config.out.join("tokenizer.json"), device()).unwrap();
        checkpoints.load(&Optimizer::new(setup.trained(), section).unwrap())
    };
    assert_eq!(load(&config.optimizer).unwrap().unwrap().step, 2);
    let said = load(&kind.optimizer).unwrap_err().to_string();
    assert!(
        said.contains("\"adamw_8bit\"") && said.contains("\"adamw\"") && said.contains("step-"),
        "{said}"
    );
    let said = load(&size.optimizer).unwrap_err().to_string();
    assert!(said.contains("min_8bit_size") && said.contains("U8") && said.contains("F32"), "{said}");
}

#[test]
fn old_checkpoints_go_and_a_run_is_not_written_over() {
    let (folder, config) = fresh(&[("training.checkpoint_every", "1"), ("training.keep_checkpoints", "2")]);
    run(&config, &options()).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(folder.path().join("run/checkpoints"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["step-000005", "step-000006"]);
    let said = run(&config, &options()).unwrap_err().to_string();
    assert!(said.contains("--resume"), "{said}");
    // A finished run that is resumed has nothing to do.
    assert_eq!(run(&config, &Options { resume: true, ..options() }).unwrap().steps, 6);
}

#[test]
fn another_configuration_or_other_data_are_refused() {
    let (folder, config) = fresh(&[]);
    until(2, &config, false);
    let resume = Options { resume: true, ..options() };
    let mut other = config.clone();
    other.optimizer.lr = 1.0;
    let said = run(&other, &resume).unwrap_err().to_string();
    assert!(said.contains("optimizer.lr"), "{said}");
    let rows = folder.path().join("rows.jsonl");
    let text = std::fs::read_to_string(&rows).unwrap();
    std::fs::write(&rows, text.split_once('\n').unwrap().1).unwrap();
    let said = run(&config, &resume).unwrap_err().to_string();
    assert!(said.contains("the data changed"), "{said}");
}
