//! Help, wrong usage, devices, closed pipes.

use std::io::Read;
use std::process::Stdio;

use crate::program::{command, finish, roentgen};
use crate::tiny::{Images, Tiny};

#[test]
fn every_command_has_help() {
    let all = roentgen(["--help"]).ok().stdout;
    for name in ["report", "generate", "inspect", "train", "devices"] {
        assert!(all.contains(name), "{name} is not in {all}");
        let help = roentgen([name, "--help"]).ok().stdout;
        for option in ["--device", "--threads", "--json", "--verbose"] {
            assert!(help.contains(option), "{option} is not in the help of {name}: {help}");
        }
    }
    assert!(roentgen(["--version"]).ok().stdout.starts_with("roentgen "));
}

#[test]
fn wrong_usage_is_code_2() {
    let cases: [&[&str]; 12] = [
        &[],
        &["repport"],
        &["report"],
        &["generate"],
        &["report", "x.png", "--no-such-flag"],
        &["report", "x.png", "--resume"],
        &["report", "x.png", "--case", "a", "--case-file", "b"],
        &["report", "x.png", "--max-new-tokens", "0"],
        &["devices", "--threads", "0"],
        &["devices", "--device", "tpu"],
        &["inspect", "SmolVLM-Instruct", "--image", "0x7"],
        &["train", "x.toml", "--set", "no equals sign"],
    ];
    for args in cases {
        let outcome = roentgen(args);
        assert_eq!(outcome.code, 2, "{args:?}: {outcome:#?}");
        assert_eq!(outcome.stdout, "", "{args:?}");
    }
}

#[test]
fn devices_says_what_is_here_and_what_is_not() {
    let text = roentgen(["devices"]).ok().stdout;
    assert!(text.contains("portable") && text.contains("cuda"), "{text}");
    let json = roentgen(["devices", "--json", "--threads", "1"]).ok().json();
    assert_eq!(json["cpu"]["threads_in_use"], 1);
    assert_eq!(json["cpu"]["paths"][0], "portable");
    assert!(json["wgpu"].is_array(), "one entry for each adapter, none without a driver");
    let devices = json["cuda"].as_array().unwrap();
    assert_eq!(
        devices.is_empty(),
        json["no_cuda_because"].is_string(),
        "devices, or why there are none: {json}"
    );
}

#[test]
fn an_absent_backend_or_path_is_an_error() {
    roentgen(["generate", "--prompt", "x", "--device", "cuda:200"]).fails(&["cuda: "]);
    roentgen(["generate", "--prompt", "x", "--device", "wgpu:no such adapter"]).fails(&["no adapter"]);
    finish(command().arg("devices").env("ROENTGEN_CPU", "mmx")).fails(&["ROENTGEN_CPU=mmx", "portable"]);
    let portable = finish(command().args(["devices", "--json"]).env("ROENTGEN_CPU", "portable")).ok();
    assert_eq!(portable.json()["cpu"]["path_in_use"], "portable");
}

/// Nothing that was asked for of a GPU is silently done by the processor.
#[test]
fn what_the_processor_alone_does_is_refused_for_a_gpu() {
    let (tiny, out) = (Tiny::new(), tempfile::tempdir().unwrap());
    let out = out.path().join("out");
    let to = out.to_str().unwrap();
    let commands: [&[&str]; 3] = [
        &["quantize", tiny.name(), to],
        &["merge", tiny.name(), "adapter", to],
        &["convert", tiny.name(), to],
    ];
    for command in commands {
        for device in ["wgpu", "wgpu:no such adapter", "cuda"] {
            let refused = roentgen(command.iter().chain(&["--device", device]));
            refused.fails(&[&format!("{} computes on the processor", command[0]), "--device cpu"]);
        }
    }
    assert!(!out.exists());
    roentgen(["quantize", tiny.name(), to, "--device", "cpu"]).ok();
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let tiny = Tiny::new();
    let images = Images::new();
    let image = images.gradient("a.png", 30, 20);
    let commands: [&[&str]; 2] = [
        &["inspect", "SmolVLM-Instruct", "--tensors"],
        &["report", image.to_str().unwrap(), "--model", tiny.name()],
    ];
    for args in commands {
        let mut child = command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{args:?}: {status}: {stderr}");
        assert!(!stderr.contains("panicked") && !stderr.contains("error"), "{args:?}: {stderr}");
    }
}
