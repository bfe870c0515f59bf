//! The GPU that tests run on.

use std::sync::OnceLock;

use engine::Device;
use engine::wgpu::adapters;

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

/// The device that tests of one process share.
pub fn gpu() -> Option<Device> {
    static GPU: OnceLock<Option<Device>> = OnceLock::new();
    GPU.get_or_init(open).clone()
}

/// The value of `--device` for it.
pub fn argument() -> Option<String> {
    gpu()?;
    Some(format!("wgpu:{}", adapter()?))
}

/// The processor, and the GPU if there is one.
pub fn devices() -> Vec<Device> {
    [Device::cpu()].into_iter().chain(gpu()).collect()
}
