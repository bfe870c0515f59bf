//! The tiny Idefics3 model against PyTorch (transformers 4.51.3, f32, CPU): every stage, the losses, 24
//! gradients, greedy generation. The fixture's generator and noise are described in its manifest.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use cuda_host::{How, again};
use engine::ops::AdamW;
use engine::weights::Weights;
use engine::{DType, Device, Tensor, Wgpu};
use model::bundle::{Network, network};
use model::config::Config;
use model::generate::{Options, Prompt, generate};
use model::loader::Loader;
use model::lora::{Adapter, LoraConfig};
use model::parity::{compare, compare_on};
use model::siglip::position_ids;
use model::smolvlm::{SmolVlm, pixel_shuffle};
use roentgen_oracle::gpu::{self, devices};

/// The tests that compare with a fixture, for second runs of this program; and the fastest of them.
const FIXTURES: [&str; 7] = [
    "stages_losses_and_gradients",
    "partly_valid_tiles",
    "greedy_generation_alone_and_in_a_batch",
    "an_adapter",
    "five_steps_of_an_adapter",
    "bf16_products_over_an_f32_stream",
    "dropout_and_checkpointing",
];
const FAST: [&str; 2] = ["all_gradients_together", "bf16_is_as_good_as_the_references"];

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvlm-tiny").join(name)
}

fn load(dtype: DType, trainable: bool, device: &Device) -> (Config, Network, Vec<(String, Tensor)>) {
    let config = Config::from_file(fixture("config.json")).unwrap();
    let weights = Arc::new(Weights::open(fixture("model.safetensors")).unwrap());
    let loader = Loader::from_weights(weights, Some(dtype), device);
    let loader = if trainable { loader.trainable() } else { loader };
    let network = network(&loader, &config).unwrap();
    let given = loader.given();
    (config, network, given)
}

fn vlm(network: &Network) -> &SmolVlm {
    let Network::SmolVlm(model) = network else { panic!("an Idefics3 configuration") };
    model
}

fn i64s(file: &Weights, name: &str) -> Vec<u32> {
    file.require(name).unwrap().to_i64().unwrap().into_iter().map(|x| u32::try_from(x).unwrap()).collect()
}

#[test]
fn stages_losses_and_gradients() {
    for device in &devices() {
        let reference = Weights::open(fixture("base.safetensors")).unwrap();
        for checkpointing in [false, true] {
            let (config, mut network, weights) = load(DType::F32, true, device);
            if let Network::SmolVlm(model) = &mut network {
                model.set_checkpointing(checkpointing);
            }
            let comparison = compare(&config, &network, &weights, &reference, DType::F32).unwrap();
            for row in &comparison.rows {
                println!("{:70} {:.2e} {:.2e}", row.name, row.max_abs, row.relative);
            }
            assert!(comparison.first_bad().is_none(), "{:?}", comparison.first_bad());
            let count = |prefix: &str| comparison.rows.iter().filter(|r| r.name.starts_with(prefix)).count();
            assert_eq!(count("grad."), 24);
            assert_eq!(count("vision."), 6);
            assert_eq!(comparison.skipped, ["bf16.logits", "bf16.loss", "grad_norm_all"]);
        }
    }
}

#[test]
fn all_gradients_together() {
    for device in &devices() {
        let reference = Weights::open(fixture("base.safetensors")).unwrap();
        let want = reference.require("grad_norm_all").unwrap().to_f32().unwrap()[0];
        let (_, network, weights) = load(DType::F32, true, device);
        let gradients = base_loss(&network, &reference, DType::F32).backward().unwrap();
        let squares: f64 = weights
            .iter()
            .filter_map(|(_, w)| gradients.get(w))
            .map(|g| g.sum_squares().unwrap().item().unwrap())
            .sum();
        let relative = (squares.sqrt() / f64::from(want) - 1.0).abs();
        assert!(relative < 1e-5, "{} against {want}", squares.sqrt());
    }
}

/// The mean loss of the base fixture.
fn base_loss(network: &Network, reference: &Weights, dtype: DType) -> Tensor {
    let logits = base_logits(network, reference, dtype);
    let labels: Vec<i32> =
        reference.require("labels").unwrap().to_i64().unwrap().iter().map(|&l| l as i32).collect();
    let (sum, counted) = model::loss::next_token_loss(&logits, &labels).unwrap();
    sum.affine(1.0 / counted as f32, 0.0).unwrap()
}

fn base_logits(network: &Network, reference: &Weights, dtype: DType) -> Tensor {
    let ids = i64s(reference, "input_ids");
    let mask = i64s(reference, "attention_mask");
    let lengths: Vec<usize> = mask.chunks(43).map(|row| row.iter().sum::<u32>() as usize).collect();
    let pixels: Vec<f32> = reference.require("pixel_values").unwrap().to_f32().unwrap();
    let real: Vec<f32> =
        pixels.chunks(3 * 24 * 24).filter(|t| t.iter().any(|&x| x != 0.0)).flatten().copied().collect();
    let pixels = Tensor::from_slice(&real, &[4, 3, 24, 24], network.decoder().device()).unwrap();
    let model = vlm(network);
    let features = model.image_features_in(dtype, &pixels, None).unwrap();
    model.forward(&ids, &lengths, Some(&features), dtype).unwrap()
}

/// The whole model in bf16 lies as near to the f32 logits as PyTorch's own bf16 model does.
#[test]
fn bf16_is_as_good_as_the_references() {
    for device in &devices() {
        let reference = Weights::open(fixture("base.safetensors")).unwrap();
        let (_, network, _) = load(DType::BF16, false, device);
        let ours = base_logits(&network, &reference, DType::BF16).to_f32_vec().unwrap();
        let exact = reference.require("logits").unwrap().to_f32().unwrap();
        let theirs = reference.require("bf16.logits").unwrap().to_f32().unwrap();
        let rms = |a: &[f32]| {
            let squares: f64 = a.iter().zip(&exact).map(|(x, y)| f64::from(x - y).powi(2)).sum();
            (squares / exact.len() as f64).sqrt()
        };
        println!("rms distance to f32: ours {:.4}, PyTorch's {:.4}", rms(&ours), rms(&theirs));
        assert!(rms(&ours) < 1.25 * rms(&theirs));
        let loss = base_loss(&network, &reference, DType::BF16).item().unwrap();
        let want = f64::from(reference.require("loss").unwrap().to_f32().unwrap()[0]);
        let theirs = f64::from(reference.require("bf16.loss").unwrap().to_f32().unwrap()[0]);
        assert!(
            (loss - want).abs() < 2.0 * (theirs - want).abs() + 5e-3 * want,
            "{loss} against {want} and {theirs}"
        );
    }
}

#[test]
fn partly_valid_tiles() {
    for device in &devices() {
        let file = Weights::open(fixture("vision.safetensors")).unwrap();
        let (_, network, _) = load(DType::F32, false, device);
        let model = vlm(&network);
        let pixels = file.require("partial.pixel_values").unwrap().to_f32().unwrap();
        let pixels = Tensor::from_slice(&pixels, &[4, 3, 24, 24], device).unwrap();
        let patches: Vec<bool> =
            file.require("partial.patch_attention_mask").unwrap().bytes().iter().map(|&b| b != 0).collect();
        let ids: Vec<u32> = patches.chunks(36).flat_map(|tile| position_ids(tile, 6)).collect();
        assert_eq!(ids, i64s(&file, "partial.position_ids"));
        let hidden = model.vision.forward(&pixels, Some(&patches)).unwrap().to_f32_vec().unwrap();
        let want = file.require("partial.last_hidden_state").unwrap().to_f32().unwrap();
        // Invalid patches attend to valid ones only, as queries they are computed all the same.
        close(&hidden, &want, 2e-5);
        let tokens = model.image_features(&pixels, Some(&patches)).unwrap().to_f32_vec().unwrap();
        close(&tokens, &file.require("partial.connector").unwrap().to_f32().unwrap(), 2e-5);
    }
}

fn close(ours: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), want.len());
    let worst = ours.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance, "largest difference {worst:e}");
}

#[test]
fn position_buckets() {
    let file = Weights::open(fixture("vision.safetensors")).unwrap();
    for g in [27usize, 32] {
        let table = file.require(&format!("bucket.{g}")).unwrap().to_i64().unwrap();
        for n in 1..=g {
            let valid: Vec<bool> = (0..g * g).map(|i| i / g < n && i % g < n).collect();
            let ids = position_ids(&valid, g);
            for i in 0..n {
                assert_eq!(i64::from(ids[i]), table[n * g + i], "column {i} of {n} in a grid of {g}");
                assert_eq!(i64::from(ids[i * g]), table[n * g + i] * g as i64);
            }
        }
    }
}

#[test]
fn pixel_shuffles() {
    let file = Weights::open(fixture("vision.safetensors")).unwrap();
    for s in [2, 3, 4] {
        let input = file.require(&format!("pixel_shuffle.{s}.in")).unwrap();
        let x = Tensor::from_slice(&input.to_f32().unwrap(), input.shape(), &Device::cpu()).unwrap();
        let want = file.require(&format!("pixel_shuffle.{s}.out")).unwrap();
        let out = pixel_shuffle(&x, s).unwrap();
        assert_eq!(&*out.dims(), want.shape());
        assert_eq!(out.to_vec::<f32>().unwrap(), want.to_f32().unwrap());
    }
    let x = Tensor::zeros(&[1, 144, 2], DType::F32, &Device::cpu()).unwrap();
    assert!(pixel_shuffle(&x, 5).is_err());
}

/// The prompts of the generation fixture are those of the base fixture without padding.
fn prompt(model: &SmolVlm, ids: Vec<u32>, tiles: &[f32]) -> Prompt {
    let pixels =
        Tensor::from_slice(tiles, &[tiles.len() / (3 * 24 * 24), 3, 24, 24], model.text.device()).unwrap();
    let features = model.image_features(&pixels, None).unwrap();
    Prompt { embeds: model.embed(&ids, 1, Some(&features)).unwrap(), ids }
}

#[test]
fn greedy_generation_alone_and_in_a_batch() {
    for device in &devices() {
        let file = Weights::open(fixture("generate.safetensors")).unwrap();
        let base = Weights::open(fixture("base.safetensors")).unwrap();
        let pixels = base.require("pixel_values").unwrap().to_f32().unwrap();
        let tile = 3 * 24 * 24;
        let (_, network, _) = load(DType::F32, false, device);
        let model = vlm(&network);
        let options = Options { max_new_tokens: 12, ..Options::default() };
        let run = |prompts: &[Prompt]| {
            let mut ignore = |_: usize, _: &str| ControlFlow::Continue(());
            let (answers, _) = generate(&model.text, None, prompts, &options, &mut ignore).unwrap();
            answers.into_iter().map(|a| a.ids).collect::<Vec<_>>()
        };
        let first = || prompt(model, i64s(&file, "single0.input_ids"), &pixels[..3 * tile]);
        let second = || prompt(model, i64s(&file, "single1.input_ids"), &pixels[3 * tile..4 * tile]);
        let want = [i64s(&file, "single0.new_ids"), i64s(&file, "single1.new_ids")];
        assert_eq!(run(&[first()]), want[..1]);
        assert_eq!(run(&[second()]), want[1..]);
        let both = i64s(&file, "batch.new_ids");
        assert_eq!(run(&[first(), second()]), both.chunks(12).map(<[u32]>::to_vec).collect::<Vec<_>>());
        assert_eq!(run(&[second(), first()]), [want[1].clone(), want[0].clone()]);
    }
}

/// The fixture's adapter of rank 4 on 20 layers: logits, losses and every gradient of A and B.
#[test]
fn an_adapter() {
    for device in &devices() {
        let (base, reference) = (fixture("base.safetensors"), fixture("lora.safetensors"));
        let (base, reference) = (Weights::open(base).unwrap(), Weights::open(reference).unwrap());
        for checkpointing in [false, true] {
            let (config, mut network, _) = load(DType::F32, false, device);
            if let Network::SmolVlm(model) = &mut network {
                model.set_checkpointing(checkpointing);
            }
            let adapter = Adapter::open_trainable(&fixture("adapter"), &network).unwrap();
            assert!(adapter.warnings.is_empty(), "{:?}", adapter.warnings);
            assert_eq!(adapter.modules.len(), 20);
            network.attach(&adapter).unwrap();
            let parameters = adapter.parameters();
            let comparison =
                compare_on(&config, &network, &parameters, &base, &reference, DType::F32).unwrap();
            assert!(comparison.first_bad().is_none(), "{:?}", comparison.first_bad());
            assert_eq!(comparison.rows.len(), 3 + 40);
            assert!(
                comparison.skipped.iter().all(|name| name.starts_with("train.")),
                "{:?}",
                comparison.skipped
            );
            // Taken off again the model is what it was.
            network.detach();
            let plain = compare(&config, &network, &[], &base, DType::F32).unwrap();
            assert!(plain.first_bad().is_none(), "{:?}", plain.first_bad());
        }
    }
}

/// Five steps of `AdamW` on the adapter: losses, norms and every weight at the end (rates from the fixture, whose first is
/// 0; the clip is 1).
#[test]
fn five_steps_of_an_adapter() {
    for device in &devices() {
        let reference = Weights::open(fixture("lora.safetensors")).unwrap();
        let base = Weights::open(fixture("base.safetensors")).unwrap();
        let floats = |name: &str| reference.require(name).unwrap().to_f32().unwrap();
        let (_, network, _) = load(DType::F32, false, device);
        let adapter = Adapter::open_trainable(&fixture("adapter"), &network).unwrap();
        network.attach(&adapter).unwrap();
        let parameters = adapter.parameters();
        let zeros = |t: &Tensor| Tensor::zeros(&t.dims(), DType::F32, t.device()).unwrap();
        for (name, value) in &parameters {
            let start = match reference.get(&format!("train.start.{name}")) {
                Some(entry) => {
                    Tensor::from_slice(&entry.to_f32().unwrap(), entry.shape(), value.device()).unwrap()
                }
                None => zeros(value),
            };
            value.detach().write(&start).unwrap();
        }
        let moments: Vec<_> = parameters.iter().map(|(_, t)| (zeros(t), zeros(t))).collect();
        let (losses, norms, rates) =
            (floats("train.losses"), floats("train.grad_norms"), floats("train.learning_rates"));
        let near = |ours: f64, theirs: f32, what: &str| {
            assert!((ours / f64::from(theirs) - 1.0).abs() < 2e-5, "{what}: {ours} against {theirs}");
        };
        for (step, &rate) in rates.iter().enumerate() {
            let loss = base_loss(&network, &base, DType::F32);
            near(loss.item().unwrap(), losses[step], &format!("loss {step}"));
            let gradients = loss.backward().unwrap();
            let squares = |t: &Tensor| gradients.get(t).unwrap().sum_squares().unwrap().item().unwrap();
            let norm = parameters.iter().map(|(_, t)| squares(t)).sum::<f64>().sqrt();
            near(norm, norms[step], &format!("norm {step}"));
            let clip = (1.0 / (norm + 1e-6)).min(1.0) as f32;
            for ((_, p), (m, v)) in parameters.iter().zip(&moments) {
                let op = AdamW {
                    lr: f64::from(rate),
                    beta1: 0.9,
                    beta2: 0.999,
                    eps: 1e-8,
                    weight_decay: 0.01,
                    step: step as u32 + 1,
                    grad_scale: 1.0,
                };
                Tensor::adamw_step(p, m, v, &gradients.get(p).unwrap().affine(clip, 0.0).unwrap(), &op)
                    .unwrap();
            }
        }
        near(base_loss(&network, &base, DType::F32).item().unwrap(), losses[5], "last loss");
        for (name, value) in &parameters {
            let want = floats(&format!("train.end.{name}"));
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            // A step is the ratio of two moments: where a gradient is nearly 0 its noise is not small against it.
            close(&value.to_f32_vec().unwrap(), &want, 2e-3 * largest);
        }
    }
}

/// bf16 products over an f32 residual stream (QLoRA's recipe) lie nearer to the f32 model than a bf16 stream does, and
/// the head, the cache and generation work in that mix.
#[test]
fn bf16_products_over_an_f32_stream() {
    for device in &devices() {
        let reference = Weights::open(fixture("base.safetensors")).unwrap();
        let config = Config::from_file(fixture("config.json")).unwrap();
        let weights = Arc::new(Weights::open(fixture("model.safetensors")).unwrap());
        let loader = Loader::from_weights(weights, Some(DType::F32), device).computing_in(DType::BF16);
        let mixed = network(&loader, &config).unwrap();
        let (_, low, _) = load(DType::BF16, false, device);
        let exact = reference.require("logits").unwrap().to_f32().unwrap();
        let distance = |logits: &Tensor| {
            let ours = logits.to_f32_vec().unwrap();
            ours.iter().zip(&exact).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
        };
        let logits = base_logits(&mixed, &reference, DType::F32);
        assert_eq!(logits.dtype(), DType::F32);
        let (mixed_far, low_far) = (distance(&logits), distance(&base_logits(&low, &reference, DType::BF16)));
        println!("distance to f32: {mixed_far:.3} with an f32 stream, {low_far:.3} with a bf16 one");
        assert!(mixed_far < low_far && mixed_far > 0.0);

        let text = mixed.decoder();
        let embeds = text.embed(&[1, 20, 30, 40], 1).unwrap();
        assert_eq!((embeds.dtype(), text.cache_dtype(embeds.dtype())), (DType::F32, DType::BF16));
        let prompt = Prompt { embeds, ids: vec![1, 20, 30, 40] };
        let options = Options { max_new_tokens: 6, ..Options::default() };
        let (answers, _) =
            generate(text, None, &[prompt], &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        assert!(!answers[0].ids.is_empty());
    }
}

/// With dropout a block that is computed again in the backward pass must draw the masks of the forward pass: gradients
/// with and without checkpointing are the same, over dense and 4-bit weights, with and without magnitudes.
#[test]
fn dropout_and_checkpointing() {
    for device in &devices() {
        let reference = Weights::open(fixture("base.safetensors")).unwrap();
        let config = Config::from_file(fixture("config.json")).unwrap();
        for (quantised, use_dora) in [(false, false), (true, false), (true, true)] {
            let run = |checkpointing: bool, seed: u64| {
                let weights = Arc::new(Weights::open(fixture("model.safetensors")).unwrap());
                let loader = Loader::from_weights(weights, Some(DType::F32), device);
                let loader = if quantised {
                    loader.quantized(engine::QuantConfig::default(), vec!["lm_head".into()])
                } else {
                    loader
                };
                let mut network = network(&loader, &config).unwrap();
                if let Network::SmolVlm(model) = &mut network {
                    model.set_checkpointing(checkpointing);
                }
                let lora = LoraConfig { lora_dropout: 0.3, use_dora, ..LoraConfig::default() };
                let adapter = Adapter::new(lora, &network, 1).unwrap();
                let mut rng = engine::Rng::new(2);
                for (_, t) in adapter.parameters().iter().filter(|(name, _)| name.contains("lora_B")) {
                    t.detach()
                        .write(&Tensor::randn(&t.dims(), 0.05, DType::F32, &mut rng, t.device()).unwrap())
                        .unwrap();
                }
                network.attach(&adapter).unwrap();
                let _active = adapter.dropout().during(seed);
                let loss = base_loss(&network, &reference, DType::F32);
                let value = loss.item().unwrap();
                let gradients = loss.backward().unwrap();
                let all = adapter.parameters();
                let all: Vec<f32> =
                    all.iter().flat_map(|(_, t)| gradients.get(t).unwrap().to_f32_vec().unwrap()).collect();
                (value, all)
            };
            let (plain, again, other) = (run(false, 7), run(true, 7), run(false, 8));
            assert_eq!(plain.0, again.0);
            let largest = plain.1.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            close(&plain.1, &again.1, 1e-6 * largest);
            assert_ne!(plain.0, other.0, "another seed, another mask");
        }
    }
}

/// Launches of one more token, which are counted in docs/benchmarks.md, and memory that many answers in a row leave alone.
#[test]
fn decoding_on_a_gpu_is_frugal() {
    // A device of its own: others would be counted.
    let Some(device) = gpu::open() else { return };
    let gpu = device.backend::<Wgpu>().unwrap();
    let (config, network, _) = load(DType::F32, false, &device);
    let text = network.decoder();
    let answer = |tokens: usize| {
        let ids: Vec<u32> = (20..40).collect();
        let prompt = Prompt { embeds: text.embed(&ids, 1).unwrap(), ids };
        let options = Options { max_new_tokens: tokens, ..Options::default() };
        let before = gpu.launches();
        let mut ignore = |_: usize, _: &str| ControlFlow::Continue(());
        generate(text, None, &[prompt], &options, &mut ignore).unwrap();
        gpu.launches() - before
    };
    let token = answer(9) - answer(8);
    let layers = config.text.num_hidden_layers as u64;
    println!("{token} launches a token with {layers} layers");
    // Norms with the sums before them 2, products 7, rotation with the step into the cache, attention, activation; embedding,
    // norm, head, choice.
    assert_eq!(token, 12 * layers + 4);

    let held = || gpu.buffer_bytes().iter().sum::<u64>();
    let after_one = held();
    for _ in 0..30 {
        answer(8);
    }
    assert_eq!(held(), after_one, "bytes on the device after thirty answers");
}

/// The fixtures on a GPU with subgroups of other widths, one with WebGPU's default limits, and one whose products are cut as for hardware.
#[test]
fn on_other_gpus() {
    gpu::again(&[&FIXTURES[..], &FAST].concat());
}

/// The fixtures on the stand-in for CUDA's driver, under one schedule; the fastest under all, and with sanitizers.
#[test]
fn on_cuda() {
    again(&FIXTURES, How::SCHEDULES[1]);
    for how in How::SCHEDULES.into_iter().chain([How::Sanitized]) {
        again(&FAST, how);
    }
}
