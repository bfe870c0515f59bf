//! The real SmolLM2-135M-Instruct (GGUF, `Q4_1`) against an independent f32 forward pass: greedy ids, logits,
//! log-likelihoods of radiology captions. `ROENTGEN_SMOLLM2_GGUF` names the file.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use engine::{DType, Device, Tensor, no_grad};
use model::bundle::Bundle;
use model::generate::{Options, generate};
use model::llama::Places;
use serde_json::Value;

/// The golden numbers come from another order of f32 sums; their maker allows a thousandth.
const TOLERANCE: f64 = 1e-3;

fn gguf() -> Option<PathBuf> {
    let path = std::env::var_os("ROENTGEN_SMOLLM2_GGUF").map(PathBuf::from);
    if path.is_none() {
        println!("SKIP: ROENTGEN_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct.Q4_1.gguf");
    }
    path
}

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smollm2-135m/golden.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Logits of every position, `[n][vocabulary]`.
fn logits(bundle: &Bundle, ids: &[u32]) -> Vec<Vec<f32>> {
    let model = bundle.decoder();
    let logits = no_grad(|| {
        let embeds = model.embed(ids, 1)?;
        let places = Places::from(0, 1, ids.len(), model.device())?;
        let logits: Tensor = model.logits(&model.forward(&embeds, &places, None)?)?;
        Ok::<_, model::Error>(logits.to_f32_vec()?)
    });
    logits.unwrap().chunks(model.config().vocab_size).map(<[f32]>::to_vec).collect()
}

#[test]
fn the_program_writes_the_golden_ids() {
    let Some(path) = gguf() else { return };
    for case in golden()["generation"].as_array().unwrap() {
        let wanted = ids(&case["greedy_ids"]);
        // Every choice of the reference is clear by more than the tolerance, so all ids must agree.
        let closest = case["top1_minus_top2"]
            .as_array()
            .unwrap()
            .iter()
            .map(|gap| gap.as_f64().unwrap())
            .fold(9.0, f64::min);
        assert!(closest > 20.0 * TOLERANCE, "the reference itself is unsure: {closest}");
        let output = Command::new(env!("CARGO_BIN_EXE_roentgen"))
            .args(["generate", "--json", "--model"])
            .arg(&path)
            .args([
                "--max-new-tokens",
                &wanted.len().to_string(),
                "--prompt",
                case["prompt"].as_str().unwrap(),
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let answer = &json["answers"][0];
        assert_eq!(ids(&answer["prompt_ids"]), ids(&case["prompt_ids"]));
        assert_eq!(ids(&answer["ids"]), wanted);
        assert_eq!(answer["text"], case["greedy_text"]);
    }
}

/// A GPU chooses the same ids: weights of the file's blocks in f32, whose every choice is clear.
#[test]
fn a_gpu_writes_the_golden_ids() {
    let Some(path) = gguf() else { return };
    let Some(device) = roentgen_oracle::gpu::gpu() else { return };
    let bundle = Bundle::open(&path, None, &device).unwrap();
    for case in golden()["generation"].as_array().unwrap() {
        let wanted = ids(&case["greedy_ids"]);
        let prompt = bundle.raw_prompt(case["prompt"].as_str().unwrap()).unwrap();
        assert_eq!(prompt.ids, ids(&case["prompt_ids"]));
        let options = Options { max_new_tokens: wanted.len(), ..Options::default() };
        let mut go_on = |_, _: &str| ControlFlow::Continue(());
        let (answers, _) =
            generate(bundle.decoder(), Some(&bundle.tokenizer), &[prompt], &options, &mut go_on).unwrap();
        assert_eq!(answers[0].ids, wanted);
    }
}

/// Converted to a folder the model says the same: rows of q and k stand in the other order, the tokenizer is a
/// tokenizer.json. Grafted into SmolVLM's shape its decoder still does, in the rows of its own vocabulary.
#[test]
fn converted_folders_give_the_golden_ids() {
    let Some(path) = gguf() else { return };
    let out = tempfile::tempdir().unwrap();
    for (name, more) in [("plain", &[][..]), ("grafted", &["--into", "smolvlm-256m", "--seed", "3"])] {
        let folder = out.path().join(name);
        let output = Command::new(env!("CARGO_BIN_EXE_roentgen"))
            .args(["convert", "--dtype", "f32"])
            .args(more)
            .args([&path, &folder])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let bundle = Bundle::open(&folder, None, &Device::cpu()).unwrap();
        assert_eq!(bundle.config.image.is_some(), name == "grafted");
        for case in golden()["generation"].as_array().unwrap() {
            let prompt = case["prompt"].as_str().unwrap();
            let mut all = bundle.tokenizer.encode(prompt).unwrap();
            assert_eq!(all, ids(&case["prompt_ids"]));
            let start = all.len();
            all.extend(ids(&case["greedy_ids"]));
            let rows = logits(&bundle, &all);
            for (row, &next) in rows[start - 1..].iter().zip(&all[start..]) {
                let own = &row[..49_152];
                let best = (0..own.len()).max_by(|&a, &b| own[a].total_cmp(&own[b])).unwrap();
                assert_eq!(best as u32, next, "{name}");
            }
        }
        if name == "grafted" {
            let tokenizer = &bundle.tokenizer;
            for (token, id) in [("<global-img>", 49_152), ("<row_6_col_6>", 49_188), ("<image>", 49_190)] {
                assert_eq!(tokenizer.special_id(token), Some(id), "{token}");
            }
            assert_eq!(bundle.stop_tokens(), [49_279]);
            assert!(bundle.processor.is_some());
        }
    }
}

#[test]
fn the_first_logits_agree() {
    let Some(path) = gguf() else { return };
    let bundle = Bundle::open(&path, None, &Device::cpu()).unwrap();
    assert!(bundle.weights.iter().all(|(_, tensor)| tensor.dtype() == DType::F32), "block-quantised: f32");
    for case in golden()["generation"].as_array().unwrap() {
        let rows = logits(&bundle, &ids(&case["prompt_ids"]));
        let last = rows.last().unwrap();
        let mut order: Vec<usize> = (0..last.len()).collect();
        order.sort_by(|&a, &b| last[b].total_cmp(&last[a]));
        for (place, pair) in case["first_step_top10"].as_array().unwrap().iter().enumerate() {
            let (id, wanted) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
            let found = f64::from(last[id]);
            assert!(
                (found - wanted).abs() <= TOLERANCE * wanted.abs(),
                "token {id}: {found} against {wanted}"
            );
            assert!(order[..12].contains(&id), "token {id} is number {place} in the reference");
        }
    }
}

#[test]
fn captions_have_the_golden_likelihoods() {
    let Some(path) = gguf() else { return };
    let bundle = Bundle::open(&path, None, &Device::cpu()).unwrap();
    let captions = golden();
    let captions = captions["nll"].as_array().unwrap();
    assert_eq!(captions.len(), 6);
    for caption in captions {
        let wanted_ids = ids(&caption["ids_with_bos"]);
        let text = caption["text"].as_str().unwrap();
        assert_eq!(bundle.tokenizer.encode(text).unwrap(), wanted_ids[1..]);
        let rows = logits(&bundle, &wanted_ids);
        let nll: f64 = rows.iter().zip(&wanted_ids[1..]).map(|(row, &next)| surprise(row, next)).sum();
        let mean = nll / (wanted_ids.len() - 1) as f64;
        let wanted = caption["mean_nll"].as_f64().unwrap();
        assert!((mean - wanted).abs() <= TOLERANCE * wanted, "{mean} against {wanted}: {text}");
    }
}

/// −log softmax(row)[id], in f64.
fn surprise(row: &[f32], id: u32) -> f64 {
    let largest = f64::from(row.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = row.iter().map(|&x| (f64::from(x) - largest).exp()).sum();
    sum.ln() + largest - f64::from(row[id as usize])
}
