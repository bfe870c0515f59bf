//! The books of a device: bytes in use, peaks, tags, reuse. Each test has a device of its own.

use engine::memory::{Usage, tagged};
use engine::{Cpu, DType, Device, Tensor};

fn device() -> Device {
    Device::new(Cpu::new())
}

#[test]
fn bytes_are_booked_and_given_back() {
    let device = device();
    let a = Tensor::zeros(&[1000], DType::F32, &device).unwrap();
    let view = a.narrow(0, 0, 10).unwrap();
    let b = Tensor::zeros(&[10], DType::BF16, &device).unwrap();
    assert_eq!(device.memory().total(), Usage { current: 4020, peak: 4020 });
    drop((a, b));
    assert_eq!(device.memory().total().current, 4000, "the view holds its storage");
    drop(view);
    assert_eq!(device.memory().total(), Usage { current: 0, peak: 4020 });
    device.memory().reset_peak();
    assert_eq!(device.memory().total(), Usage::default());
}

#[test]
fn the_innermost_tag_counts() {
    let device = device();
    let zeros = |n| Tensor::zeros(&[n], DType::U8, &device).unwrap();
    let (weights, _cache) = tagged("weights", || (zeros(100), tagged("cache", || zeros(10))));
    let _other = zeros(1);
    drop(weights);
    let books = device.memory().by_tag();
    assert_eq!(
        books,
        [
            ("cache", Usage { current: 10, peak: 10 }),
            ("other", Usage { current: 1, peak: 1 }),
            ("weights", Usage { current: 0, peak: 100 }),
        ]
    );
}

#[test]
fn a_tag_ends_with_a_panic() {
    let device = device();
    let outcome = std::panic::catch_unwind(|| tagged("doomed", || panic!("planted")));
    assert!(outcome.is_err());
    let _t = Tensor::zeros(&[1], DType::U8, &device).unwrap();
    assert_eq!(device.memory().by_tag()[0].0, "other");
}

#[test]
fn freed_blocks_are_used_again() {
    let device = device();
    let pooled = || device.backend::<Cpu>().unwrap().pooled_bytes();
    let make = |n| Tensor::zeros(&[n], DType::F32, &device).unwrap();
    drop(make(10_000));
    let idle = pooled();
    assert!(idle >= 40_000, "{idle}");
    // A little smaller: the same block.
    let again = make(9_999);
    assert_eq!(pooled(), 0);
    drop(again);
    assert_eq!(pooled(), idle);
    // A used block is zeroed when zeros are asked for.
    drop(Tensor::full(&[10_000], 7.0, DType::F32, &device).unwrap());
    assert!(make(10_000).to_f64_vec().unwrap().iter().all(|&x| x == 0.0));
    device.backend::<Cpu>().unwrap().trim();
    assert_eq!(pooled(), 0);
}

#[test]
fn a_chain_of_operations_reuses_two_blocks() {
    let device = device();
    let mut x = Tensor::full(&[4096], 1.0, DType::F32, &device).unwrap();
    device.backend::<Cpu>().unwrap().trim();
    device.memory().reset_peak();
    for _ in 0..100 {
        x = x.affine(1.0, 1.0).unwrap();
    }
    assert_eq!(x.to_f64_vec().unwrap()[0], 101.0);
    assert_eq!(device.memory().total().peak, 2 * 4096 * 4);
    assert!(device.backend::<Cpu>().unwrap().pooled_bytes() <= 2 * 4096 * 4);
}

#[test]
fn too_much_is_an_error_that_says_how_much() {
    let device = device();
    for dims in [&[1usize << 50][..], &[1 << 30, 1 << 29]] {
        let text = Tensor::zeros(dims, DType::F32, &device).unwrap_err().to_string();
        assert!(text.contains("cannot allocate") && text.contains("in use"), "{text}");
    }
    // An expanded view is free; a copy of it is not.
    let wide = Tensor::zeros(&[1], DType::F32, &device).unwrap().expand(&[1 << 50]).unwrap();
    assert!(wide.copy().is_err());
    assert!(wide.to_f64_vec().is_err());
    assert_eq!(device.memory().total().current, 4);
}
