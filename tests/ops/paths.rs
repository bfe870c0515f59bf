//! The whole suite on every instruction-set path of the processor, on the GPU at every width that a software one has, and on several
//! emulated CUDA devices.

use std::process::Command;

use engine::cpu::isa::{Isa, isa};
use engine::wgpu::adapters;

use crate::harness::{DEVICE, cuda, gpu};
use crate::oracle::gpu::{LAVAPIPE_WIDTH, others};

/// Set in the processes that these tests start, so that they start none.
const MARKER: &str = "ROENTGEN_TEST_CHILD";
/// Runs this program's tests again with other settings: those whose names have one of `only` in them, or all.
fn again(device: &str, only: &[&str], settings: &[(&str, &str)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(only)
        .envs(settings.iter().copied())
        .env(MARKER, "1")
        .env(DEVICE, device)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "the suite fails on {device} with {settings:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_instruction_set_path_passes() {
    if std::env::var_os(MARKER).is_some() {
        if let Ok(wanted) = std::env::var("ROENTGEN_CPU") {
            assert_eq!(isa().name(), wanted, "the path that was asked for is not the one in use");
        }
        return;
    }
    for path in Isa::ALL {
        if path > Isa::detect() {
            println!("SKIP: {} is not offered by this machine", path.name());
            continue;
        }
        if path == isa() {
            continue;
        }
        // The plain loops are one path for products and attention, and slow: only these, and that it is in use.
        let only: &[&str] = match path {
            Isa::Reference => &["paths::", "matmul::", "linear", "attention::", "patch_conv::"],
            _ => &[],
        };
        again("cpu", only, &[("ROENTGEN_CPU", path.name())]);
    }
}

/// The suite on the GPU. A kernel must not assume a size of subgroups, nor more than WebGPU's default limits, and is right however
/// products are cut.
#[test]
fn the_gpu_passes_as_others_are() {
    if std::env::var_os(MARKER).is_some() {
        if let Ok(width) = std::env::var(LAVAPIPE_WIDTH) {
            let lanes = width.parse::<u32>().unwrap() / 32;
            let driver = adapters().into_iter().find(|a| a.name.contains("llvmpipe")).unwrap();
            assert_eq!(driver.subgroup, [lanes; 2], "the width that was asked for is not the one in use");
        }
        return;
    }
    if gpu().is_none() {
        return;
    }
    again("wgpu", &[], &[("PROPTEST_CASES", &cases(12))]);
    for setting in others() {
        again("wgpu", &[], &[setting, ("PROPTEST_CASES", &cases(4))]);
    }
    // What is too large to be bound, or to be worked on by one dispatch.
    let large = ["matmul::", "linear", "embedding::", "patch_conv::"];
    again("wgpu", &large, &[("ROENTGEN_WGPU_PLANS", "pieces"), ("PROPTEST_CASES", &cases(4))]);
}

/// Draws of a property, unless `PROPTEST_CASES` asks for others.
fn cases(most: usize) -> String {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    asked.unwrap_or(most).to_string()
}

/// Kernels are chosen by what the device is: the emulator's own, a small one of the Ampere generation, on which large tiles fill it, and one
/// whose streams run as late as they may. On hardware once.
#[test]
fn cuda_devices_pass() {
    if std::env::var_os(MARKER).is_some() {
        return;
    }
    let Some((_, stand_in)) = cuda() else { return };
    again("cuda", &[], &[("PROPTEST_CASES", &cases(24))]);
    if stand_in.is_some() {
        let small = [("ROENTGEN_EMULATOR_CAPABILITY", "8.0"), ("ROENTGEN_EMULATOR_MULTIPROCESSORS", "2")];
        again("cuda", &[], &[&small[..], &[("PROPTEST_CASES", &cases(12))]].concat());
        again("cuda", &[], &[("ROENTGEN_EMULATOR_STREAMS", "lazy"), ("PROPTEST_CASES", &cases(4))]);
        // Hopper's warpgroups.
        for rung in ["wide", "wgmma"] {
            again("cuda", &["matmul::tile"], &[("ROENTGEN_CUDA_WGMMA", rung)]);
        }
    }
}

/// Every access of every kernel within its memory, to the byte.
#[test]
fn cuda_passes_with_sanitizers() {
    if std::env::var_os(MARKER).is_some() {
        return;
    }
    let Some((_, Some(_))) = cuda() else { return };
    match cuda_host::sanitizer_environment() {
        Some(environment) => {
            let mut settings: Vec<(&str, &str)> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
            let cases = cases(2);
            settings.push(("PROPTEST_CASES", &cases));
            again("cuda", &[], &settings);
        }
        None => println!("SKIP: the C++ compiler has no sanitizers"),
    }
}
