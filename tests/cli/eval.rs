//! `eval`: the demonstration model on a few real rows.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::program::{Outcome, json_lines, roentgen};
use crate::tiny::{Images, Tiny};

/// The folder of the shared chest X-rays; `None`, with a line that says so, where they are not.
pub(crate) fn shared_data() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let roots = match std::env::var_os("ROENTGEN_SHARED") {
        Some(root) => vec![PathBuf::from(root)],
        // The second is for a working tree one folder deeper.
        None => vec![root.join("../shared"), root.join("../../shared")],
    };
    let Some(data) = roots.into_iter().map(|r| r.join("data")).find(|d| d.join("cxr/cases.jsonl").is_file())
    else {
        println!("SKIP: shared data `data/cxr` is not on this machine");
        return None;
    };
    Some(std::path::absolute(data).unwrap())
}

/// A configuration over them.
fn config(folder: &Images) -> Option<PathBuf> {
    let data = shared_data()?;
    let text = format!(
        "out = \"run\"\n[model]\nfolder = \"base\"\n[data]\nroot = {:?}\nfiles = [\"cxr/cases.jsonl\"]\n",
        data.display().to_string()
    );
    Some(folder.raw("config.toml", text.as_bytes()))
}

fn eval(config: &Path, more: &[&str]) -> Outcome {
    let args = ["eval", config.to_str().unwrap(), "--max-new-tokens", "60"];
    roentgen(args.iter().chain(more))
}

fn lines(path: &Path) -> Vec<Value> {
    json_lines(&std::fs::read_to_string(path).unwrap())
}

#[test]
fn base_against_tuned_in_one_table_and_one_page() {
    let folder = Images::new();
    let Some(config) = config(&folder) else { return };
    let tiny = Tiny::new();
    let models = ["--base", tiny.name(), "--tuned", "demo", "--limit", "3"];
    let outcome = eval(&config, &models).ok();
    for text in ["base", "tuned", "Change", "paper, tuned", "0.58234", "3 rows (test)", "index.html"] {
        assert!(outcome.stdout.contains(text), "{text}: {}", outcome.stdout);
    }
    let out = folder.path().join("run/eval");
    let (base, tuned) = (lines(&out.join("base.jsonl")), lines(&out.join("tuned.jsonl")));
    assert_eq!((base.len(), tuned.len()), (3, 3));
    for (b, t) in base.iter().zip(&tuned) {
        assert_eq!((&b["id"], &b["expected"]), (&t["id"], &t["expected"]));
        assert!(t["generated"].as_str().unwrap().starts_with("Image Labels: "), "{t}");
    }
    let table: Value = serde_json::from_slice(&std::fs::read(out.join("table.json")).unwrap()).unwrap();
    assert_eq!((&table["rows"], &table["split"]), (&3.into(), &"test".into()));
    let rouge = &table["tables"][0]["metrics"][0];
    assert!(rouge["values"]["tuned"].as_f64() > rouge["values"]["base"].as_f64());
    assert!(rouge["p_value"].as_f64().unwrap() < 1.0 && rouge["values"]["paper, base"] == 0.15492);
    let page = std::fs::read_to_string(out.join("index.html")).unwrap();
    assert_eq!(page.matches("src=\"data:image/jpeg;base64,").count(), 3);
    assert!(!page.contains("http") && !page.contains("<script") && page.contains("Image caption alone"));

    // `score` of the file gives the tuned column.
    let scored = roentgen(["score", out.join("tuned.jsonl").to_str().unwrap(), "--json"]).ok().json();
    let row = &scored["tables"][0]["metrics"][0];
    assert_eq!(row["values"]["score"], rouge["values"]["tuned"]);
    assert_eq!(row["intervals"]["score"], rouge["intervals"]["tuned"]);

    // Nothing is written over; with --resume only what is missing is generated.
    eval(&config, &models).fails(&["base.jsonl", "--resume"]);
    let path = out.join("tuned.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 40]).unwrap();
    eval(&config, &[&models[..], &["--resume"]].concat()).ok();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);
    let other = ["--base", "demo", "--tuned", "demo", "--limit", "3", "--resume"];
    eval(&config, &other).fails(&["base.jsonl", "is by", "this run's model is"]);
}

#[test]
fn the_tuned_model_may_stand_alone_and_rows_without_an_answer_are_counted() {
    let folder = Images::new();
    folder.gradient("a.png", 40, 40);
    folder.raw("b.png", b"no image");
    let row = |id: &str| {
        format!(
            "{{\"id\":\"{id}\",\"split\":\"test\",\"image_path\":\"{id}.png\",\"image_labels\":[\"thorax\"],\"image_caption\":\"Clear.\"}}\n"
        )
    };
    folder.raw("cases.jsonl", format!("{}{}{{}}\n", row("a"), row("b")).as_bytes());
    let text = "out = \"run\"\n[model.vision]\nimage_size = 32\npatch_size = 8\nhidden_size = 16\nintermediate_size = 24\n\
        num_hidden_layers = 1\nnum_attention_heads = 2\n[model.text]\nhidden_size = 16\nintermediate_size = 24\n\
        num_hidden_layers = 1\nnum_attention_heads = 2\nnum_key_value_heads = 1\nhead_dim = 8\n[tokenizer]\n\
        vocab_size = 300\n[data]\nroot = \".\"\nfiles = [\"cases.jsonl\"]\n";
    let config = folder.raw("config.toml", text.as_bytes());
    // No model was trained yet.
    eval(&config, &[]).fails(&["run/model", "--tuned"]);
    let tiny = Tiny::new();
    let out = folder.path().join("elsewhere").display().to_string();
    let outcome = eval(&config, &["--tuned", tiny.name(), "--out", &out, "--json"]).ok();
    let json = outcome.says(&["b: ", "stands alone", "bad row left out"]).json();
    assert_eq!((&json["rows"], &json["failed"], &json["bad_rows"]), (&1.into(), &1.into(), &1.into()));
    assert!(json["tables"][0]["metrics"][0]["values"].get("base").is_none());
    let notes = json["tables"][0]["notes"].to_string();
    assert!(notes.contains("1 rows have no answer") && notes.contains("could not be used"), "{notes}");
    eval(&config, &["--tuned", tiny.name(), "--split", "train", "--out", &out]).fails(&["no rows", "Train"]);
}

#[test]
fn ctrl_c_keeps_the_answers_and_resume_goes_on() {
    use std::process::{Command, Stdio};

    let folder = Images::new();
    let Some(config) = config(&folder) else { return };
    // Some 500 rows, each twice: far more than can be answered before the signal.
    let models = ["--base", "demo", "--tuned", "demo", "--split", "train"];
    let child = crate::program::command()
        .args(["eval", config.to_str().unwrap(), "--threads", "1"])
        .args(models)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = folder.path().join("run/eval");
    let count = || std::fs::read_to_string(out.join("base.jsonl")).map_or(0, |text| text.lines().count());
    let start = std::time::Instant::now();
    while count() < 3 {
        assert!(start.elapsed().as_secs() < 60, "no answer comes");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--resume goes on"), "{output:?}");
    assert!(!out.join("table.json").exists());
    // Every line is whole, and a shorter run needs only the other model's answers.
    let before = lines(&out.join("base.jsonl"));
    let json = eval(&config, &[&models[..], &["--limit", "3", "--resume", "--json"]].concat()).ok().json();
    assert_eq!(json["rows"], 3);
    assert_eq!(lines(&out.join("base.jsonl")), before);
    assert_eq!(lines(&out.join("tuned.jsonl")).len(), 3);
}
