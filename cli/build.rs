//! Lists the files of the demonstration model, so that the program carries them.

use std::fmt::Write as _;
use std::path::PathBuf;

/// A model cannot be opened without these.
const NEEDED: [&str; 3] = ["config.json", "model.safetensors", "tokenizer.json"];
const OPTIONAL: [&str; 4] =
    ["chat_template.jinja", "generation_config.json", "preprocessor_config.json", "tokenizer_config.json"];

fn main() {
    name_commit();
    let folder =
        PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("assets/demo");
    println!("cargo::rerun-if-changed=cli/build.rs");
    println!("cargo::rerun-if-changed=assets/demo");
    let missing: Vec<_> = NEEDED.iter().filter(|name| !folder.join(name).is_file()).collect();
    let mut list = String::from("&[");
    if missing.is_empty() {
        for name in NEEDED.iter().chain(&OPTIONAL).filter(|name| folder.join(name).is_file()) {
            let path = folder.join(name).display().to_string();
            let _ = write!(list, "({name:?}, aligned!({path:?})),");
        }
    } else {
        println!("cargo::warning=assets/demo lacks {missing:?}: this build has no demonstration model");
    }
    list.push(']');
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("demo_files.rs");
    std::fs::write(&out, list).unwrap_or_else(|e| panic!("{}: {e}", out.display()));
}

/// Tells the program the commit that it is built from, where there is one to tell.
fn name_commit() {
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    // The log of HEAD grows with every commit and every change of branch.
    if let Some(log) =
        git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| PathBuf::from(log).exists())
    {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        println!("cargo::rustc-env=ROENTGEN_COMMIT={commit}");
    }
}
