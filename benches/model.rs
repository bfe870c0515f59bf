//! Whole models with random weights: prefill, decode, vision. Prints one JSON line per figure, with the
//! median, least and greatest of the repeats, in the format of the rivals' scripts in `benches/rivals`.
//!
//! `cargo bench --bench model -- [smollm2|smollm2-1.7b|smolvlm] [--dtype bf16|f32] [--nf4] [--repeats N] [--threads N] [--profile|--overhead]`

use std::time::Instant;

use bench::profile::Profile;
use engine::profile::Recorder;
use engine::{DType, Device, QuantConfig, Tensor, no_grad};
use model::bundle::{Network, network};
use model::config::{Config, ModelType};
use model::llama::{Cache, Llama, Places};
use model::loader::Loader;
use model::quantize::SKIPPED;

struct Args {
    what: String,
    dtype: DType,
    /// Linear layers in NF4 with double quantisation, but for the head.
    nf4: bool,
    repeats: usize,
    /// Print where the time goes instead of the figure.
    profile: bool,
    /// Print what recording costs instead of the figure: pairs with and without it, in turns.
    overhead: bool,
}

fn args() -> Args {
    let mut args = Args {
        what: "all".into(),
        dtype: DType::BF16,
        nf4: false,
        repeats: 7,
        profile: false,
        overhead: false,
    };
    let mut given = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(arg) = given.next() {
        let mut value = || given.next().unwrap_or_else(|| panic!("{arg} takes a value"));
        match arg.as_str() {
            "--dtype" => args.dtype = if value() == "f32" { DType::F32 } else { DType::BF16 },
            "--repeats" => args.repeats = value().parse().expect("a number of repeats"),
            "--threads" => {
                engine::cpu::threads::set_threads(value().parse().expect("a number of threads"));
            }
            "--nf4" => args.nf4 = true,
            "--profile" => args.profile = true,
            "--overhead" => args.overhead = true,
            what => args.what = what.into(),
        }
    }
    args
}

/// Runs `f` once unmeasured, then `repeats` times; prints `amount / seconds`, or the seconds themselves.
fn figure(name: &str, unit: &str, amount: Option<f64>, args: &Args, mut f: impl FnMut()) {
    f();
    if args.profile {
        let recorder = Recorder::new();
        recorder.record(f);
        return println!("{}", Profile::new(name, &recorder.take(), None).to_text());
    }
    if args.overhead {
        return overhead(name, args, &mut f);
    }
    let mut values: Vec<f64> = (0..args.repeats)
        .map(|_| {
            let start = Instant::now();
            f();
            let seconds = start.elapsed().as_secs_f64();
            amount.map_or(seconds, |a| a / seconds)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let (least, median, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    println!(
        "{{\"system\":\"roentgen\",\"what\":\"{name}\",\"dtype\":\"{}\",\"unit\":\"{unit}\",\"median\":{median:.4},\"min\":{least:.4},\"max\":{most:.4},\"n\":{}}}",
        if args.nf4 { "nf4" } else { args.dtype.name() },
        args.repeats
    );
}

/// Runs `f` with and without a recorder in turns; prints by how much recording is slower.
fn overhead(name: &str, args: &Args, f: &mut dyn FnMut()) {
    let mut time = |recorded: bool| {
        let recorder = Recorder::new();
        let start = Instant::now();
        if recorded {
            recorder.record(&mut *f)
        } else {
            f()
        }
        (start.elapsed().as_secs_f64(), recorder.take().spans().count())
    };
    let mut percents = Vec::new();
    let mut spans = 0;
    for i in 0..args.repeats {
        let first = time(i % 2 == 0);
        let second = time(i % 2 == 1);
        let (on, off) = if i % 2 == 0 { (first, second) } else { (second, first) };
        spans = on.1;
        percents.push(100.0 * (on.0 / off.0 - 1.0));
    }
    percents.sort_by(f64::total_cmp);
    let (least, median, most) = (percents[0], percents[percents.len() / 2], percents[percents.len() - 1]);
    println!(
        "{{\"system\":\"roentgen\",\"what\":\"{name}, overhead of profiling\",\"dtype\":\"{}\",\"unit\":\"%\",\"median\":{median:.2},\"min\":{least:.2},\"max\":{most:.2},\"n\":{},\"spans\":{spans}}}",
        if args.nf4 { "nf4" } else { args.dtype.name() },
        args.repeats
    );
}

fn prefill(text: &Llama, tokens: usize) -> Tensor {
    let ids: Vec<u32> = (0..tokens).map(|i| (i * 37 % 40_000) as u32).collect();
    let embeds = text.embed(&ids, 1).unwrap();
    let mut cache = Cache::new(text.config(), 1, tokens, embeds.dtype(), text.device()).unwrap();
    let places = Places::from(0, 1, tokens, text.device()).unwrap();
    let hidden = text.forward(&embeds, &places, Some(&mut cache)).unwrap();
    text.logits(&hidden.narrow(1, tokens - 1, 1).unwrap()).unwrap()
}

fn decode(text: &Llama, context: usize, tokens: usize) {
    let device = text.device();
    let mut cache =
        Cache::new(text.config(), 1, context + tokens, text.embed_tokens.dtype(), device).unwrap();
    if context > 0 {
        let embeds = text.embed(&vec![1; context], 1).unwrap();
        text.forward(&embeds, &Places::from(0, 1, context, device).unwrap(), Some(&mut cache)).unwrap();
    }
    let mut id = 1u32;
    for i in 0..tokens {
        let embeds = text.embed(&[id], 1).unwrap();
        let places = Places::from(context + i, 1, 1, device).unwrap();
        let hidden = text.forward(&embeds, &places, Some(&mut cache)).unwrap();
        id = text.logits(&hidden).unwrap().argmax().unwrap().to_vec::<u32>().unwrap()[0];
    }
}

fn main() {
    let args = args();
    let device = Device::cpu();
    let random = |config: &Config| {
        let loader = Loader::random(1, args.dtype, &device);
        let loader = if args.nf4 {
            loader.quantized(QuantConfig::default(), SKIPPED.map(str::to_owned).into())
        } else {
            loader
        };
        network(&loader, config).unwrap()
    };
    let build = |name: &str| random(&Config::known(name).expect("a known model"));
    if ["all", "smollm2"].contains(&args.what.as_str()) {
        let Network::Llama(text) = build("SmolLM2-135M") else { panic!("a text model") };
        no_grad(|| {
            figure("SmolLM2-135M prefill 512", "tokens/s", Some(512.0), &args, || drop(prefill(&text, 512)));
            figure("SmolLM2-135M decode 64", "tokens/s", Some(64.0), &args, || decode(&text, 0, 64));
        });
    }
    if args.what == "smollm2-1.7b" {
        // The decoder of SmolVLM-Instruct: SmolLM2-1.7B's shape.
        let whole = Config::known("SmolVLM-Instruct").expect("a known model");
        let config = Config { model_type: ModelType::Llama, image: None, ..whole };
        let Network::Llama(text) = random(&config) else { panic!("a text model") };
        no_grad(|| {
            figure("SmolLM2-1.7B prefill 181", "tokens/s", Some(181.0), &args, || drop(prefill(&text, 181)));
            figure("SmolLM2-1.7B decode 32", "tokens/s", Some(32.0), &args, || decode(&text, 0, 32));
        });
    }
    if ["all", "smolvlm"].contains(&args.what.as_str()) {
        let Network::SmolVlm(model) = build("SmolVLM-256M-Instruct") else {
            panic!("a vision-language model")
        };
        let pixels: Vec<f32> = (0..3 * 512 * 512).map(|i| (i % 255) as f32 / 127.5 - 1.0).collect();
        let pixels = Tensor::from_slice(&pixels, &[1, 3, 512, 512], &device).unwrap();
        let ids: Vec<u32> = (0..164).map(|i| if (20..84).contains(&i) { 49190 } else { 100 + i }).collect();
        no_grad(|| {
            figure("SmolVLM-256M forward, one tile + 100 tokens", "s", None, &args, || {
                let features = model.image_features(&pixels, None).unwrap();
                let embeds = model.embed(&ids, 1, Some(&features)).unwrap();
                let places = Places::from(0, 1, 164, &device).unwrap();
                let hidden = model.text.forward(&embeds, &places, None).unwrap();
                drop(model.text.logits(&hidden.narrow(1, 163, 1).unwrap()).unwrap());
            });
            figure("SmolVLM-256M vision", "s", None, &args, || {
                drop(model.image_features(&pixels, None).unwrap());
            });
            figure("SmolVLM-256M text prefill 164", "tokens/s", Some(164.0), &args, || {
                drop(prefill(&model.text, 164));
            });
            figure("SmolVLM-256M decode 32", "tokens/s", Some(32.0), &args, || decode(&model.text, 164, 32));
        });
    }
}
