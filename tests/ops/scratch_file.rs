//! Tensors whose memory is a file.

use engine::ops::{AdamW, Moments8bit};
use engine::{DType, Device, Spec, Tensor};

use crate::harness::Source;

fn spec(dims: &[usize], dtype: DType) -> Spec {
    Spec::new(dims, dtype).unwrap()
}

#[test]
fn they_start_as_zeros_and_are_written_like_others() {
    let device = Device::cpu();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scratch.bin");
    // Sizes that do not end on cache lines, an empty one among them.
    let specs =
        [spec(&[3], DType::U8), spec(&[0], DType::F32), spec(&[5, 7], DType::F32), spec(&[], DType::F32)];
    let tensors = Tensor::zeros_in_file(&path, &specs, &device).unwrap();
    for (tensor, spec) in tensors.iter().zip(&specs) {
        assert_eq!(tensor.spec(), *spec);
        assert!(tensor.to_f64_vec().unwrap().iter().all(|&x| x == 0.0));
    }
    let part = tensors[2].narrow(1, 2, 3).unwrap();
    part.write(&Tensor::full(&[5, 3], 2.5, DType::F32, &device).unwrap()).unwrap();
    assert_eq!(tensors[2].sum(&[0, 1]).unwrap().item().unwrap(), 37.5);
    for other in [&tensors[0], &tensors[3]] {
        assert!(other.to_f64_vec().unwrap().iter().all(|&x| x == 0.0));
    }
    // The last tensor keeps the file.
    let last = tensors[2].clone();
    drop(tensors);
    assert_eq!(last.sum(&[0, 1]).unwrap().item().unwrap(), 37.5);
    drop(last);
    assert!(!path.exists());
}

#[cfg(unix)]
#[test]
fn the_file_has_no_name_while_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scratch.bin");
    let make = || Tensor::zeros_in_file(&path, &[spec(&[4], DType::F32)], &Device::cpu()).unwrap().remove(0);
    let (a, b) = (make(), make());
    assert!(!path.exists());
    a.write(&Tensor::full(&[4], 1.0, DType::F32, &Device::cpu()).unwrap()).unwrap();
    assert_eq!(b.to_f64_vec().unwrap(), [0.0; 4]);
}

#[test]
fn optimiser_steps_give_the_bits_of_memory() {
    let device = Device::cpu();
    let folder = tempfile::tempdir().unwrap();
    let n = 40_000;
    let mut source = Source::new(8);
    let (start, g) = (source.normal(&[n], DType::F32), source.normal(&[n], DType::F32));
    let blocks = n.div_ceil(256);
    let specs = [
        spec(&[n], DType::U8),
        spec(&[n], DType::U8),
        spec(&[blocks], DType::F32),
        spec(&[blocks], DType::F32),
        spec(&[n], DType::F32),
        spec(&[n], DType::F32),
    ];
    let in_file = Tensor::zeros_in_file(&folder.path().join("scratch.bin"), &specs, &device).unwrap();
    let in_memory: Vec<Tensor> =
        specs.iter().map(|s| Tensor::zeros(&s.dims, s.dtype, &device).unwrap()).collect();
    let run = |state: &[Tensor]| {
        let [m8, v8, absmax_m, absmax_v, m, v] = state else { unreachable!() };
        let eight = Moments8bit {
            m: m8.clone(),
            v: v8.clone(),
            absmax_m: absmax_m.clone(),
            absmax_v: absmax_v.clone(),
        };
        let p = [0, 1].map(|_| start.on(&device).unwrap().copy().unwrap());
        let g = g.on(&device).unwrap();
        for step in 1..=3 {
            let op = AdamW {
                lr: 0.01,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.1,
                step,
                grad_scale: 0.7,
            };
            Tensor::adamw8bit_step(&p[0], &eight, &g, &op).unwrap();
            Tensor::adamw_step(&p[1], m, v, &g, &op).unwrap();
        }
        let bytes: Vec<_> = p.iter().chain(state).map(|t| t.to_bytes().unwrap()).collect();
        bytes
    };
    assert!(run(&in_file) == run(&in_memory));
}

#[test]
fn what_cannot_be_made_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept.bin");
    let make = |path: &std::path::Path, dims: &[usize]| {
        Tensor::zeros_in_file(path, &[spec(dims, DType::F32)], &Device::cpu()).unwrap_err().to_string()
    };
    // Somebody's file is not written over, and not removed.
    std::fs::write(&path, b"precious").unwrap();
    let said = make(&path, &[4]);
    assert!(said.contains("kept.bin") && said.contains("cannot create"), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let said = make(&folder.path().join("no/such/folder.bin"), &[4]);
    assert!(said.contains("folder.bin") && said.contains("cannot create"), "{said}");
}
