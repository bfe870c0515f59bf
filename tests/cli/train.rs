//! `train`: the command; the trainer's own tests are in its crate.

use crate::program::roentgen;
use crate::tiny::Images;

/// Four images with reports and a configuration for a very small model.
pub(crate) fn data() -> (Images, String) {
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

#[test]
fn data_are_checked_without_a_model() {
    let (folder, config) = data();
    folder.raw("3.png", b"no image");
    let text = roentgen(["data", "check", &config]).ok().stdout;
    assert!(text.contains("cases.jsonl:4") && text.contains("1 rows cannot be used"), "{text}");
    let json = roentgen(["data", "check", &config, "--json"]).ok().json();
    assert_eq!(json["parts"]["train"]["rows"], 3);
    assert_eq!(json["bad"][0]["line"], 4);
    // The same image under another name, in another part.
    std::fs::copy(folder.path().join("0.png"), folder.path().join("3.png")).unwrap();
    let rows = std::fs::read_to_string(folder.path().join("cases.jsonl")).unwrap();
    let (first, last) = rows.split_at(rows.find("{\"id\":\"c3\"").unwrap());
    let parted = first.to_owned() + &last.replace("train", "val");
    folder.raw("cases.jsonl", parted.as_bytes());
    roentgen(["data", "check", &config]).fails(&["the same image", "c0 (train) and c3 (val)"]);
    roentgen(["train", &config]).fails(&["the same image"]);
}

#[test]
fn a_multicare_folder_becomes_rows() {
    let folder = Images::new();
    folder.raw("cases.csv", b"case_id,pmcid,case_text,age,gender\nPMC1_01,PMC1,A woman.,29.0,Female\n");
    let table = "file,patient_id,caption,generic_label\n\
                 a.png,PMC1_01,Clear lungs.,\"['x_ray', 'thorax']\"\n\
                 b.png,PMC1_01,A hand.,\"['x_ray', 'hand']\"\n";
    folder.raw("captions_and_labels.csv", table.as_bytes());
    folder.gradient("a.png", 20, 24);
    let out = folder.path().join("rows.jsonl").display().to_string();
    let text = roentgen(["data", "multicare", folder.name(), "--out", &out]).ok().stdout;
    assert!(text.contains("labels do not pass the filter") && text.contains("articles"), "{text}");
    let rows = crate::program::json_lines(&std::fs::read_to_string(&out).unwrap());
    assert_eq!(rows.len(), 1);
    assert_eq!((&rows[0]["age"], &rows[0]["image_path"]), (&29.0.into(), &"a.png".into()));
    let json = roentgen(["data", "multicare", folder.name(), "--out", &out, "--labels", "x_ray", "--json"])
        .ok()
        .json();
    assert_eq!(json["dropped"]["image file is not there"], 1);
    roentgen(["data", "multicare", folder.name(), "--out", &out, "--labels", "ct"])
        .fails(&["no row is left"]);
    roentgen(["data", "multicare", folder.name(), "--out", &out, "--split", "1,1,1"]).fails(&["--split"]);
}
