//! What is refused, and a device that goes on.

use ::wgpu::{ErrorFilter, ShaderModuleDescriptor, ShaderSource};

use super::problems::watched;
use super::*;

/// A software adapter, or any; without one `None`, said in a line that begins with `SKIP:`. With `REQUIRE_WGPU=1` that is
/// a failure.
pub(super) fn open() -> Option<Device> {
    let all = adapters();
    let name = all.iter().find(|a| a.software).or(all.first()).map(|a| a.name.as_str());
    match Device::wgpu(name) {
        Ok(device) => Some(device),
        Err(e) if std::env::var("REQUIRE_WGPU").is_ok_and(|v| v == "1") => panic!("{e}"),
        Err(e) => {
            println!("SKIP: {e}");
            None
        }
    }
}

/// Errors of every kind have a scope while something is watched, and none is left open.
#[test]
fn what_is_watched_is_not_held_against_the_device() {
    let Some(device) = open() else { return };
    let gpu = device.backend::<Wgpu>().unwrap();
    let nonsense = || {
        let source = ShaderSource::Wgsl("fn main() { nonsense; }".into());
        gpu.device.create_shader_module(ShaderModuleDescriptor { label: None, source })
    };
    let around = gpu.device.push_error_scope(ErrorFilter::Validation);
    let (_, refused) = watched(&gpu.device, nonsense);
    assert!(refused.is_some_and(|e| e.to_string().contains("nonsense")));
    assert!(watched(&gpu.device, || ()).1.is_none());
    assert!(adapter::block_on(around.pop()).is_none(), "told twice");
    // And the device goes on.
    let x = crate::Tensor::full(&[3], 2.0, crate::DType::F32, &device).unwrap();
    assert_eq!(x.affine(2.0, 1.0).unwrap().to_f64_vec().unwrap(), [5.0; 3]);
    // Outside, it is the error of all that follows.
    nonsense();
    let text = x.affine(2.0, 1.0).and_then(|y| y.to_f64_vec()).unwrap_err().to_string();
    assert!(text.contains("nonsense"), "{text}");
}
