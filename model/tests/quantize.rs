//! 4-bit weights against bitsandbytes 0.50.2 (spec qlora §12): codes, scales, values, files, products.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cuda_host::{How, again};
use engine::weights::{FileDType, SafetensorsWriter, TensorSpec, Weights};
use engine::{BlockFormat, Codebook, DType, Nested, QuantConfig, Quantized, QuantizedParts, Tensor, no_grad};
use model::bundle::network;
use model::config::Config;
use model::loader::Loader;
use model::lora::{MergedForm, merge_folder};
use model::nn::{Linear, Weight};
use model::quantize;
use roentgen_oracle::gpu::device;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/nf4")
}

/// A file of the fixture: from the repository, else from the shared data (two files are too large to copy).
fn fixture(name: &str) -> Option<Weights> {
    let name = format!("{name}.safetensors");
    let root = std::env::var_os("ROENTGEN_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let places = [folder().join(&name), root.join("fixtures/nf4").join(&name)];
    let Some(path) = places.iter().find(|p| p.is_file()) else {
        println!("SKIP: {name} is not here (set ROENTGEN_SHARED)");
        return None;
    };
    Some(Weights::open(path).unwrap())
}

fn f32s(file: &Weights, name: &str) -> Vec<f32> {
    file.require(name).unwrap().to_f32().unwrap()
}

fn bytes<'a>(file: &'a Weights, name: &str) -> &'a [u8] {
    file.require(name).unwrap().bytes()
}

fn tensor(file: &Weights, name: &str, dtype: DType) -> Tensor {
    let entry = file.require(name).unwrap();
    let t = Tensor::from_slice(&entry.to_f32().unwrap(), entry.shape(), device()).unwrap();
    t.to_dtype(dtype).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn quantized(w: &Tensor, codebook: Codebook, double: bool) -> Quantized {
    Quantized::quantize(w, &QuantConfig { codebook, block: 64, double }).unwrap()
}

/// The reference's codes and scales as a weight.
fn stored(file: &Weights, prefix: &str, nested: bool, codebook: Codebook) -> Quantized {
    let device = device();
    let dims: [usize; 2] = file.require("w").unwrap().shape().try_into().unwrap();
    let u8s = |name: &str| {
        let data = bytes(file, &format!("{prefix}{name}"));
        Tensor::from_slice(data, &[data.len()], device).unwrap()
    };
    let floats = |name: &str| tensor(file, &format!("{prefix}{name}"), DType::F32);
    Quantized::from_parts(QuantizedParts {
        dims,
        format: BlockFormat {
            codebook,
            block: 64,
            nested: nested
                .then(|| Nested { block: 256, offset: f32s(file, &format!("{prefix}nested.offset"))[0] }),
        },
        source: DType::F32,
        codes: u8s("packed"),
        absmax: if nested { u8s("nested.absmax_u8") } else { floats("absmax") },
        nested: nested.then(|| (floats("nested.nested_absmax"), floats("nested.nested_quant_map"))),
    })
    .unwrap()
}

#[test]
fn codes_scales_and_values() {
    for name in [
        "gauss_64x128",
        "gauss_48x100",
        "gauss_33x97_odd",
        "student_t2_256x256",
        "zeros_32x128",
        "thresholds_2x64",
    ] {
        let Some(file) = fixture(name) else { continue };
        let w = tensor(&file, "w", DType::F32);
        let kinds = [("", Codebook::Nf4), ("fp4.", Codebook::Fp4)];
        for (prefix, codebook) in kinds.into_iter().filter(|(p, _)| file.get(&format!("{p}packed")).is_some())
        {
            let key = |name: &str| format!("{prefix}{name}");
            let plain = quantized(&w, codebook, false);
            let (codes, packed) = (plain.parts().codes.to_bytes().unwrap(), bytes(&file, &key("packed")));
            // The reference writes FP4's second zero, code 8, for small negative values; the engine one zero.
            let zero = |half: u8| if codebook == Codebook::Fp4 && half == 8 { 0 } else { half };
            let plain_zeros: Vec<u8> = packed.iter().map(|b| zero(b >> 4) << 4 | zero(b & 15)).collect();
            assert!(codes == plain_zeros, "{name} {prefix}: codes");
            let absmax = plain.parts().absmax.to_f32_vec().unwrap();
            assert!(bits(&absmax) == bits(&f32s(&file, &key("absmax"))), "{name} {prefix}: scales");

            let double = quantized(&w, codebook, true);
            let (ours, theirs) =
                (double.parts().absmax.to_bytes().unwrap(), bytes(&file, &key("nested.absmax_u8")));
            let second = f32s(&file, &key("nested.nested_absmax"));
            // Scales that are all alike leave nothing for the second level; any code times 0 is right.
            if second.iter().all(|&x| x > 0.0) {
                let far = ours.iter().zip(theirs).filter(|(a, b)| a.abs_diff(**b) > 1).count();
                assert_eq!(far, 0, "{name} {prefix}: nested codes");
                if let Some(exact) = file.get(&key("emul_cuda.absmax_u8")) {
                    let differ = ours.iter().zip(exact.bytes()).filter(|(a, b)| a != b).count();
                    assert_eq!(differ, 0, "{name}: nested codes against the exact search");
                }
            }
            // Given the stored codes, every bit of every value.
            for nested in [false, true] {
                let weight = stored(&file, prefix, nested, codebook);
                for (dtype, suffix) in [(DType::F32, "f32"), (DType::BF16, "bf16")] {
                    let values = key(&format!("{}dequant_{suffix}", if nested { "nested." } else { "" }));
                    let ours = weight.dequantize(dtype).unwrap().to_f32_vec().unwrap();
                    assert!(bits(&ours) == bits(&f32s(&file, &values)), "{name} {values}");
                }
            }
        }
    }
}

/// `state` and `io` of a `Linear4bit`.
fn pair(kind: &str) -> (Weights, Weights) {
    (
        fixture(&format!("linear4bit_state_{kind}")).unwrap(),
        fixture(&format!("linear4bit_io_{kind}")).unwrap(),
    )
}

#[test]
fn a_state_dict_reads_back_and_writes_the_same_bytes() {
    for kind in ["nested", "plain"] {
        let (state, io) = pair(kind);
        assert!(quantize::is_quantized(&state, "layer.weight"));
        assert!(!quantize::is_quantized(&state, "layer.bias"));
        let weight = quantize::read(&state, "layer.weight", device()).unwrap();
        assert_eq!((weight.dims(), weight.parts().source), ([96, 128], DType::BF16));
        let values = weight.dequantize(DType::BF16).unwrap().to_f32_vec().unwrap();
        assert_eq!(bits(&values), bits(&f32s(&io, "w_dequant_bf16")));

        // Our own quantisation of the source weight: the same codes, scales of the second level within one code.
        let own = quantized(&tensor(&io, "w_source_bf16", DType::BF16), Codebook::Nf4, kind == "nested");
        assert!(own.parts().codes.to_bytes().unwrap() == bytes(&state, "layer.weight"), "{kind}");
        let scales = own.parts().absmax.to_bytes().unwrap();
        let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b);
        let far = scales.iter().zip(bytes(&state, "layer.weight.absmax")).map(apart).max();
        assert!(far.unwrap() <= 1, "{kind}: {far:?}");

        let mut tensors = quantize::tensors("layer.weight", &weight).unwrap();
        let bias = state.require("layer.bias").unwrap();
        tensors.insert(0, ("layer.bias".into(), FileDType::BF16, vec![96], bias.bytes().to_vec()));
        let specs: Vec<_> =
            tensors.iter().map(|(name, dtype, shape, _)| TensorSpec { name, dtype: *dtype, shape }).collect();
        let mut out = std::io::Cursor::new(Vec::new());
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut writer = SafetensorsWriter::new(&mut out, Path::new("w"), &specs, &metadata).unwrap();
        for (name, _, _, bytes) in &tensors {
            writer.write(name, bytes).unwrap();
        }
        writer.finish().unwrap();
        let path = folder().join(format!("linear4bit_state_{kind}.safetensors"));
        let (ours, theirs) = (out.into_inner(), std::fs::read(path).unwrap());
        if let Some(at) = ours.iter().zip(&theirs).position(|(a, b)| a != b) {
            let text =
                |bytes: &[u8]| String::from_utf8_lossy(&bytes[at.saturating_sub(20)..][..60]).into_owned();
            panic!("{kind}: byte {at} differs: {:?} against {:?}", text(&ours), text(&theirs));
        }
        assert_eq!(ours.len(), theirs.len());
    }
}

#[test]
fn products_lie_within_a_rounding_of_the_references() {
    for kind in ["nested", "plain"] {
        let (state, io) = pair(kind);
        let weight = quantize::read(&state, "layer.weight", device()).unwrap();
        let bias = Some(tensor(&state, "layer.bias", DType::BF16));
        let layer = Linear::new("layer", Weight::Quantized(Arc::new(weight)), bias, None);
        let x = tensor(&io, "x_bf16", DType::BF16).tracked();
        let dy = tensor(&io, "dy_bf16", DType::BF16);
        let y = layer.forward(&x).unwrap();
        let dx = y.backward_from(&dy).unwrap().take(&x).unwrap();
        let largest_w = f32s(&io, "w_dequant_bf16").iter().fold(0.0f32, |m, w| m.max(w.abs()));
        for (ours, name, inner, input) in [(&y, "y", 128f32, "x_bf16"), (&dx, "dx", 96.0, "dy_bf16")] {
            let largest = f32s(&io, input).iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let slack = 2f32.powi(-8) * inner.sqrt() * largest * largest_w;
            let exact = f32s(&io, &format!("{name}_f32_ref"));
            let theirs = f32s(&io, &format!("{name}_bf16"));
            for ((a, e), t) in ours.to_f32_vec().unwrap().iter().zip(&exact).zip(&theirs) {
                // A step of bf16 at `e`, or less than two.
                let ulp = e.abs() * 2f32.powi(-7);
                // To the exact product: one rounding and the order of f32 sums.
                assert!((a - e).abs() <= 0.505 * ulp + 2e-6 * largest, "{kind} {name}: {a} against {e}");
                assert!((a - t).abs() <= ulp + slack, "{kind} {name}: {a} against bitsandbytes' {t}");
            }
        }
    }
}

#[test]
fn codes_under_other_storage_types() {
    let (state, _) = pair("nested");
    let want = quantize::read(&state, "layer.weight", device()).unwrap().dequantize(DType::F32).unwrap();
    for (dtype, size) in [(FileDType::BF16, 2), (FileDType::F16, 2), (FileDType::F32, 4)] {
        let file = rewritten(&state, |name, kind, shape, bytes| {
            if name == "layer.weight" {
                (*kind, *shape) = (dtype, vec![bytes.len() / size, 1]);
            }
        });
        let weight = quantize::read(&file, "layer.weight", device()).unwrap();
        assert_eq!(weight.dequantize(DType::F32).unwrap().to_bytes().unwrap(), want.to_bytes().unwrap());
    }
}

/// `file` with each tensor changed by `change`; those whose name becomes empty are left out.
fn rewritten(
    file: &Weights,
    change: impl Fn(&mut String, &mut FileDType, &mut Vec<usize>, &mut Vec<u8>),
) -> Weights {
    let mut tensors = Vec::new();
    for entry in file.entries() {
        let (mut name, mut dtype) = (entry.name().to_owned(), entry.dtype());
        let (mut shape, mut bytes) = (entry.shape().to_vec(), entry.bytes().to_vec());
        change(&mut name, &mut dtype, &mut shape, &mut bytes);
        if !name.is_empty() {
            tensors.push((name, dtype, shape, bytes));
        }
    }
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("w.safetensors");
    let list =
        tensors.iter().map(|(name, dtype, shape, bytes)| (name.as_str(), *dtype, &shape[..], &bytes[..]));
    engine::weights::write_safetensors(&path, list, &BTreeMap::new()).unwrap();
    Weights::open(path).unwrap()
}

type Change<'a> = &'a dyn Fn(&mut String, &mut FileDType, &mut Vec<usize>, &mut Vec<u8>);

#[test]
fn damaged_weights_are_refused_by_name() {
    const STATE: &str = "layer.weight.quant_state.bitsandbytes__nf4";
    let (state, _) = pair("nested");
    let cases: [(&str, Change<'_>); 9] = [
        ("layer.weight.absmax", &|name, _, _, _| {
            if name.ends_with(".absmax") {
                name.clear();
            }
        }),
        ("layer.weight.quant_map", &|name, _, _, _| {
            if name.ends_with(".quant_map") {
                name.clear();
            }
        }),
        ("layer.weight.nested_quant_map", &|name, _, _, _| {
            if name.ends_with("nested_quant_map") {
                name.clear();
            }
        }),
        ("is not the table of nf4", &|name, _, _, bytes| {
            if name.ends_with(".quant_map") {
                bytes[3] ^= 0x40;
            }
        }),
        ("not finite", &|name, _, _, bytes| {
            if name.ends_with("nested_absmax") {
                bytes.copy_from_slice(&f32::NAN.to_le_bytes());
            }
        }),
        ("expected u8 [6144, 1]", &|name, _, shape, bytes| {
            if name == "layer.weight" {
                bytes.pop();
                shape[0] -= 1;
            }
        }),
        ("U8 codes are expected", &|name, dtype, shape, _| {
            if name.ends_with(".absmax") {
                (*dtype, shape[0]) = (FileDType::F32, shape[0] / 4);
            }
        }),
        ("layer.weight", &|name, _, shape, bytes| {
            if name == STATE {
                let text = String::from_utf8(bytes.clone())
                    .unwrap()
                    .replace("[96, 128]", "[4294967295, 4294967295]");
                *bytes = text.into_bytes();
                shape[0] = bytes.len();
            }
        }),
        ("the text says nf4, the name fp4", &|name, _, _, _| {
            if name == STATE {
                *name = name.replace("nf4", "fp4");
            }
        }),
    ];
    for (says, change) in cases {
        let file = rewritten(&state, change);
        let error = quantize::read(&file, "layer.weight", device()).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("w.safetensors"), "{says}: {error}");
    }
}

#[test]
fn a_loader_reads_and_makes_quantised_layers() {
    let device = device();
    let (state, _) = pair("nested");
    let state = Arc::new(state);
    let loader = Loader::from_weights(state.clone(), Some(DType::F32), device);
    let layer = Linear::load(&loader, "layer", 128, 96, true).unwrap();
    assert!(matches!(layer.weight, Weight::Quantized(_)));
    assert_eq!(layer.bias.unwrap().dtype(), DType::F32);
    let error = Linear::load(&loader, "layer", 128, 97, true).unwrap_err().to_string();
    assert!(error.contains("[96, 128]") && error.contains("[97, 128]"), "{error}");
    let loader = Loader::from_weights(state, Some(DType::F32), device).trainable();
    let error = Linear::load(&loader, "layer", 128, 96, true).unwrap_err().to_string();
    assert!(error.contains("cannot be trained"), "{error}");

    let loader =
        Loader::random(1, DType::BF16, device).quantized(QuantConfig::default(), vec!["lm_head".into()]);
    let layer = Linear::load(&loader, "a.q_proj", 128, 96, false).unwrap();
    assert!(matches!(layer.weight, Weight::Quantized(_)));
    assert_eq!(layer.weight.dtype(), DType::BF16);
    let head = Linear::load(&loader, "lm_head", 128, 96, false).unwrap();
    assert!(matches!(head.weight, Weight::Dense(_)));
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/smolvlm-tiny")
}

/// Logits of a few tokens and their image-less forward pass.
fn logits(folder: &Path) -> Vec<f32> {
    let config = Config::from_file(folder.join("config.json")).unwrap();
    let weights = Arc::new(Weights::open(folder).unwrap());
    let network = network(&Loader::from_weights(weights, None, device()), &config).unwrap();
    no_grad(|| {
        let text = network.decoder();
        let embeds = text.embed(&[1, 20, 30, 40, 50], 1).unwrap();
        let places = model::llama::Places::from(0, 1, 5, text.device()).unwrap();
        text.logits(&text.forward(&embeds, &places, None).unwrap()).unwrap().to_f32_vec().unwrap()
    })
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let squares = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    (squares(a, b) / squares(b, &vec![0.0; b.len()])).sqrt()
}

#[test]
fn folders_are_quantised_and_open() {
    for (codebook, double) in [(Codebook::Nf4, true), (Codebook::Nf4, false), (Codebook::Fp4, true)] {
        let config = QuantConfig { codebook, block: 64, double };
        let skip = quantize::SKIPPED.map(str::to_owned);
        let out = tempfile::tempdir().unwrap();
        let mut names = Vec::new();
        let mut seen = |total: usize, name: &str| {
            assert_eq!(total, 59);
            names.push(name.to_owned());
        };
        let rows = quantize::quantize_folder(&tiny(), out.path(), &config, &skip, &mut seen).unwrap();
        // 2 × 6 in the vision tower, the connector, 2 × 7 in the decoder.
        assert_eq!((rows.len(), names.len()), (27, 59));
        let expected = if codebook == Codebook::Nf4 { 0.05..0.12 } else { 0.05..0.16 };
        assert!(rows.iter().all(|row| expected.contains(&row.relative)), "{rows:?}");
        let far = distance(&logits(out.path()), &logits(&tiny()));
        assert!((0.01..0.5).contains(&far), "{far}");
        let text = std::fs::read_to_string(out.path().join("config.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let section = &json["quantization_config"];
        assert_eq!(section["bnb_4bit_quant_type"], codebook.name());
        assert_eq!(section["bnb_4bit_use_double_quant"], double);
        assert_eq!(section["quant_method"], "bitsandbytes");
        let again =
            quantize::quantize_folder(out.path(), &out.path().join("twice"), &config, &skip, &mut |_, _| {});
        assert!(again.unwrap_err().to_string().contains("quantised already"));
    }
    let own = quantize::quantize_folder(&tiny(), &tiny(), &QuantConfig::default(), &[], &mut |_, _| {});
    assert!(own.unwrap_err().to_string().contains("is the model itself"));
}

#[test]
fn quantising_as_a_loader_reads_gives_what_the_folder_gives() {
    let skip = quantize::SKIPPED.map(str::to_owned);
    let out = tempfile::tempdir().unwrap();
    quantize::quantize_folder(&tiny(), out.path(), &QuantConfig::default(), &skip, &mut |_, _| {}).unwrap();
    let config = Config::from_file(tiny().join("config.json")).unwrap();
    let open = |folder: &Path, quantised: bool| {
        let weights = Arc::new(Weights::open(folder).unwrap());
        let loader = Loader::from_weights(weights, Some(DType::F32), device());
        let loader = if quantised { loader } else { loader.quantized(QuantConfig::default(), skip.to_vec()) };
        network(&loader, &config).unwrap()
    };
    let (stored, made) = (open(out.path(), true), open(&tiny(), false));
    for (a, b) in stored.linears().iter().zip(made.linears()) {
        let values = |l: &Linear| l.weight.to_dense(DType::F32).unwrap().to_bytes().unwrap();
        assert!(values(a) == values(b), "{}", a.path);
        assert_eq!(matches!(a.weight, Weight::Quantized(_)), a.path != "lm_head");
    }
}

#[test]
fn adapters_are_folded_in() {
    let adapter = tiny().join("adapter");
    let adapted = {
        let config = Config::from_file(tiny().join("config.json")).unwrap();
        let weights = Arc::new(Weights::open(tiny().join("model.safetensors")).unwrap());
        let network = network(&Loader::from_weights(weights, None, device()), &config).unwrap();
        network.attach(&model::lora::Adapter::open(&adapter, &network).unwrap()).unwrap();
        no_grad(|| {
            let text = network.decoder();
            let embeds = text.embed(&[1, 20, 30, 40, 50], 1).unwrap();
            let places = model::llama::Places::from(0, 1, 5, text.device()).unwrap();
            text.logits(&text.forward(&embeds, &places, None).unwrap()).unwrap().to_f32_vec().unwrap()
        })
    };
    let skip: Vec<String> = quantize::SKIPPED.map(str::to_owned).into();
    let nf4 = MergedForm::Quantized(QuantConfig::default(), skip.clone());
    let quantised = tempfile::tempdir().unwrap();
    quantize::quantize_folder(&tiny(), quantised.path(), &QuantConfig::default(), &skip, &mut |_, _| {})
        .unwrap();
    for (base, form, limit, count) in [
        (tiny(), MergedForm::Float(DType::F32), 1e-6, 0),
        (tiny(), MergedForm::Float(DType::BF16), 2e-2, 0),
        (tiny(), nf4.clone(), 0.5, 27),
        (quantised.path().to_owned(), MergedForm::Float(DType::F32), 0.5, 0),
        // Only the 20 layers of the adapter are rounded again.
        (quantised.path().to_owned(), nf4, 0.5, 20),
    ] {
        let out = tempfile::tempdir().unwrap();
        let rows = merge_folder(&base, &adapter, out.path(), &form, &mut |_, _| {}).unwrap();
        assert_eq!(rows.len(), count, "{form:?}");
        let far = distance(&logits(out.path()), &adapted);
        println!("{form:?}: {far:.2e}");
        assert!(far <= limit, "{form:?}: {far}");
        let text = std::fs::read_to_string(out.path().join("config.json")).unwrap();
        assert_eq!(text.contains("quantization_config"), matches!(form, MergedForm::Quantized(..)));
    }
}

/// What computes on weights in 4 bits, on the stand-in for CUDA's driver.
#[test]
fn on_cuda() {
    let tests = [
        "codes_scales_and_values",
        "products_lie_within_a_rounding_of_the_references",
        "codes_under_other_storage_types",
        "folders_are_quantised_and_open",
        "quantising_as_a_loader_reads_gives_what_the_folder_gives",
        "adapters_are_folded_in",
    ];
    for how in How::SCHEDULES.into_iter().chain([How::Sanitized]) {
        again(&tests, how);
    }
}
