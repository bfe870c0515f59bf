//! Launches of a decoded token and of a training step: what docs/benchmarks.md says of them, on wgpu and on the stand-in for
//! CUDA's driver.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use engine::weights::Weights;
use engine::{Cuda, DType, Device, QuantConfig, Tensor, Wgpu};
use model::bundle::{Network, network};
use model::config::Config;
use model::generate::{Options, Prompt, generate};
use model::llama::Places;
use model::loader::Loader;
use model::lora::{Adapter, LoraConfig};
use roentgen_oracle::gpu;
use train::config::{OptimizerKind, OptimizerSection};
use train::optimizer::Optimizer;

/// Devices of their own: others' launches would be counted.
fn devices() -> Vec<Device> {
    // Emulated, unless this machine's GPU is asked for.
    let hardware = std::env::var_os("ROENTGEN_CUDA").is_some_and(|v| v == "device");
    let cuda = (hardware || cuda_host::load().is_some()).then(|| Device::cuda(0).unwrap());
    gpu::open().into_iter().chain(cuda).collect()
}

fn launches(device: &Device) -> u64 {
    let wgpu = device.backend::<Wgpu>().map(Wgpu::launches);
    wgpu.or_else(|| device.backend::<Cuda>().map(Cuda::launches)).expect("a GPU")
}

fn counted<R>(device: &Device, f: impl FnOnce() -> R) -> (u64, R) {
    let before = launches(device);
    let result = f();
    (launches(device) - before, result)
}

/// The tiny model, in full or with 4-bit weights.
fn tiny(dtype: DType, nf4: bool, device: &Device) -> (Config, Network) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvlm-tiny");
    let config = Config::from_file(folder.join("config.json")).unwrap();
    let weights = Arc::new(Weights::open(folder.join("model.safetensors")).unwrap());
    let loader = Loader::from_weights(weights, Some(dtype), device);
    let loader = if nf4 { loader.quantized(QuantConfig::default(), vec!["lm_head".into()]) } else { loader };
    let network = network(&loader, &config).unwrap();
    (config, network)
}

/// Of a layer: norms with the sums before them 2, products 7, rotation with the step into the cache, attention, activation.
/// CUDA's attention is split over the keys and merged: one more; but q, k and v in 4 bits are one launch there, gate and up
/// another. Beside the layers: embedding, norm, head, choice; on CUDA the id and its position, which travel as launches
/// of the step.
#[test]
fn a_decoded_token() {
    for device in devices() {
        for (dtype, nf4) in [(DType::F32, false), (DType::BF16, false), (DType::BF16, true)] {
            let (config, network) = tiny(dtype, nf4, &device);
            let text = network.decoder();
            let answer = |tokens: usize| {
                let ids: Vec<u32> = (20..40).collect();
                let prompt = Prompt { embeds: text.embed(&ids, 1).unwrap(), ids };
                let options = Options { max_new_tokens: tokens, ..Options::default() };
                let mut ignore = |_: usize, _: &str| ControlFlow::Continue(());
                generate(text, None, &[prompt], &options, &mut ignore).unwrap();
            };
            let token = counted(&device, || answer(6)).0 - counted(&device, || answer(5)).0;
            let layers = config.text.num_hidden_layers as u64;
            let kind = if nf4 { "NF4" } else { "dense" };
            println!("{device}: {kind} {dtype}: {token} launches a token with {layers} layers");
            let each = match (device.backend::<Cuda>().is_some(), nf4) {
                (false, _) => 12,
                (true, false) => 13,
                (true, true) => 10,
            };
            let beside = if device.backend::<Cuda>().is_some() { 6 } else { 4 };
            assert_eq!(token, each * layers + beside, "{device}, {kind} {dtype}");
        }
    }
}

/// A step of an adapter over 4-bit weights: forward and backward pass, norm of the gradients, and the optimiser, which on CUDA
/// is one launch for all tensors, and on wgpu one for each that a loss on text alone reaches.
#[test]
fn a_training_step() {
    for device in devices() {
        let (config, network) = tiny(DType::F32, true, &device);
        let adapter = Adapter::new(LoraConfig::default(), &network, 1).unwrap();
        network.attach(&adapter).unwrap();
        let eight_bits = OptimizerSection {
            kind: Some(OptimizerKind::Adamw8bit),
            min_8bit_size: 1,
            ..OptimizerSection::default()
        };
        let optimizers = [OptimizerSection::default(), eight_bits]
            .map(|section| Optimizer::new(adapter.parameters(), &section).unwrap());
        let ids: Vec<u32> = (0..24).map(|i| 20 + i % 17).collect();
        let labels: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let text = network.decoder();
        let places = Places::from(0, 1, ids.len(), &device).unwrap();
        let step = |optimizer: &Optimizer, number: usize| {
            let (forward, loss) = counted(&device, || {
                let hidden = text.forward(&text.embed(&ids, 1).unwrap(), &places, None).unwrap();
                let logits = text.logits(&hidden).unwrap();
                let (sum, counted): (Tensor, usize) = model::loss::next_token_loss(&logits, &labels).unwrap();
                sum.affine(1.0 / counted as f32, 0.0).unwrap()
            });
            let (backward, mut gradients) = counted(&device, || loss.backward().unwrap());
            let (norm, _) = counted(&device, || optimizer.global_norm(&gradients).unwrap());
            let (update, ()) =
                counted(&device, || optimizer.step(&mut gradients, number, 1e-3, 0.5).unwrap());
            [forward, backward, norm, update]
        };
        step(&optimizers[0], 1);
        let [forward, backward, norm, update] = step(&optimizers[0], 2);
        let [.., update_8bit] = step(&optimizers[1], 1);
        let (tensors, layers) = (adapter.parameters().len() as u64, config.text.num_hidden_layers);
        println!(
            "{device}: {layers} layers, {tensors} tensors: forward {forward}, backward {backward}, norm {norm}, update {update}"
        );
        let want = if device.backend::<Cuda>().is_some() { 1 } else { tensors_reached(&optimizers[0]) };
        assert_eq!([update, update_8bit], [want; 2]);
    }
}

/// Parameters that a loss on text alone reaches: those of the decoder.
fn tensors_reached(optimizer: &Optimizer) -> u64 {
    optimizer
        .parameters
        .iter()
        .filter(|p| !p.name.contains("vision") && !p.name.contains("connector"))
        .count() as u64
}
