//! The program on a CUDA device, which the stand-in driver of `cuda/host` emulates.

use std::path::Path;
use std::process::Command;

use crate::program::{command, finish, roentgen};
use crate::tiny::Tiny;

/// The program with the stand-in as its driver; `None`, with a `SKIP:` line, where there is none.
fn emulated(args: &[&str]) -> Option<Command> {
    cuda_host::load()?;
    let mut command = command();
    command.args(args).env("LD_LIBRARY_PATH", cuda_host::folder()?);
    Some(command)
}

#[test]
fn devices_names_what_the_driver_has() {
    let Some(mut devices) = emulated(&["devices", "--json"]) else { return };
    devices.env("ROENTGEN_EMULATOR_CAPABILITY", "8.0").env("ROENTGEN_EMULATOR_MULTIPROCESSORS", "108");
    let json = finish(&mut devices).ok().json();
    let [device] = &json["cuda"].as_array().unwrap()[..] else { panic!("{json}") };
    assert_eq!(device["device"], "cuda:0");
    assert_eq!((&device["emulated"], &device["compute_capability"]), (&true.into(), &"8.0".into()));
    assert_eq!(device["multiprocessors"], 108);
    assert!(json["no_cuda_because"].is_null());
    let text = finish(&mut emulated(&["devices"]).unwrap()).ok().stdout;
    assert!(text.contains("CPU emulation of compute capability 9.0"), "{text}");
}

/// A device that kernels cannot run on is told as one, and nothing else is tried on it.
#[test]
fn a_device_that_will_not_do_is_told() {
    for (name, value, why) in [
        (
            "ROENTGEN_EMULATOR_CAPABILITY",
            "7.5",
            "has compute capability 7.5; 8.0 (Ampere) or newer is needed",
        ),
        ("ROENTGEN_EMULATOR_POOLS", "0", "has no memory pools"),
    ] {
        let Some(mut devices) = emulated(&["devices", "--json"]) else { return };
        let json = finish(devices.env(name, value)).ok().json();
        assert_eq!(json["cuda"].as_array().unwrap().len(), 0, "{json}");
        let told = json["no_cuda_because"].as_str().unwrap();
        assert!(told.contains(why) && !told.contains('\n'), "{told}");
        let mut generate = emulated(&["generate", "--prompt", "x", "--device", "cuda"]).unwrap();
        finish(generate.env(name, value)).fails(&["cuda: ", why]);
    }
}

/// One line that says why, everything else as ever.
#[test]
fn without_a_driver_devices_says_why() {
    let json = roentgen(["devices", "--json"]).ok().json();
    let Some(why) = json["no_cuda_because"].as_str() else {
        println!("SKIP: this machine has a CUDA device");
        return;
    };
    assert!(!why.contains('\n'), "{why}");
    let text = roentgen(["devices"]).ok().stdout;
    assert!(text.lines().any(|line| line.starts_with("cuda") && line.contains(why)), "{text}");
    roentgen(["generate", "--prompt", "x", "--device", "cuda"]).fails(&["cuda: ", why]);
}

/// Every stage of the tiny model, its loss and gradients, as PyTorch computes them.
#[test]
fn a_model_matches_the_reference() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvlm-tiny");
    let reference = fixture.join("base.safetensors");
    let [model, reference] = [&fixture, &reference].map(|path| path.to_str().unwrap());
    let args = ["parity", model, reference, "--device", "cuda", "--json"];
    let Some(mut parity) = emulated(&args) else { return };
    let json = finish(&mut parity).ok().json();
    assert_eq!(json["within_tolerance"], true, "{json}");
    let gradients = |row: &&serde_json::Value| row["name"].as_str().unwrap().starts_with("grad.");
    assert_eq!(json["rows"].as_array().unwrap().iter().filter(gradients).count(), 24);
}

#[test]
fn generation_is_the_cpus() {
    let tiny = Tiny::new();
    let args = ["generate", "--model", tiny.name(), "--max-new-tokens", "8", "--prompt", "Write a"];
    let warm = ["--repetition-penalty", "1.3", "--temperature", "0.8", "--top-p", "0.9"];
    for args in [args.to_vec(), [&args[..], &warm].concat()] {
        let Some(mut generate) = emulated(&args) else { return };
        let cuda = finish(generate.args(["--device", "cuda"])).ok().stdout;
        assert_eq!(cuda, roentgen(&args).ok().stdout);
    }
}

/// Libraries by the names that are looked for, which write to a file when they are loaded.
fn telling_libraries(folder: &Path) -> Option<std::path::PathBuf> {
    let source = folder.join("tell.cpp");
    std::fs::write(
        &source,
        r#"
        #include <cstdio>
        #include <cstdlib>
        __attribute__((constructor)) static void tell() {
            if (FILE* out = std::fopen(std::getenv("LOADED"), "a")) { std::fputs(NAME "\n", out); std::fclose(out); }
        }
        "#,
    )
    .unwrap();
    let libraries = folder.join("libraries");
    std::fs::create_dir(&libraries).unwrap();
    for name in ["libcuda.so", "libcuda.so.1", "libnvrtc.so", "libnvrtc.so.13", "libnvToolsExt.so.1"] {
        let mut compiler = Command::new(std::env::var("CXX").unwrap_or_else(|_| "g++".into()));
        compiler.args(["-shared", "-fPIC", &format!("-DNAME=\"{name}\""), "-o"]);
        match compiler.arg(libraries.join(name)).arg(&source).status() {
            Ok(status) => assert!(status.success()),
            Err(e) => {
                println!("SKIP: no C++ compiler: {e}");
                return None;
            }
        }
    }
    Some(libraries)
}

/// What CUDA needs is opened when a CUDA device is asked for, and not before.
#[test]
fn nothing_of_cuda_is_opened_before_it_is_asked_for() {
    let tiny = Tiny::new();
    let Some(libraries) = telling_libraries(tiny.path()) else { return };
    let loaded = tiny.path().join("loaded");
    let run = |args: &[&str]| {
        let mut program = command();
        let outcome = finish(program.args(args).env("LD_LIBRARY_PATH", &libraries).env("LOADED", &loaded));
        (outcome, std::fs::read_to_string(&loaded).unwrap_or_default())
    };
    let generate = ["generate", "--model", tiny.name(), "--max-new-tokens", "2", "--prompt", "Write"];
    for args in [
        &["--version"][..],
        &["--help"],
        &["inspect", tiny.name()],
        &[&generate[..], &["--device", "cpu"]].concat(),
    ] {
        let (outcome, said) = run(args);
        outcome.ok();
        assert_eq!(said, "", "{args:?}");
    }
    let (outcome, said) = run(&[&generate[..], &["--device", "cuda"]].concat());
    assert!(said.contains("libcuda"), "{said}");
    // It is no driver, which is said like every other reason.
    outcome.fails(&["cuda: "]);
}

/// A model in 4 bits with an adapter gives the processor's words.
#[test]
fn generation_in_4_bits_is_the_cpus() {
    let tiny = Tiny::new();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("quantised").display().to_string();
    roentgen(["quantize", tiny.name(), &out]).ok();
    let adapter = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/smolvlm-tiny/adapter");
    for dtype in ["f32", "bf16"] {
        for more in [&[][..], &["--adapter", adapter.to_str().unwrap()]] {
            let base =
                ["generate", "--model", &out, "--dtype", dtype, "--max-new-tokens", "8", "--prompt", "Age:"];
            let args = [&base[..], more].concat();
            let Some(mut generate) = emulated(&args) else { return };
            let cuda = finish(generate.args(["--device", "cuda"])).ok().stdout;
            assert_eq!(cuda, roentgen(args).ok().stdout, "{dtype} {more:?}");
        }
    }
}

/// Commands as `gpu.rs` has them; training, which takes the emulator long, is tested by its crate.
#[test]
fn commands() {
    let tests = [
        "gpu::generating_by_all_ways_of_choosing",
        "gpu::a_profile_has_the_devices_times",
        "gpu::the_demonstration_models_report_is_the_processors",
    ];
    cuda_host::again(&tests, cuda_host::How::SCHEDULES[1]);
}
