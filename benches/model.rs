//! Whole models with random weights: prefill, decode, vision. Prints one JSON line per figure, with the
//! median, least and greatest of the repeats, in the format of the rivals' scripts in `benches/rivals`.
//!
//! `cargo bench --bench model -- [smollm2|smolvlm] [--dtype bf16|f32] [--repeats N] [--threads N] [--profile]`

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::{DType, Device, Tensor, no_grad};
use model::bundle::{Network, network};
use model::config::Config;
use model::llama::{Cache, Llama, Places};
use model::loader::Loader;

struct Args {
    what: String,
    dtype: DType,
    repeats: usize,
    /// Print the time of each operation instead of the figure.
    profile: bool,
}

/// Sums the time of the engine's operation spans by name. One thread applies operations here.
#[derive(Default)]
struct Spans {
    next: AtomicU64,
    names: Mutex<BTreeMap<u64, (String, Instant)>>,
    totals: Mutex<BTreeMap<String, (usize, Duration)>>,
}

struct NameField<'a>(&'a mut String);

impl tracing::field::Visit for NameField<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        if field.name() == "name" {
            *self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for &'static Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "roentgen::op"
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut name = String::new();
        span.record(&mut NameField(&mut name));
        self.names.lock().unwrap().insert(id, (name, Instant::now()));
        tracing::Id::from_u64(id)
    }
    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, id: &tracing::Id) {
        if let Some((name, since)) = self.names.lock().unwrap().remove(&id.into_u64()) {
            let mut totals = self.totals.lock().unwrap();
            let total = totals.entry(name).or_default();
            total.0 += 1;
            total.1 += since.elapsed();
        }
    }
}

static SPANS: std::sync::LazyLock<Spans> = std::sync::LazyLock::new(Spans::default);

fn profile(name: &str, f: &mut dyn FnMut()) {
    SPANS.totals.lock().unwrap().clear();
    let start = Instant::now();
    f();
    let whole = start.elapsed();
    let mut rows: Vec<_> = SPANS.totals.lock().unwrap().clone().into_iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.1.1));
    let inside: Duration = rows.iter().map(|row| row.1.1).sum();
    println!(
        "{name}: {:.1} ms, {:.1} ms outside operations",
        whole.as_secs_f64() * 1e3,
        whole.saturating_sub(inside).as_secs_f64() * 1e3
    );
    for (op, (count, time)) in rows {
        let (ms, share) = (time.as_secs_f64() * 1e3, time.as_secs_f64() / whole.as_secs_f64() * 100.0);
        println!("  {op:20} {count:6} calls {ms:9.2} ms {share:5.1} %");
    }
}

fn args() -> Args {
    let mut args = Args { what: "all".into(), dtype: DType::BF16, repeats: 7, profile: false };
    let mut given = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(arg) = given.next() {
        let mut value = || given.next().unwrap_or_else(|| panic!("{arg} takes a value"));
        match arg.as_str() {
            "--dtype" => args.dtype = if value() == "f32" { DType::F32 } else { DType::BF16 },
            "--repeats" => args.repeats = value().parse().expect("a number of repeats"),
            "--threads" => {
                engine::cpu::threads::set_threads(value().parse().expect("a number of threads"));
            }
            "--profile" => args.profile = true,
            what => args.what = what.into(),
        }
    }
    args
}

/// Runs `f` once unmeasured, then `repeats` times; prints `amount / seconds`, or the seconds themselves.
fn figure(name: &str, unit: &str, amount: Option<f64>, args: &Args, mut f: impl FnMut()) {
    f();
    if args.profile {
        return profile(name, &mut f);
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
        args.dtype, args.repeats
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
    if args.profile {
        tracing::subscriber::set_global_default(&*SPANS).expect("no other subscriber");
    }
    let device = Device::cpu();
    let build = |name: &str| {
        let config = Config::known(name).expect("a known model");
        network(&Loader::random(1, args.dtype, &device), &config).unwrap()
    };
    if ["all", "smollm2"].contains(&args.what.as_str()) {
        let Network::Llama(text) = build("SmolLM2-135M") else { panic!("a text model") };
        no_grad(|| {
            figure("SmolLM2-135M prefill 512", "tokens/s", Some(512.0), &args, || drop(prefill(&text, 512)));
            figure("SmolLM2-135M decode 64", "tokens/s", Some(64.0), &args, || decode(&text, 0, 64));
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
