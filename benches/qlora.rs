//! One `QLoRA` step of a SmolVLM shape with random weights: one tile and 100 text tokens, NF4 with double
//! quantisation, rank-8 adapters with dropout 0.1 on the paper's seven layers of both towers, `AdamW`.
//!
//! `cargo bench --bench qlora -- [--model 256m|2.2b] [--checkpointing] [--recipe n|k] [--dropout P] [--steps N]
//! [--image FILE] [--text-tokens N] [--json] [--profile]`
//!
//! With `--image` the tiles are those of a real image in the model's own preprocessing, as many as it gives. The peak
//! of tensor bytes is compared with the plan that `inspect` prints.
//!
//! `benches/rivals/torch_qlora.py` times the same step of PyTorch, PEFT and bitsandbytes.

use std::path::PathBuf;
use std::time::Instant;

use bench::profile::Profile;
use engine::profile::{Recorder, phase};
use engine::{Cpu, DType, Device, QuantConfig, Result, Rng, Tensor};
use model::bundle::network;
use model::config::{Config, PreprocessorConfig, TrainingStep};
use model::image::{DecodeOptions, Idefics3Processor, decode_file};
use model::loader::Loader;
use model::lora::{Adapter, LoraConfig};
use model::quantize::SKIPPED;
use model::smolvlm::right_padded;
use train::config::OptimizerSection;
use train::optimizer::{Optimizer, clip_factor};

#[allow(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Args {
    model: String,
    checkpointing: bool,
    mixed: bool,
    dropout: f64,
    steps: usize,
    image: Option<PathBuf>,
    text_tokens: usize,
    json: bool,
    profile: bool,
}

fn arguments() -> Args {
    let mut args = Args {
        model: "256m".into(),
        checkpointing: false,
        mixed: false,
        dropout: 0.1,
        steps: 5,
        image: None,
        text_tokens: 100,
        json: false,
        profile: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--model" => args.model = value(),
            "--checkpointing" => args.checkpointing = true,
            "--recipe" => args.mixed = value() == "n",
            "--dropout" => args.dropout = value().parse().expect("a number"),
            "--steps" => args.steps = value().parse().expect("a number"),
            "--image" => args.image = Some(value().into()),
            "--text-tokens" => args.text_tokens = value().parse().expect("a number"),
            "--json" => args.json = true,
            "--profile" => args.profile = true,
            "--bench" => {}
            other => panic!("unknown argument {other}"),
        }
    }
    args
}

/// Peak and present resident bytes of this process; 0 where the system does not say.
fn resident() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb * 1024)
    };
    (field("VmHWM").unwrap_or(0), field("VmRSS").unwrap_or(0))
}

fn main() -> Result<()> {
    let args = arguments();
    let name = match args.model.as_str() {
        "256m" => "SmolVLM-256M-Instruct",
        "2.2b" => "SmolVLM-Instruct",
        other => panic!("--model {other}: 256m or 2.2b"),
    };
    let config = Config::known(name).expect("a published model");
    let image = config.image.clone().expect("a vision tower");
    let device = Device::cpu();
    let dtype = if args.mixed { DType::F32 } else { DType::BF16 };
    let loader = Loader::random(1, dtype, &device)
        .quantized(QuantConfig::default(), SKIPPED.map(str::to_owned).into());
    let loader = if args.mixed { loader.computing_in(DType::BF16) } else { loader };
    let mut network = network(&loader, &config).expect("a valid shape");
    drop(loader);
    network.set_checkpointing(args.checkpointing);
    let lora = LoraConfig { lora_dropout: args.dropout, ..LoraConfig::default() };
    let adapter = Adapter::new(lora, &network, 1).expect("the paper's layers are there");
    network.attach(&adapter).expect("it was made for it");
    let optimizer = Optimizer::new(adapter.parameters(), &OptimizerSection::default()).expect("f32 leaves");
    // As `train` does after loading.
    device.backend::<Cpu>().expect("the processor").trim();
    let load = resident().1;

    let model = network.vision_language().expect("a vision tower");
    let mut rng = Rng::new(2);
    let edge = image.vision.image_size;
    let pixels = match &args.image {
        None => Tensor::randn(&[1, 3, edge, edge], 0.5, DType::F32, &mut rng, &device)?,
        Some(path) => {
            let settings = PreprocessorConfig::known(name).expect("a published model");
            let processor = Idefics3Processor::new(settings, name).expect("valid settings");
            let decoded = decode_file(path, &DecodeOptions::default()).expect("an image");
            let tiles = processor.process(&decoded);
            Tensor::from_slice(&tiles.normalised(), &[tiles.count(), 3, edge, edge], &device)?
        }
    };
    let tiles = pixels.dims()[0];
    let mut ids = vec![image.image_token_id; tiles * image.tokens_per_tile()];
    ids.extend((0..args.text_tokens).map(|_| 10 + rng.below(40_000) as u32));
    let n = ids.len();
    // Every text token counts; position i predicts token i + 1.
    let at: Vec<u32> = (n - args.text_tokens - 1..n - 1).map(|i| i as u32).collect();
    let labels: Vec<i32> = ids[n - args.text_tokens..].iter().map(|&id| id as i32).collect();
    let at = Tensor::from_slice(&at, &[args.text_tokens], &device)?;
    let labels = Tensor::from_slice(&labels, &[args.text_tokens], &device)?;
    let places = right_padded(&[n], n, &device).expect("one row");

    let lora = LoraConfig::default();
    let linears = config.linears();
    let targets = lora.targets(linears.iter().map(|(path, dims)| (path.as_str(), *dims))).expect("layers");
    let plan = config.training_memory(
        &config.quantized_sizes(&QuantConfig::default(), &SKIPPED.map(str::to_owned)),
        &targets,
        &TrainingStep {
            batch: 1,
            tiles: tiles as u64,
            tokens: n as u64,
            counted: args.text_tokens as u64,
            checkpointing: args.checkpointing,
            stream: if args.mixed { 4 } else { 2 },
            compute: 2,
            eight_bit: false,
        },
    );
    let mut parts: [Vec<f64>; 4] = Default::default();
    let mut losses = Vec::new();
    let mut step = |number: usize| {
        let _dropout = adapter.dropout().during(number as u64 + 1);
        let begun = Instant::now();
        let forward_phase = phase("forward");
        let features = model.image_features_in(dtype, &pixels, None).expect("it fits");
        let embeds = model.embed(&ids, 1, Some(&features)).expect("it fits").to_dtype(dtype).expect("floats");
        let hidden = model.text.forward(&embeds, &places, None).expect("it fits");
        let width = hidden.dims()[2];
        let chosen = hidden.reshape(&[n, width]).and_then(|h| h.embedding(&at)).expect("it fits");
        let logits = model.text.logits(&chosen).expect("it fits");
        let loss = logits
            .cross_entropy(&labels, model::loss::IGNORE)
            .and_then(|l| l.sum(&[0]))
            .and_then(|l| l.affine(1.0 / args.text_tokens as f32, 0.0))
            .expect("it fits");
        drop((features, embeds, hidden, chosen, logits));
        let value = loss.item().expect("a scalar");
        drop(forward_phase);
        let forward = begun.elapsed().as_secs_f64();
        let backward_phase = phase("backward");
        let mut gradients = loss.backward().expect("recorded");
        drop(loss);
        drop(backward_phase);
        let backward = begun.elapsed().as_secs_f64() - forward;
        let norm = optimizer.global_norm(&gradients).expect("f32 gradients");
        optimizer.step(&mut gradients, number + 1, 1e-4, clip_factor(norm, 1.0)).expect("it fits");
        let whole = begun.elapsed().as_secs_f64();
        losses.push(value);
        for (part, time) in parts.iter_mut().zip([forward, backward, whole - forward - backward, whole]) {
            part.push(time);
        }
    };
    // The first one fills pools and caches.
    step(0);
    if args.profile {
        let recorder = Recorder::new();
        recorder.record(|| step(1));
        println!("{}", Profile::new("QLoRA step", &recorder.take(), None).to_text());
        return Ok(());
    }
    (1..=args.steps).for_each(&mut step);
    let median = |times: &[f64]| {
        let mut times = times[1..].to_vec();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let [forward, backward, update, whole] = parts.each_ref().map(|p| median(p));
    let least = whole_least(&parts[3]);
    let peak = resident().0;
    let tensors = device.memory().total().peak;
    if args.json {
        println!(
            "{{\"model\": \"{}\", \"checkpointing\": {}, \"recipe\": \"{}\", \"steps\": {}, \"step_seconds\": {whole}, \"step_seconds_least\": {least}, \"forward_seconds\": {forward}, \"backward_seconds\": {backward}, \"optimizer_seconds\": {update}, \"peak_rss_bytes\": {peak}, \"load_rss_bytes\": {load}, \"peak_tensor_bytes\": {tensors}, \"planned_bytes\": {}, \"tiles\": {tiles}, \"tokens\": {n}, \"trained\": {}, \"first_loss\": {}, \"last_loss\": {}, \"threads\": {}}}",
            args.model,
            args.checkpointing,
            if args.mixed { "n" } else { "k" },
            args.steps,
            plan.total(),
            adapter.parameter_count(),
            losses[0],
            losses[losses.len() - 1],
            engine::cpu::threads::threads(),
        );
    } else {
        println!(
            "{} step {whole:.3} s (least {least:.3}): forward {forward:.3}, backward {backward:.3}, optimiser {update:.3}; {tiles} tiles, {n} tokens; {:.2} GB loaded, {:.2} GB peak, of it tensors {:.2} (planned {:.2}); loss {:.3} -> {:.3}",
            args.model,
            load as f64 / 1e9,
            peak as f64 / 1e9,
            tensors as f64 / 1e9,
            plan.total() as f64 / 1e9,
            losses[0],
            losses[losses.len() - 1],
        );
    }
    Ok(())
}

/// The quickest step after the first.
fn whole_least(times: &[f64]) -> f64 {
    times[1..].iter().copied().fold(f64::INFINITY, f64::min)
}
