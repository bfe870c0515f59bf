//! Adapter runs on a 4-bit base: what is trained, what is not, and that a run is a function of its file.

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::options;
use common::qlora::{Tiny, adapter, logits};
use cuda_host::{How, again};
use engine::Device;
use engine::cpu::threads::{threads, with_threads};
use engine::weights::{FileDType, Weights, write_safetensors};
use model::lora::Adapter;
use model::nn::Weight;
use roentgen_oracle::gpu::device;
use train::checkpoint::Checkpoints;
use train::config::TrainConfig;
use train::evaluate::{Inputs, Source, SystemSpec, generate_reports, open_system};
use train::metrics::StepRecord;
use train::optimizer::Optimizer;
use train::{Error, Options, run};

const F32: (&str, &str) = ("precision", "f32");

fn names(path: &Path) -> Vec<String> {
    Weights::open(path).unwrap().names().map(str::to_owned).collect()
}

#[test]
fn the_loss_falls_and_only_the_adapter_changes() {
    let vision = "base_model.model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_B.weight";
    let decoder = "base_model.model.model.text_model.layers.1.mlp.down_proj.lora_B.weight";
    let connector = "base_model.model.model.connector.modality_projection.proj.weight";
    let long = [("training.epochs", "20")];
    for (tiny, expected) in [
        (Tiny::new(&long), &[vision, decoder, connector][..]),
        (Tiny::text(&long), &["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"][..]),
    ] {
        let base = std::fs::read(tiny.path("base/model.safetensors")).unwrap();
        let start = tiny.setup();
        let lora = start.adapter.as_ref().unwrap();
        assert!(start.parameters.iter().all(|(_, t)| !t.is_tracked()), "a parameter of the base is trained");
        let quantised = |w: &Weight| matches!(w, Weight::Quantized(_));
        let in_4_bits = start.network.linears().iter().filter(|l| quantised(&l.weight)).count();
        // Seven of each decoder layer, six of the tower's; the head and the connector are left as they are.
        assert_eq!(in_4_bits, if expected.len() == 3 { 20 } else { 14 });

        let (summary, steps) = tiny.steps();
        assert_eq!((summary.steps, summary.parameters), (40, lora.parameter_count()));
        let (first, last) = (steps[0].loss, steps[39].loss);
        assert!(last < 0.85 * first, "loss {first} to {last}");

        assert!(base == std::fs::read(tiny.path("base/model.safetensors")).unwrap());
        let out = &tiny.config.out;
        let mut trained: Vec<_> = lora.parameters().into_iter().map(|(name, _)| name).collect();
        trained.sort();
        assert_eq!(names(&out.join("adapter/adapter_model.safetensors")), trained);
        for name in expected {
            assert!(trained.iter().any(|n| n == name), "{name} is not in {trained:#?}");
        }
        // Every tensor of it moved.
        let saved = Weights::open(out.join("adapter/adapter_model.safetensors")).unwrap();
        for (name, before) in lora.parameters() {
            let after = saved.require(&name).unwrap().to_f32().unwrap();
            assert!(
                after.iter().all(|x| x.is_finite()) && after != before.to_vec::<f32>().unwrap(),
                "{name}"
            );
        }
    }
}

/// The reports that the run shows are those of its adapter on a base that is opened anew.
#[test]
fn what_was_learned_is_in_the_adapter() {
    let changes = [F32, ("training.epochs", "60"), ("training.sample_count", "4")];
    let tiny = Tiny::new(&changes);
    let summary = tiny.run();
    let config = &tiny.config;
    let q = config.quantization.as_ref().unwrap();
    let spec = SystemSpec {
        source: Source::Path(tiny.path("base")),
        dtype: Some(config.precision.into()),
        quantized: Some((q.config(), q.skipped())),
        adapter: summary.model.clone(),
        image: config.image.clone(),
    };
    let tuned = open_system(&spec, device()).unwrap();
    let base = open_system(&SystemSpec { adapter: None, ..spec }, device()).unwrap();
    let cases = train::data::Cases::read(&config.data).unwrap();
    let answers = |bundle| generate_reports(bundle, &cases.cases, Inputs::ALL, &mut |_| {}).unwrap();
    let shown = std::fs::read_to_string(config.out.join("samples/step-000120.jsonl")).unwrap();
    let shown: Vec<train::samples::Report> =
        shown.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tuned = answers(&tuned);
    assert_eq!(tuned.len(), 4);
    for (tuned, shown) in tuned.iter().zip(&shown) {
        assert_eq!((&tuned.generated, &tuned.expected), (&shown.generated, &shown.expected));
    }
    assert!(tuned.iter().any(|t| t.generated.starts_with("Image Labels: thorax")), "{tuned:#?}");
    assert!(answers(&base).iter().all(|b| tuned.iter().all(|t| t.generated != b.generated)));
}

#[test]
fn threads_and_checkpointing_change_no_bit() {
    for (precision, text) in [("bf16", false), ("f32", true), ("mixed", false)] {
        let make = |checkpointing: &str| {
            let changes = [("precision", precision), ("training.checkpointing", checkpointing)];
            if text { Tiny::text(&changes) } else { Tiny::new(&changes) }
        };
        let adapters: Vec<_> = [(1, "true"), (2, "true"), (3, "true"), (2, "false")]
            .into_iter()
            .map(|(n, checkpointing)| {
                let tiny = make(checkpointing);
                with_threads(n, || {
                    assert_eq!(threads(), n);
                    tiny.run();
                });
                tiny.adapter()
            })
            .collect();
        for (i, other) in adapters.iter().enumerate() {
            assert!(*other == adapters[0], "run {i} ({precision})");
        }
        // The comparison sees a change: another seed is another adapter.
        let mut other = make("true");
        other.config.seed += 1;
        other.run();
        assert!(other.adapter() != adapters[0]);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &to) } else { drop(std::fs::copy(entry.path(), to)) }
    }
}

/// The run's folder is copied in the middle of every step: what a killed process leaves. Checkpoints are written after
/// each second step, so half of the kills are right before one and half right after.
#[test]
fn a_killed_run_goes_on_to_the_same_bytes() {
    let tiny = Tiny::new(&[("training.checkpoint_every", "2"), ("data.case_dropout", "0.5")]);
    let kept = |step: usize| TrainConfig { out: tiny.path(&format!("killed-{step}")), ..tiny.config.clone() };
    let seen = |record: &StepRecord| copy(&tiny.config.out, &kept(record.step).out);
    let summary = run(&tiny.config, &Options { on_step: Some(&seen), ..options() }).unwrap();
    assert_eq!(summary.steps, 6);
    let state = tiny.config.out.join("checkpoints/step-000006/optimizer.safetensors");
    let state = Weights::open(state).unwrap();
    assert!(state.entries().iter().any(|e| e.dtype() == FileDType::U8), "8-bit moments are the default");
    for step in 1..=6 {
        let config = kept(step);
        let continued = run(&config, &Options { resume: true, ..options() }).unwrap();
        assert_eq!((continued.steps, continued.stopped), (6, false));
        assert!(adapter(&config.out) == tiny.adapter(), "killed in step {step}");
        let metrics = std::fs::read_to_string(config.out.join("metrics.jsonl")).unwrap();
        assert_eq!(metrics.matches("\"kind\":\"step\"").count(), 6, "killed in step {step}");
    }
    // Stopped by hand after the third, then with another adapter.
    let stop = AtomicBool::new(false);
    let third = |record: &StepRecord| stop.store(record.step >= 3, Ordering::Relaxed);
    let mut config = TrainConfig { out: tiny.path("stopped"), ..tiny.config.clone() };
    let stopping = Options { stop: Some(&stop), on_step: Some(&third), ..options() };
    assert!(run(&config, &stopping).unwrap().model.is_none());
    let resume = Options { resume: true, ..options() };
    run(&config, &resume).unwrap();
    assert!(adapter(&config.out) == tiny.adapter());
    config.lora.as_mut().unwrap().r = 4;
    let said = run(&config, &resume).unwrap_err().to_string();
    assert!(said.contains("lora.r") && said.contains("step-000006"), "{said}");
}

/// The same masks and rows in all precisions: the losses differ by rounding, which training amplifies.
#[test]
fn precisions_agree() {
    for text in [false, true] {
        let losses = |precision: &str| -> Vec<f64> {
            let changes = [("precision", precision), ("training.epochs", "6"), ("optimizer.lr", "5e-3")];
            let tiny = if text { Tiny::text(&changes) } else { Tiny::new(&changes) };
            tiny.steps().1.iter().map(|step| step.loss).collect()
        };
        let exact = losses("f32");
        assert!(exact[11] < 0.96 * exact[0], "{exact:?}");
        for precision in ["bf16", "mixed"] {
            let rounded = losses(precision);
            assert!(rounded != exact, "{precision} computes in f32");
            for (step, (a, b)) in exact.iter().zip(&rounded).enumerate() {
                assert!((a - b).abs() < 1e-3 * a, "step {step}: f32 {a}, {precision} {b}");
            }
        }
    }
}

/// Micro-batches of one row count different numbers of tokens, so that the two averages are not the same; that over
/// tokens does not see how a step is cut up.
#[test]
fn losses_are_averaged_as_asked() {
    let losses = |rows: &str, parts: &str, normalisation: &str| -> Vec<f64> {
        let tiny = Tiny::new(&[
            F32,
            ("lora.dropout", "0"),
            ("loss.over", "answer"),
            ("loss.normalisation", normalisation),
            ("training.batch_size", rows),
            ("training.accumulation", parts),
        ]);
        tiny.steps().1.iter().map(|step| step.loss).collect()
    };
    let whole = losses("4", "1", "tokens");
    let tokens = losses("1", "4", "tokens");
    let means = losses("1", "4", "micro_batches");
    assert_eq!(whole.len(), 3);
    for step in 0..3 {
        assert!((whole[step] - tokens[step]).abs() < 1e-3, "{whole:?} {tokens:?}");
        assert!((whole[step] - means[step]).abs() > 1e-3, "{whole:?} {means:?}");
    }
}

#[test]
fn adapters_of_every_kind_open_again() {
    let dora = [("lora.dora", "true")];
    let rslora = [("lora.rslora", "true"), ("precision", "f32")];
    let patterns = [
        ("lora.rank_pattern", "{ q_proj = 4, 'layers\\.0\\.mlp\\.up_proj' = 2 }"),
        ("lora.alpha_pattern", "{ k_proj = 3.5 }"),
        ("lora.exclude_modules", "['o_proj']"),
        ("lora.init", "kaiming"),
        ("quantization.format", "fp4"),
        ("quantization.double", "false"),
    ];
    let both = [("lora.dora", "true"), ("lora.rslora", "true"), ("precision", "mixed")];
    for changes in [&[][..], &dora, &rslora, &patterns, &both] {
        let tiny = Tiny::new(changes);
        let summary = tiny.run();
        // The run as it ended, from its checkpoint.
        let ended = tiny.setup();
        let fresh = logits(&ended);
        let optimizer = Optimizer::new(ended.trained(), &tiny.config.optimizer).unwrap();
        let checkpoints = Checkpoints::new(tiny.config.out.join("checkpoints"), 2);
        checkpoints.load(&optimizer).unwrap().unwrap();
        let trained = logits(&ended);
        assert!(fresh != trained, "{changes:?}");
        ended.network.detach();
        assert!(logits(&ended) != trained);
        // Its folder, on another copy of the base.
        let opened = tiny.setup();
        let adapter = Adapter::open(&summary.model.unwrap(), &opened.network).unwrap();
        assert_eq!((&adapter.warnings[..], adapter.parameter_count()), (&[][..], summary.parameters));
        opened.network.attach(&adapter).unwrap();
        assert!(logits(&opened) == trained, "{changes:?}");
    }
}

/// Puts a NaN into a tensor of the base.
fn spoil(tiny: &Tiny, name: &str) {
    let path = tiny.path("base/model.safetensors");
    let weights = Weights::open(&path).unwrap();
    let mut tensors: Vec<_> = weights
        .entries()
        .iter()
        .map(|e| (e.name().to_owned(), e.dtype(), e.shape().to_vec(), e.bytes().to_vec()))
        .collect();
    drop(weights);
    let spoilt = tensors.iter_mut().find(|t| t.0 == name).unwrap();
    assert_eq!(spoilt.1, FileDType::F32);
    spoilt.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let list = tensors.iter().map(|(name, dtype, shape, bytes)| (&name[..], *dtype, &shape[..], &bytes[..]));
    write_safetensors(&path, list, &std::collections::BTreeMap::new()).unwrap();
}

#[test]
fn a_nan_in_the_base_stops_the_run() {
    let tiny = Tiny::new(&[("training.checkpoint_every", "1")]);
    let stop = AtomicBool::new(false);
    let second = |record: &StepRecord| stop.store(record.step >= 2, Ordering::Relaxed);
    let stopping = Options { stop: Some(&stop), on_step: Some(&second), ..options() };
    assert_eq!(run(&tiny.config, &stopping).unwrap().steps, 2);

    // A weight that stays in floats is first seen in the loss.
    spoil(&tiny, "model.text_model.layers.0.input_layernorm.weight");
    let resume = Options { resume: true, ..options() };
    let error = run(&tiny.config, &resume).unwrap_err();
    let said = error.to_string();
    match error {
        Error::NotFinite { step: 3, rows, last_good, .. } => {
            assert!(rows.len() == 2 && rows.iter().all(|id| id.starts_with("row-")), "{rows:?}");
            assert!(last_good.contains("step-000002"), "{last_good}");
        }
        other => panic!("{other}"),
    }
    assert!(said.starts_with("step 3: the loss is NaN") && said.contains("row-"), "{said}");
    assert!(!tiny.config.out.join("adapter").exists());
    let checkpoints = Checkpoints::new(tiny.config.out.join("checkpoints"), 2);
    assert_eq!(checkpoints.steps().unwrap(), [1, 2], "no checkpoint of what is not finite");

    // One that is to be quantised is found by name before anything runs.
    let tiny = Tiny::new(&[]);
    let name = "model.text_model.layers.1.mlp.up_proj.weight";
    spoil(&tiny, name);
    let said = run(&tiny.config, &options()).unwrap_err().to_string();
    assert!(said.contains(name) && said.contains("not finite"), "{said}");
}

/// The losses of the first steps of each kind on the tests' device are the processor's.
#[test]
fn each_kind_takes_the_processors_steps() {
    let kinds: [&[(&str, &str)]; 4] = [
        &[],
        &[("lora.dora", "true")],
        &[("lora.rslora", "true"), F32],
        &[("quantization.format", "fp4"), ("quantization.double", "false"), ("precision", "mixed")],
    ];
    for changes in kinds {
        let short = [("training.epochs", "1"), ("schedule.warmup_steps", "0")];
        let changes = [changes, &short].concat();
        let losses = |device: &Device| {
            let (tiny, losses) = (Tiny::new(&changes), std::cell::RefCell::new(Vec::new()));
            let seen = |record: &StepRecord| losses.borrow_mut().push(record.loss);
            let options = Options { device: Some(device), on_step: Some(&seen), ..Options::default() };
            run(&tiny.config, &options).unwrap();
            losses.into_inner()
        };
        let (ours, theirs) = (losses(device()), losses(&Device::cpu()));
        assert_eq!((ours.len(), theirs.len()), (2, 2));
        for (a, b) in ours.iter().zip(&theirs) {
            assert!((a - b).abs() <= 2e-3 * b, "{changes:?}: {ours:?} against {theirs:?}");
        }
    }
}

/// On the stand-in for CUDA's driver, where a step takes seconds.
#[test]
fn on_cuda() {
    again(&["each_kind_takes_the_processors_steps"], How::SCHEDULES[3]);
}
