//! A linear layer over 4-bit weights with its adapter against PEFT 0.15.2 on bitsandbytes 0.50.2 (spec qlora §12):
//! output and gradients in f32 and bf16, and what dropout, compute types and magnitudes do.

use std::sync::Arc;

use cuda_host::{How, again};
use engine::ops::Dropout;
use engine::weights::Weights;
use engine::{DType, Rng, Tensor};
use model::nn::{DropoutState, Linear, Lora, Weight};
use model::quantize;
use roentgen_oracle::gpu::device;

fn fixture(name: &str) -> Weights {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/nf4");
    Weights::open(format!("{folder}/{name}.safetensors")).unwrap()
}

fn tensor(file: &Weights, name: &str) -> Tensor {
    let entry = file.require(name).unwrap();
    Tensor::from_slice(&entry.to_f32().unwrap(), entry.shape(), device()).unwrap()
}

fn worst(ours: &Tensor, theirs: &Tensor) -> (f32, f32) {
    let (a, b) = (ours.to_f32_vec().unwrap(), theirs.to_f32_vec().unwrap());
    assert_eq!(a.len(), b.len());
    let difference = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    (difference, b.iter().fold(0.0f32, |m, x| m.max(x.abs())))
}

struct Case {
    layer: Linear,
    lora: Lora,
    file: Weights,
}

/// The fixture's layer with tracked factors.
fn case(kind: &str, compute: Option<DType>, quantized: bool) -> Case {
    let file = fixture(&format!("lora_{kind}"));
    let weight = quantize::read(&file, "weight", device()).unwrap();
    let weight = if quantized {
        Weight::Quantized(Arc::new(weight))
    } else {
        Weight::Dense(weight.dequantize(compute.unwrap_or(DType::F32)).unwrap())
    };
    let scale = if kind == "rslora" { 16.0 / 8f32.sqrt() } else { 2.0 };
    let factors = ["lora_A", "lora_B"].map(|name| tensor(&file, name).tracked());
    let mut lora = Lora::new("q_proj", factors, scale, 0.0, &DropoutState::new());
    if kind == "dora" {
        let magnitude = tensor(&file, "magnitude");
        lora = lora.with_magnitude(&weight, Some(magnitude), true).unwrap();
    }
    Case { layer: Linear::new("q_proj", weight, None, compute), lora, file }
}

#[test]
fn peft_in_f32() {
    for kind in ["lora", "rslora", "dora"] {
        for quantized in [true, false] {
            if kind == "dora" && !quantized {
                // The norm sees the weight in its own type; the fixture's is bf16, that of a dense f32 weight f32.
                continue;
            }
            let Case { layer, lora, file } = case(kind, None, quantized);
            layer.attach(Some(Arc::new(lora.clone())));
            let x = tensor(&file, "x").tracked();
            let dy = tensor(&file, "dy");
            let y = layer.forward(&x).unwrap();
            // With PEFT the norm of a magnitude sees W rounded to bf16, here its cross term sees W in f32.
            let tolerance = if kind == "dora" { 2e-4 } else { 5e-6 };
            let close = |what: &str, ours: &Tensor, theirs: &Tensor| {
                let (difference, largest) = worst(ours, theirs);
                println!("{kind} quantized {quantized} {what}: {difference:.1e} of {largest:.2}");
                assert!(difference <= tolerance * largest, "{kind} {what}: {difference:e} of {largest}");
            };
            close("y", &y, &tensor(&file, "fp32.y"));
            let mut gradients = y.backward_from(&dy).unwrap();
            close("dA", gradients.get(&lora.a).unwrap(), &tensor(&file, "fp32.dA"));
            close("dB", gradients.get(&lora.b).unwrap(), &tensor(&file, "fp32.dB"));
            let mut through = dy.clone();
            if let Some(dora) = &lora.dora {
                close("dm", gradients.get(&dora.magnitude).unwrap(), &tensor(&file, "fp32.dm"));
                // y = (m/n)·(base + term): what reaches the base product is dy·m/n, read off the two outputs.
                let term = tensor(&file, "x").linear(&lora.a.detach(), None).unwrap();
                let term = term.linear(&lora.b.detach(), None).unwrap().affine(lora.scale, 0.0).unwrap();
                let base = tensor(&file, "x").linear(&tensor(&file, "w_dequant_f32"), None).unwrap();
                let factor = tensor(&file, "fp32.y").div(&base.add(&term).unwrap()).unwrap();
                let first = factor.narrow(0, 0, 1).unwrap().expand(&[7, 96]).unwrap();
                through = dy.mul(&first).unwrap();
            }
            // bitsandbytes dequantises to bf16, the source's type, in the backward pass and to f32 in the forward one
            // (spec qlora §7); here both see f32. The difference is one product.
            let rounding = tensor(&file, "w_dequant_f32").sub(&tensor(&file, "w_dequant_bf16")).unwrap();
            let want = tensor(&file, "fp32.dx").add(&through.matmul(&rounding).unwrap()).unwrap();
            close("dx", &gradients.take(&x).unwrap(), &want);
        }
    }
}

#[test]
fn peft_under_bf16_autocast() {
    for kind in ["lora", "rslora", "dora"] {
        for quantized in [true, false] {
            // An f32 stream with bf16 products, and a bf16 stream.
            for stream in [DType::F32, DType::BF16] {
                let Case { layer, lora, file } = case(kind, Some(DType::BF16), quantized);
                layer.attach(Some(Arc::new(lora.clone())));
                let x = tensor(&file, "x").to_dtype(DType::BF16).unwrap().to_dtype(stream).unwrap().tracked();
                let dy = tensor(&file, "dy").to_dtype(DType::BF16).unwrap().to_dtype(stream).unwrap();
                let y = layer.forward(&x).unwrap();
                assert_eq!(y.dtype(), stream);
                let gradients = y.backward_from(&dy).unwrap();
                assert_eq!(gradients.get(&lora.a).unwrap().dtype(), DType::F32);
                // Eight bits through three roundings here and four there.
                let close = |what: &str, ours: &Tensor, theirs: &Tensor| {
                    let (difference, largest) = worst(ours, theirs);
                    assert!(difference <= 0.012 * largest, "{kind} {what}: {difference:e} of {largest}");
                };
                close("y", &y, &tensor(&file, "autocast_bf16.y"));
                close("dx", gradients.get(&x).unwrap(), &tensor(&file, "autocast_bf16.dx"));
                close("dA", gradients.get(&lora.a).unwrap(), &tensor(&file, "autocast_bf16.dA"));
                close("dB", gradients.get(&lora.b).unwrap(), &tensor(&file, "autocast_bf16.dB"));
                if let Some(dora) = &lora.dora {
                    let dm = gradients.get(&dora.magnitude).unwrap();
                    close("dm", dm, &tensor(&file, "autocast_bf16.dm"));
                }
            }
        }
    }
}

/// A small layer with an adapter and dropout, and what it should give, by plain products.
#[test]
fn dropout_follows_the_state() {
    let device = device();
    let mut rng = Rng::new(5);
    let mut random = |dims: &[usize]| Tensor::randn(dims, 0.5, DType::F32, &mut rng, device).unwrap();
    let (w, bias, x) = (random(&[8, 64]), random(&[8]), random(&[5, 64]));
    let (a, b) = (random(&[2, 64]), random(&[8, 2]));
    let quantized = engine::Quantized::quantize(&w, &engine::QuantConfig::default()).unwrap();
    for weight in
        [Weight::Dense(quantized.dequantize(DType::F32).unwrap()), Weight::Quantized(quantized.into())]
    {
        let dense = weight.to_dense(DType::F32).unwrap();
        for dora in [false, true] {
            let state = DropoutState::new();
            let mut lora = Lora::new("m.q_proj", [a.tracked(), b.tracked()], 1.5, 0.25, &state);
            if dora {
                let magnitude = Some(random(&[8]).exp().unwrap());
                lora = lora.with_magnitude(&weight, magnitude, true).unwrap();
            }
            let layer = Linear::new("m.q_proj", weight.clone(), Some(bias.clone()), None);
            layer.attach(Some(Arc::new(lora.clone())));

            // PEFT's formulas, W + s·B·A in memory.
            let expected = |x_dropped: &Tensor| {
                let base = x.linear(&dense, Some(&bias)).unwrap();
                let low =
                    x_dropped.linear(&a, None).unwrap().linear(&b, None).unwrap().affine(1.5, 0.0).unwrap();
                let Some(dora) = &lora.dora else { return base.add(&low).unwrap() };
                let v = dense.add(&b.matmul(&a).unwrap().affine(1.5, 0.0).unwrap()).unwrap();
                let norm = v.mul(&v).unwrap().sum(&[1]).unwrap().sqrt().unwrap();
                let factor = dora.magnitude.detach().div(&norm).unwrap();
                let again = x_dropped.linear(&dense, None).unwrap();
                let more = again.mul(&factor.affine(1.0, -1.0).unwrap()).unwrap();
                base.add(&more).unwrap().add(&low.mul(&factor).unwrap()).unwrap()
            };
            let close = |ours: &Tensor, theirs: &Tensor| {
                let (difference, largest) = worst(ours, theirs);
                assert!(difference <= 2e-6 * largest, "{difference:e} of {largest}");
            };
            let evaluated = layer.forward(&x).unwrap();
            close(&evaluated, &expected(&x));
            let trained = {
                let _active = state.during(7);
                let seed = state.mask(layer_salt()).unwrap();
                let first = layer.forward(&x).unwrap();
                close(&first, &expected(&x.dropout(0.25, seed).unwrap()));
                let again = layer.forward(&x).unwrap();
                assert_eq!(first.to_f32_vec().unwrap(), again.to_f32_vec().unwrap(), "one seed, one mask");
                first
            };
            assert_ne!(trained.to_f32_vec().unwrap(), evaluated.to_f32_vec().unwrap());
            assert_eq!(state.mask(1), None, "no dropout after the micro-batch");
            let other = {
                let _active = state.during(8);
                layer.forward(&x).unwrap()
            };
            assert_ne!(trained.to_f32_vec().unwrap(), other.to_f32_vec().unwrap());
            layer.attach(None::<Arc<Lora>>);
            close(&layer.forward(&x).unwrap(), &x.linear(&dense, Some(&bias)).unwrap());
        }
    }
    // The share of kept elements.
    let dropout = Dropout { p: 0.25, seed: 3 };
    let kept = (0..10_000).filter(|&i| dropout.keeps(i)).count();
    assert!((7_300..7_700).contains(&kept), "{kept}");
}

/// FNV-1a of the module path, as documented.
fn layer_salt() -> u64 {
    "m.q_proj".bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

#[test]
fn masks_of_modules_differ() {
    let state = DropoutState::new();
    let _active = state.during(1);
    let masks: std::collections::HashSet<_> = (0..1000).map(|salt| state.mask(salt).unwrap()).collect();
    assert_eq!(masks.len(), 1000);
}

#[test]
fn a_fresh_magnitude_changes_nothing() {
    let Case { layer, file, .. } = case("dora", None, true);
    let x = tensor(&file, "x");
    let before = layer.forward(&x).unwrap();
    let zero = Tensor::zeros(&[96, 8], DType::F32, device()).unwrap();
    let lora = Lora::new("q_proj", [tensor(&file, "lora_A"), zero], 2.0, 0.0, &DropoutState::new());
    let lora = lora.with_magnitude(&layer.weight, None, false).unwrap();
    layer.attach(Some(Arc::new(lora)));
    assert_eq!(worst(&layer.forward(&x).unwrap(), &before).0, 0.0);
}

/// The four tests above on the stand-in for CUDA's driver.
#[test]
fn on_cuda() {
    let tests = [
        "peft_in_f32",
        "peft_under_bf16_autocast",
        "dropout_follows_the_state",
        "a_fresh_magnitude_changes_nothing",
    ];
    for how in How::SCHEDULES.into_iter().chain([How::Sanitized]) {
        again(&tests, how);
    }
}
