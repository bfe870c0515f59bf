//! `train`: the command; the trainer's own tests are in its crate.

use crate::program::roentgen;
use crate::tiny::Images;

/// Four images with reports and a configuration for a very small model.
fn data() -> (Images, String) {
    let folder = Images::new();
    let case = |i: u32| {
        folder.gradient(&format!("{i}.png"), 20 + i, 24);
        format!(
            "{{\"id\":\"c{i}\",\"split\":\"train\",\"image_path\":\"{i}.png\",\"clinical_case\":\"A case.\",\
             \"image_labels\":[\"thorax\"],\"gender\":\"Female\",\"age\":{},\"image_caption\":\"Clear lungs.\"}}\n",
            30 + i
        )
    };
    let cases: Vec<String> = (0..4).map(case).collect();
    folder.raw("cases.jsonl", cases.concat().as_bytes());
    let config = r#"
out = "run"
[model]
scale_factor = 2
[model.vision]
image_size = 32
patch_size = 8
hidden_size = 16
intermediate_size = 24
num_hidden_layers = 1
num_attention_heads = 2
[model.text]
hidden_size = 16
intermediate_size = 24
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 8
max_position_embeddings = 1024
[tokenizer]
vocab_size = 300
[data]
root = "."
files = ["cases.jsonl"]
[training]
batch_size = 2
accumulation = 1
epochs = 2
"#;
    let path = folder.raw("config.toml", config.as_bytes()).display().to_string();
    (folder, path)
}

#[test]
fn a_run_makes_a_model_that_report_opens() {
    let (folder, config) = data();
    let summary = roentgen(["train", &config, "--json"]).ok().json();
    assert_eq!(summary["steps"], 4);
    assert_eq!(summary["stopped"], false);
    let model = summary["model"].as_str().unwrap();
    let image = folder.path().join("0.png");
    roentgen(["report", image.to_str().unwrap(), "--model", model, "--max-new-tokens", "3"]).ok();
    // A second run does not write over the first.
    roentgen(["train", &config]).fails(&["--resume"]);
    roentgen(["train", &config, "--resume"]).ok();
}

#[test]
fn the_configuration_is_printed_and_checked() {
    let (folder, config) = data();
    let printed = roentgen(["train", &config, "--print-config", "--set", "training.epochs=7"]).ok().stdout;
    assert!(printed.contains("epochs = 7") && printed.contains("warmup_steps"), "{printed}");
    assert!(!folder.path().join("run").exists());
    roentgen(["train", &config, "--set", "training.epoch=7"]).fails(&["epoch"]);
    roentgen(["train", "/no/such/config.toml"]).fails(&["/no/such/config.toml"]);
}

/// Ctrl-C in the middle of a run: the step is finished, a checkpoint written, and the run goes on later.
#[cfg(unix)]
#[test]
fn ctrl_c_leaves_a_checkpoint_to_continue_from() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let (folder, config) = data();
    let epochs = ["--set", "training.epochs=100000", "--set", "training.checkpoint_every=1000000"];
    let mut child = crate::program::command()
        .args(["train", &config, "-v"])
        .args(epochs)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("step 3 ") {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the run ended by itself");
    }
    // The pipe must stay empty enough for the run to go on.
    let rest = std::thread::spawn(move || stderr.lines().map_while(Result::ok).collect::<Vec<_>>());
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let rest = rest.join().unwrap();
    assert_eq!(output.status.code(), Some(130), "{rest:#?}");
    let checkpoints: Vec<_> = std::fs::read_dir(folder.path().join("run/checkpoints")).unwrap().collect();
    assert_eq!(checkpoints.len(), 1);
    assert!(!folder.path().join("run/model").exists());
    // Another length of the run is another run.
    roentgen(["train", &config, "--resume"]).fails(&["epochs"]);
}
