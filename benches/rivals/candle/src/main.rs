//! Prefill and greedy decode of a Llama decoder in candle on the CPU, one JSON line a figure (`rival_bench.py` has the
//! format).
//!
//! Usage: candle-rival FOLDER [--prefill 512] [--decode 64] [--repeats 5] [--warmup 1] [--threads 2]
//!        candle-rival FILE.gguf --quantise q4_0 …
//!
//! A folder is a Hugging Face one, computed in bf16 as candle-transformers has it; a GGUF file of bf16 weights is
//! quantised in memory, its embedding and head in 8 bits as llama-quantize keeps them.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama, LlamaConfig};
use candle_transformers::models::quantized_llama::ModelWeights;

struct Options {
    model: PathBuf,
    quantise: Option<GgmlDType>,
    prefill: usize,
    decode: usize,
    repeats: usize,
    warmup: usize,
    threads: usize,
}

fn options() -> Result<Options> {
    let mut options =
        Options { model: PathBuf::new(), quantise: None, prefill: 512, decode: 64, repeats: 5, warmup: 1, threads: 2 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} wants a value"));
        match word.as_str() {
            "--quantise" => {
                options.quantise = Some(match value()?.as_str() {
                    "q4_0" => GgmlDType::Q4_0,
                    "q4_1" => GgmlDType::Q4_1,
                    other => bail!("--quantise {other}: q4_0 or q4_1"),
                });
            }
            "--prefill" => options.prefill = value()?.parse().context("--prefill")?,
            "--decode" => options.decode = value()?.parse().context("--decode")?,
            "--repeats" => options.repeats = value()?.parse().context("--repeats")?,
            "--warmup" => options.warmup = value()?.parse().context("--warmup")?,
            "--threads" => options.threads = value()?.parse().context("--threads")?,
            other if other.starts_with("--") => bail!("unknown option {other}"),
            model => options.model = model.into(),
        }
    }
    if options.model.as_os_str().is_empty() {
        bail!("usage: candle-rival FOLDER | FILE.gguf --quantise q4_0|q4_1");
    }
    Ok(options)
}

/// A decoder with its cache.
enum Model {
    Dense { model: Llama, config: Config, cache: Cache },
    Quantised(ModelWeights),
}

impl Model {
    fn open(options: &Options) -> Result<Self> {
        let device = Device::Cpu;
        match options.quantise {
            Some(dtype) => Ok(Self::Quantised(quantised(&options.model, dtype, &device)?)),
            None => {
                let text = std::fs::read_to_string(options.model.join("config.json")).context("config.json")?;
                let config: LlamaConfig = serde_json::from_str(&text).context("config.json")?;
                let config = config.into_config(false);
                let files = [options.model.join("model.safetensors")];
                // SAFETY: nobody changes the file while this short program runs.
                let weights = unsafe { VarBuilder::from_mmaped_safetensors(&files, DType::BF16, &device)? };
                let cache = Cache::new(true, DType::BF16, &config, &device)?;
                Ok(Self::Dense { model: Llama::load(weights, &config)?, config, cache })
            }
        }
    }

    fn restart(&mut self) -> Result<()> {
        match self {
            Self::Dense { config, cache, .. } => *cache = Cache::new(true, DType::BF16, config, &Device::Cpu)?,
            Self::Quantised(model) => model.clear_kv_cache(),
        }
        Ok(())
    }

    /// The most likely next token; logits of the last row only.
    fn next(&mut self, ids: &[u32], position: usize) -> Result<u32> {
        let ids = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        let logits = match self {
            Self::Dense { model, cache, .. } => model.forward(&ids, position, cache)?,
            Self::Quantised(model) => model.forward(&ids, position)?,
        };
        Ok(logits.flatten_all()?.argmax(0)?.to_scalar::<u32>()?)
    }
}

/// The file with its matrices in `dtype`, written as GGUF to memory and opened as candle opens any other.
fn quantised(path: &Path, dtype: GgmlDType, device: &Device) -> Result<ModelWeights> {
    let mut file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let source = gguf_file::Content::read(&mut file)?;
    let mut names: Vec<&String> = source.tensor_infos.keys().collect();
    names.sort();
    let mut tensors = Vec::new();
    for name in names {
        let tensor = source.tensor(&mut file, name, device)?;
        let kind = match name.as_str() {
            "token_embd.weight" | "output.weight" => GgmlDType::Q8_0,
            _ if tensor.rank() == 1 => GgmlDType::F32,
            _ => dtype,
        };
        tensors.push((name.as_str(), QTensor::quantize(&tensor.dequantize(device)?, kind)?));
    }
    let metadata: Vec<_> = source.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut bytes = Cursor::new(Vec::new());
    gguf_file::write(&mut bytes, &metadata, &tensors)?;
    bytes.set_position(0);
    let content = gguf_file::Content::read(&mut bytes)?;
    Ok(ModelWeights::from_gguf(content, &mut bytes, device)?)
}

/// `amount` per second of each repeat of `run`, after an empty cache.
fn figure(
    name: &str,
    amount: usize,
    options: &Options,
    model: &mut Model,
    mut run: impl FnMut(&mut Model) -> Result<()>,
) -> Result<()> {
    let mut values = Vec::new();
    for round in 0..options.warmup + options.repeats {
        model.restart()?;
        let begun = Instant::now();
        run(model)?;
        if round >= options.warmup {
            values.push(amount as f64 / begun.elapsed().as_secs_f64());
        }
    }
    let weights = match options.quantise {
        Some(dtype) => format!("{dtype:?}, head Q8_0"),
        None => "bf16".into(),
    };
    let line = serde_json::json!({
        "system": "candle",
        "version": VERSION,
        "figure": format!("{name} {amount}"),
        "model": options.model.file_stem().unwrap_or_default().to_string_lossy(),
        "weights": weights,
        "unit": "tokens/s",
        "values": values,
        "threads": options.threads,
    });
    println!("{line}");
    Ok(())
}

/// The one that Cargo.toml names.
const VERSION: &str = "0.11";

fn main() -> Result<()> {
    let options = options()?;
    // Read by candle's pools when they start.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", options.threads.to_string()) };
    let mut model = Model::open(&options)?;
    if options.prefill > 0 {
        let ids: Vec<u32> = (0..options.prefill as u32).map(|i| 100 + i * 37 % 40_000).collect();
        figure("prefill", options.prefill, &options, &mut model, |model| model.next(&ids, 0).map(drop))?;
    }
    if options.decode > 0 {
        figure("decode", options.decode, &options, &mut model, |model| {
            let mut id = 1;
            for position in 0..options.decode {
                id = model.next(&[id], position)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
