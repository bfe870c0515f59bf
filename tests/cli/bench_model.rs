//! `bench model` on a tiny model.

use crate::program::{Outcome, command, finish};
use crate::tiny::Tiny;

/// Runs with ceilings kept in a file of the tests' own, so that only the first of them measures the machine.
fn bench_model(model: &str, args: &[&str]) -> Outcome {
    let machine = std::env::temp_dir().join("roentgen-test-machine.json");
    finish(command().env("ROENTGEN_MACHINE", machine).args(["bench", "model", model]).args(args))
}

fn bench(tiny: &Tiny, args: &[&str]) -> Outcome {
    bench_model(tiny.name(), &[&["--repeats", "2"][..], args].concat())
}

#[test]
fn every_figure_of_a_model_is_there() {
    let tiny = Tiny::new();
    let page = tiny.path().join("model.html");
    let args =
        ["--dtype", "f32", "--prefill", "4,16", "--decode", "0,8", "--tokens", "3", "--text-tokens", "5"];
    let outcome =
        bench(&tiny, &[&args[..], &["--overhead", "--json", "--html", page.to_str().unwrap()]].concat()).ok();
    let run = outcome.json();
    let rows = run["rows"].as_array().unwrap();
    let names: Vec<_> =
        rows.iter().map(|r| r["case"].as_str().unwrap().rsplit(", ").next().unwrap()).collect();
    assert_eq!(names, ["vision", "1 tile + 5", "prefill 4", "prefill 16", "decode 3", "decode 3 at 8"]);
    for row in rows {
        assert_eq!(row["samples"].as_array().unwrap().len(), 2, "{row}");
        for key in ["flops", "bytes_read", "flops_per_second", "percent_of_peak", "percent_of_roofline"] {
            assert!(row[key].as_f64().unwrap() > 0.0, "{key}: {row}");
        }
        assert!(row["peak_tensor_bytes"].as_u64().unwrap() > 0 && row["loaded_bytes"].as_u64().unwrap() > 0);
        assert!(row["recorded"]["speedup"].as_f64().unwrap() > 0.0, "{row}");
    }
    // Four times the tokens, at least four times the work of the layers; the head is the same.
    let flops = |i: usize| rows[i]["flops"].as_f64().unwrap();
    assert!(flops(3) > 2.0 * flops(2) && flops(3) < 8.0 * flops(2));
    assert!(std::fs::read_to_string(page).unwrap().contains("prefill 16"));
}

#[test]
fn a_training_step_dense_and_quantised() {
    let tiny = Tiny::new();
    let text = ["--text-tokens", "6", "--dtype", "f32", "--dropout", "0"];
    let step = |more: &[&str]| bench(&tiny, &[&["--train", "--json"][..], &text, more].concat()).ok().json();
    let dense = step(&[]);
    let row = &dense["rows"][0];
    assert!(row["case"].as_str().unwrap().ends_with("step"));
    let losses = row["parts"]["losses"].as_array().unwrap();
    assert_eq!(losses.len(), 3, "one step before two measured ones");
    assert!(losses[2].as_f64().unwrap() < losses[0].as_f64().unwrap(), "it learns: {losses:?}");
    assert!(row["parts"]["planned_bytes"].is_null());
    let nf4 = step(&["--nf4", "--checkpointing"]);
    let row = &nf4["rows"][0];
    assert!(
        row["case"].as_str().unwrap().contains("NF4")
            && row["case"].as_str().unwrap().ends_with("checkpointing")
    );
    assert!(row["parts"]["planned_bytes"].as_u64().unwrap() > 0);
}

#[test]
fn a_configuration_alone_is_measured_with_random_weights() {
    let tiny = Tiny::new();
    let config = tiny.path().join("config.json");
    let args = ["--prefill", "8", "--tokens", "0", "--repeats", "1"];
    let text = bench_model(config.to_str().unwrap(), &args).ok().stdout;
    assert!(
        text.contains("random weights") && text.contains("prefill 8") && !text.contains("decode"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_measured_is_said() {
    let tiny = Tiny::new();
    bench(&tiny, &["--prefill", "4000"]).fails(&["4000 tokens", "max_position_embeddings"]);
    bench(&tiny, &["--train", "--text-tokens", "0"]).fails(&["text token"]);
    bench(&tiny, &["--train", "--image", "no-such.png"]).fails(&["no-such.png"]);
    bench_model("gpt-5", &[]).fails(&["gpt-5", "smolvlm-256m", "config.json"]);
    let broken = tiny.path().join("broken.json");
    std::fs::write(&broken, "{").unwrap();
    bench_model(broken.to_str().unwrap(), &[]).fails(&["broken.json"]);
}
