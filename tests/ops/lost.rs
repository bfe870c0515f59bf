//! A GPU that is lost: whatever is asked of it afterwards is an error that says what could not be done.

use engine::{Device, Error, Tensor, Wgpu};
use roentgen_oracle::gpu;

fn matrix(device: &Device) -> Tensor {
    Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], device).unwrap()
}

#[test]
fn every_use_of_a_lost_gpu_is_an_error() {
    let Some(gpu) = gpu::open() else { return };
    let (x, target) = (matrix(&gpu), matrix(&gpu));
    let product = |x: &Tensor| x.matmul(&x.t()?);
    assert_eq!(product(&x).unwrap().to_vec::<f32>().unwrap(), [14.0, 32.0, 32.0, 77.0]);
    // Work that was recorded and not run is lost, too.
    let y = product(&x).unwrap();
    gpu.backend::<Wgpu>().unwrap().lose();
    let uses: [(&str, Result<(), Error>); 7] = [
        ("reading 16 bytes", y.to_vec::<f32>().map(drop)),
        ("reading 24 bytes", x.to_vec::<f32>().map(drop)),
        ("matmul to f32 [2, 2]", product(&x).map(drop)),
        ("allocating", Tensor::zeros(&[8], engine::DType::F32, &gpu).map(drop)),
        ("allocating", Tensor::from_slice(&[1f32], &[1], &gpu).map(drop)),
        ("write of x f32 [2, 3], y f32 [2, 3]", target.write(&x)),
        ("", gpu.synchronize()),
    ];
    for (what, result) in uses {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("the GPU was lost") && text.contains("--resume"), "{text}");
        assert!(text.contains(what), "{what}: {text}");
    }
    // Another device of the same adapter is not touched.
    let other = gpu::open().unwrap();
    assert_eq!(product(&matrix(&other)).unwrap().to_vec::<f32>().unwrap(), [14.0, 32.0, 32.0, 77.0]);
}

/// A loss of which nobody was told yet comes out where the device is next waited for.
#[test]
fn work_on_its_way_when_a_gpu_is_lost_ends_in_an_error() {
    let Some(gpu) = gpu::open() else { return };
    let x = matrix(&gpu);
    let mut y = x.affine(1.0, 1.0).unwrap();
    for _ in 0..400 {
        y = y.affine(0.5, 1.0).unwrap();
    }
    gpu.backend::<Wgpu>().unwrap().lose();
    let more = (0..1000).try_fold(y, |y, _| y.affine(0.5, 1.0));
    let text = more.and_then(|y| y.to_vec::<f32>()).unwrap_err().to_string();
    assert!(text.contains("the GPU was lost"), "{text}");
}
