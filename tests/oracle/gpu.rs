//! The devices that tests of models and runs use: the processor and a GPU, or the one that `ROENTGEN_TEST_DEVICE` names (`cpu`, `wgpu`,
//! `cuda`). Those that run themselves again on the stand-in for CUDA's driver set it (`cuda_host::again`).

use std::process::Command;
use std::sync::OnceLock;

use engine::Device;
use engine::wgpu::adapters;

const DEVICE: &str = "ROENTGEN_TEST_DEVICE";
/// Width of the vectors, in bits, that the lavapipe driver works in; its subgroups are a 32nd of it.
pub const LAVAPIPE_WIDTH: &str = "LP_NATIVE_VECTOR_WIDTH";

fn named() -> Option<String> {
    std::env::var(DEVICE).ok().filter(|name| !name.is_empty())
}

/// Name of the adapter for tests: a part of it that `ROENTGEN_TEST_ADAPTER` gives, else that of one that is the processor
/// in disguise, so that results do not depend on the machine, else of any.
fn adapter() -> Option<String> {
    let all = adapters();
    let named = std::env::var("ROENTGEN_TEST_ADAPTER").ok();
    named.or_else(|| all.iter().find(|a| a.software).or(all.first()).map(|a| a.name.clone()))
}

/// A device of its own on that adapter; without one `None`, said in a line that begins with `SKIP:`. With
/// `REQUIRE_WGPU=1` that is a failure.
///
/// # Panics
/// If there is none and there must be.
pub fn open() -> Option<Device> {
    match Device::wgpu(adapter().as_deref()) {
        Ok(device) => Some(device),
        Err(e) if std::env::var("REQUIRE_WGPU").is_ok_and(|v| v == "1") => panic!("{e}"),
        Err(e) => {
            println!("SKIP: {e}");
            None
        }
    }
}

/// The GPU that tests of one process share: wgpu's, unless `ROENTGEN_TEST_DEVICE` is `cuda`.
///
/// # Panics
/// If it is named or required, and not there.
pub fn gpu() -> Option<Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    let cuda = || Device::cuda(0).unwrap_or_else(|e| panic!("ROENTGEN_TEST_DEVICE=cuda: {e}"));
    GPU.get_or_init(|| if named().as_deref() == Some("cuda") { Some(cuda()) } else { open() }).clone()
}

/// The value of `--device` for it.
pub fn argument() -> Option<String> {
    if named().as_deref() == Some("cuda") {
        return Some("cuda".to_owned());
    }
    gpu()?;
    Some(format!("wgpu:{}", adapter()?))
}

/// The processor, and the GPU if there is one; or the one that is named.
pub fn devices() -> Vec<Device> {
    match named() {
        None => [Device::cpu()].into_iter().chain(gpu()).collect(),
        Some(_) => vec![device().clone()],
    }
}

/// The processor, or the device that is named: for tests that need no other.
///
/// # Panics
/// If what is named is not there, or is no device.
pub fn device() -> &'static Device {
    static DEVICE: OnceLock<Device> = OnceLock::new();
    DEVICE.get_or_init(|| match named().as_deref() {
        None | Some("cpu") => Device::cpu(),
        Some(name @ ("wgpu" | "cuda")) => {
            gpu().unwrap_or_else(|| panic!("ROENTGEN_TEST_DEVICE={name}: no such device"))
        }
        Some(other) => panic!("ROENTGEN_TEST_DEVICE={other}: expected cpu, wgpu or cuda"),
    })
}

/// Settings by which the GPU of this machine is as others are: with subgroups of other widths, with WebGPU's default limits, and with
/// products cut as for hardware.
pub fn others() -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![("ROENTGEN_WGPU_LIMITS", "default")];
    if adapters().iter().any(|a| a.software) {
        settings.push(("ROENTGEN_WGPU_PLANS", "hardware"));
    }
    if adapters().iter().any(|a| a.name.contains("llvmpipe")) {
        // 256 is what it does by itself.
        settings.extend([(LAVAPIPE_WIDTH, "128"), (LAVAPIPE_WIDTH, "512")]);
    } else {
        println!("SKIP: the GPU has one width of subgroups");
    }
    settings
}

/// Runs tests of this program once more on each of those GPUs.
///
/// # Panics
/// If one fails there, or does not exist.
pub fn again(tests: &[&str]) {
    // A second run in a second run, or one on a device of the caller's choice.
    if std::env::var_os(DEVICE).is_some() || gpu().is_none() {
        return;
    }
    for (name, value) in others() {
        let program = std::env::current_exe().expect("a test program knows its name");
        let mut command = Command::new(program);
        command.args(tests).arg("--exact").env(DEVICE, "wgpu").env(name, value);
        let output = command.output().expect("this program");
        let text = String::from_utf8_lossy(&output.stdout);
        let passed = format!("{} passed", tests.len());
        assert!(
            output.status.success() && text.contains(&passed),
            "{tests:?} on wgpu with {name}={value}, {}:\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
