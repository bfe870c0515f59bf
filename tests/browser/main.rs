//! The page of `shaders/browser` in headless Chromium: its shader compiler (Tint) on every kernel, and reports that must be the
//! program's own, id for id. See docs/browser.md.

mod chromium;
mod reference;
mod server;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use engine::DType;
use engine::wgpu::shaders::{Access, Value as Constant, Variant, assemble, every_variant};
use serde_json::{Value, json};

use chromium::{find, visit};
use reference::{Asked, Program};
use server::Server;

/// How long a page may take on a busy machine: the processor plays the GPU.
const PATIENCE: Duration = Duration::from_mins(4);

/// Largest difference of a byte where the browser decodes the image: decoders of JPEG may round differently.
const JPEG_TOLERANCE: u8 = 2;

#[test]
fn the_browsers_compiler_accepts_every_kernel() {
    let Some(chromium) = find("the browser's shader compiler") else { return };
    // Tint reads every text. What follows is the driver's work and takes SwiftShader most of a second for each: it must do
    // for one element type, the model's.
    let mut texts: BTreeMap<String, Value> = BTreeMap::new();
    for (kernel, float, variant) in every_variant() {
        let source = assemble(kernel, &variant).unwrap();
        // Browsers have no cooperative matrices.
        if source.text.starts_with("enable ") {
            continue;
        }
        let name = format!("{kernel} {variant:?}");
        let entry = texts.entry(source.text).or_insert_with_key(|text| json!({ "name": name, "text": text }));
        if float == DType::BF16 {
            entry["pipeline"] = true.into();
        }
    }
    let texts: Vec<Value> = texts.into_values().collect();
    let count = texts.len();
    let extra = HashMap::from([("/variants.json".to_owned(), serde_json::to_vec(&texts).unwrap())]);
    let server = Server::start(extra);
    let query = "check&variants=/variants.json&post=/done";
    let Some(result) = visit(&chromium, &server, query, PATIENCE) else { return };
    assert!(result["error"].is_null(), "{}\n{}", result["error"], result["stack"]);
    assert_eq!(result["checked"], count, "{result}");
    let refused: Vec<String> = result["refused"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kernel| format!("{}\n  {}", kernel["name"], kernel["messages"]))
        .collect();
    assert!(refused.is_empty(), "{} of {count} kernels:\n{}", refused.len(), refused.join("\n"));
    assert!(result["problem"].is_null(), "{}", result["problem"]);
    println!("{count} kernels accepted by Tint in {} s on {}", result["seconds"], result["adapter"]);
}

#[test]
fn the_page_writes_the_programs_reports() {
    let Some(chromium) = find("reports in the browser") else { return };
    let demo = |name: &str, case: &'static str| Asked::demo(name, case);
    let asked = [
        demo("nih-00004621_000.jpg", ""),
        demo(
            "nih-00015599_000.jpg",
            "A 44-year-old woman. Posteroanterior (PA) view; naïve 38.5 °C, Δ  two spaces.",
        ),
        demo("nih-00028558_000.jpg", ""),
        // Few tokens: these are about pixels.
        Asked::png("/test/grey8.png", image::ColorType::L8),
        Asked::png("/test/grey16.png", image::ColorType::L16),
        Asked::png("/test/rgba8.png", image::ColorType::Rgba8),
    ];
    let program = Program::open();
    let extra = asked.iter().filter_map(Asked::served).collect();
    let server = Server::start(extra);
    let query: String = asked.iter().map(|a| format!("&{}", a.query())).collect();
    let query = format!("auto&picked&post=/done{query}");
    let Some(result) = visit(&chromium, &server, &query, PATIENCE) else { return };
    assert!(result["error"].is_null(), "{}\n{}", result["error"], result["stack"]);
    let answers = result["answers"].as_array().unwrap();
    assert_eq!(answers.len(), asked.len());
    for (asked, answer) in asked.iter().zip(answers) {
        let expected = program.answer(asked);
        let name = asked.name();
        assert_eq!(answer["promptIds"], json!(expected.prompt_ids), "{name}: ids of the prompt");
        let difference = largest_difference(&answer["tiles"], &expected.tiles);
        let allowed = if asked.is_jpeg() { JPEG_TOLERANCE } else { 0 };
        assert!(difference <= allowed, "{name}: a byte of the model's image differs by {difference}");
        assert_eq!(
            answer["ids"],
            json!(expected.ids),
            "{name}: {} instead of {}",
            answer["text"],
            expected.text
        );
        assert_eq!(answer["text"], expected.text.trim(), "{name}");
        println!(
            "{name}: {} ids equal, image bytes within {difference}, {:.2} s in the page ({:.2} s to the first token)",
            expected.ids.len(),
            answer["times"]["total"].as_f64().unwrap() / 1e3,
            answer["times"]["first"].as_f64().unwrap() / 1e3,
        );
    }
    let kernels = result["kernels"].as_array().unwrap();
    for kernel in kernels {
        assert_same_text(kernel);
    }
    println!("{} kernels have the native text; on {}", kernels.len(), result["adapter"]);
}

#[test]
fn what_is_wrong_is_said() {
    let Some(chromium) = find("errors of the page") else { return };
    let demo = |name: &str| std::fs::read(reference::demo_folder().join(name)).unwrap();
    let names = ["config.json", "tokenizer.json", "preprocessor_config.json", "generation_config.json"];
    let mut extra: HashMap<_, _> = names.iter().map(|n| (format!("/cut/{n}"), demo(n))).collect();
    let weights = demo("model.safetensors");
    extra.insert("/cut/model.safetensors".into(), weights[..weights.len() - 100].to_vec());
    extra.insert("/test/report.pdf".into(), b"%PDF-1.7 and more".to_vec());
    let jpeg = demo("images/nih-00004621_000.jpg");
    extra.insert("/test/cut.jpg".into(), jpeg[..jpeg.len() / 2].to_vec());
    let server = Server::start(extra);
    for (query, part) in [
        ("model=/cut/", "cut off"),
        ("model=/nowhere/", "has no config.json"),
        ("image=/test/report.pdf", "report.pdf: not a PNG, JPEG or WebP image but a PDF document"),
        ("image=/test/cut.jpg", "cut.jpg: the JPEG data end too early"),
    ] {
        let Some(result) = visit(&chromium, &server, &format!("auto&post=/done&{query}"), PATIENCE) else {
            return;
        };
        let error = result["error"].as_str().unwrap_or_else(|| panic!("{query}: no error"));
        assert!(error.contains(part), "{query}: {error}");
    }
}

/// Largest difference of the page's tiles, in hexadecimal digits, from the program's.
fn largest_difference(page: &Value, program: &[Vec<Vec<u8>>]) -> u8 {
    let tiles = page.as_array().unwrap();
    assert_eq!(tiles.len(), program.len(), "tiles");
    let mut largest = 0;
    for (tile, expected) in tiles.iter().zip(program) {
        let planes = tile.as_array().unwrap();
        assert_eq!(planes.len(), expected.len(), "planes");
        for (plane, expected) in planes.iter().zip(expected) {
            let digits = plane.as_str().unwrap();
            assert_eq!(digits.len(), 2 * expected.len(), "bytes of a plane");
            for (i, &byte) in expected.iter().enumerate() {
                let value = u8::from_str_radix(&digits[2 * i..2 * i + 2], 16).unwrap();
                largest = largest.max(value.abs_diff(byte));
            }
        }
    }
    largest
}

/// The native assembly of what the page assembled must give the same text.
fn assert_same_text(kernel: &Value) {
    // Names live as long as the program: a variant's are those of its source.
    let name = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    let mut variant = Variant::default();
    for (tensor, bound) in kernel["tensors"].as_object().unwrap() {
        let dtype = DType::ALL.into_iter().find(|d| bound["dtype"] == d.name()).unwrap();
        let access = match bound["access"].as_str().unwrap() {
            "Read" => Access::Read,
            "Whole" => Access::Whole,
            "Shared" => Access::Shared,
            other => panic!("access {other}"),
        };
        variant.tensors.insert(name(tensor), (dtype, access));
    }
    for (constant, value) in kernel["constants"].as_object().unwrap() {
        let value = match value {
            Value::Bool(flag) => Constant::Flag(*flag),
            number => Constant::Number(u32::try_from(number.as_u64().unwrap()).unwrap()),
        };
        variant.constants.insert(name(constant), value);
    }
    let names =
        |key: &str| kernel[key].as_array().unwrap().iter().map(|n| name(n.as_str().unwrap())).collect();
    variant.dense = names("dense");
    variant.wide = names("wide");
    let file = kernel["kernel"].as_str().unwrap();
    let native = assemble(file, &variant).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(kernel["text"], native.text, "{file} {variant:?}");
}
