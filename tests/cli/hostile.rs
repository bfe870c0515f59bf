//! Broken images, models and prompts: a clear error or a right answer, never a panic, no partial output.

use crate::program::{Outcome, roentgen};
use crate::tiny::{Images, Tiny};

fn report(tiny: &Tiny, image: &std::path::Path) -> Outcome {
    roentgen(["report", image.to_str().unwrap(), "--model", tiny.name(), "--max-new-tokens", "4"])
}

/// `report` with a model that was changed.
fn with(change: impl FnOnce(&Tiny)) -> Outcome {
    let (tiny, images) = (Tiny::new(), Images::new());
    change(&tiny);
    report(&tiny, &images.gradient("a.png", 24, 24))
}

#[test]
fn images_that_are_none() {
    let (tiny, images) = (Tiny::new(), Images::new());
    let whole = std::fs::read(images.gradient("whole.jpg", 200, 200)).unwrap();
    let png = std::fs::read(images.gradient("whole.png", 200, 200)).unwrap();
    report(&tiny, &images.raw("cut.jpg", &whole[..whole.len() / 2])).fails(&["cut.jpg", "cut off"]);
    report(&tiny, &images.raw("cut.png", &png[..png.len() / 2])).fails(&["cut.png", "cut off"]);
    report(&tiny, &images.raw("text.png", b"Dear colleague,"))
        .fails(&["text.png", "not a PNG, JPEG or WebP"]);
    report(&tiny, &images.raw("empty.png", b"")).fails(&["empty.png", "empty"]);
    report(&tiny, &images.path().join("absent.png")).fails(&["absent.png"]);
    let mut lies = png;
    lies[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    report(&tiny, &images.raw("lies.png", &lies)).fails(&["lies.png"]);
}

#[test]
fn images_of_extreme_shapes_are_read() {
    let (tiny, images) = (Tiny::new(), Images::new());
    report(&tiny, &images.gradient("dot.png", 1, 1)).ok();
    report(&tiny, &images.gradient("wide.png", 20_000, 3)).ok();
    report(&tiny, &images.gradient("tall.jpg", 3, 20_000)).ok();
}

#[test]
fn weights_that_do_not_fit() {
    with(|t| t.edit_weights(|w| drop(w.remove("model.text_model.norm.weight"))))
        .fails(&["model.text_model.norm.weight", "not there"]);
    with(|t| t.edit_weights(|w| w.get_mut("lm_head.weight").unwrap().shape.swap(0, 1))).fails(&[
        "lm_head.weight",
        "[64, 512]",
        "[512, 64]",
    ]);
    let path = |t: &Tiny| t.path().join("model.safetensors");
    with(|t| {
        let bytes = std::fs::read(path(t)).unwrap();
        std::fs::write(path(t), &bytes[..bytes.len() / 2]).unwrap();
    })
    .fails(&["model.safetensors"]);
    with(|t| std::fs::write(path(t), b"nonsense").unwrap()).fails(&["model.safetensors"]);
    with(|t| std::fs::remove_file(path(t)).unwrap()).fails(&["model.safetensors"]);
}

#[test]
fn a_weight_that_is_not_a_number_is_named() {
    for name in ["model.text_model.layers.1.mlp.up_proj.weight", "model.vision_model.post_layernorm.bias"] {
        let spoil = |t: &Tiny| {
            t.edit_weights(|w| w.get_mut(name).unwrap().bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
        };
        with(spoil).fails(&["not finite", name]);
    }
}

#[test]
fn a_weight_that_is_not_a_number_ends_a_batch() {
    let (tiny, images) = (Tiny::new(), Images::new());
    tiny.edit_weights(|w| {
        w.get_mut("lm_head.weight").unwrap().bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    images.gradient("a.png", 24, 24);
    images.gradient("b.png", 24, 24);
    roentgen(["report", images.name(), "--model", tiny.name()]).fails(&["not finite", "lm_head.weight"]);
}

#[test]
fn small_files_that_are_missing_or_wrong() {
    with(|t| std::fs::remove_file(t.path().join("config.json")).unwrap()).fails(&["config.json"]);
    with(|t| std::fs::remove_file(t.path().join("tokenizer.json")).unwrap()).fails(&["tokenizer.json"]);
    with(|t| t.write("tokenizer.json", "{}")).fails(&["tokenizer.json"]);
    with(|t| t.write("config.json", "[1, 2")).fails(&["config.json"]);
    with(|t| t.edit_config(|c| c["text_config"]["hidden_size"] = 0.into()))
        .fails(&["config.json", "hidden_size"]);
    with(|t| t.edit_config(|c| c["image_token_id"] = 7.into())).fails(&["<image>"]);
    with(|t| t.edit_config(|c| c["text_config"]["num_hidden_layers"] = 3.into())).fails(&["layers.2"]);
    with(|t| t.write("preprocessor_config.json", "{\"max_image_size\": {\"longest_edge\": 30}}"))
        .fails(&["preprocessor_config.json"]);
    with(|t| t.write("chat_template.jinja", "{% for %}")).fails(&["chat_template.jinja"]);
    with(|t| t.write("chat_template.jinja", "{% for i in range(999999999) %}{% endfor %}"))
        .fails(&["chat_template"]);
}

#[test]
fn prompts_that_are_too_long() {
    let (tiny, images) = (Tiny::new(), Images::new());
    let long = "thorax ".repeat(5000);
    let generate = ["generate", "--model", tiny.name(), "--prompt", &long];
    roentgen(generate).fails(&["prompt", "1024"]);
    tiny.edit_config(|c| c["text_config"]["max_position_embeddings"] = 64.into());
    report(&tiny, &images.gradient("a.png", 24, 24)).fails(&["a.png", "64 positions"]);
}

#[test]
fn a_full_cache_ends_the_answer() {
    let tiny = Tiny::new();
    tiny.edit_config(|c| {
        c["text_config"]["max_position_embeddings"] = 16.into();
        c["eos_token_id"] = 2.into();
    });
    let json = roentgen([
        "generate",
        "--model",
        tiny.name(),
        "--prompt",
        "Write",
        "--max-new-tokens",
        "100",
        "--json",
    ])
    .ok()
    .json();
    let answer = &json["answers"][0];
    let tokens = answer["prompt_ids"].as_array().unwrap().len() + answer["ids"].as_array().unwrap().len();
    assert!(tokens <= 17, "{tokens} tokens in 16 positions");
}

#[test]
fn models_that_are_none() {
    let images = Images::new();
    let image = images.gradient("a.png", 24, 24);
    let model = |path: &str| roentgen(["report", image.to_str().unwrap(), "--model", path]);
    model("/no/such/model").fails(&["/no/such/model"]);
    model(images.name()).fails(&[images.name(), "model.safetensors"]);
    model(image.to_str().unwrap()).fails(&["a.png"]);
    let gguf = images.raw("x.gguf", b"GGUF\x03\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff");
    model(gguf.to_str().unwrap()).fails(&["x.gguf"]);
}

#[test]
fn half_precision_files_are_opened_as_f32() {
    let (tiny, images) = (Tiny::new(), Images::new());
    let image = images.gradient("a.png", 24, 24);
    tiny.edit_weights(|tensors| {
        for tensor in tensors.values_mut() {
            let floats = tensor.bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
            tensor.bytes = floats.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect();
            tensor.dtype = engine::weights::FileDType::F16;
        }
    });
    report(&tiny, &image).ok();
}
