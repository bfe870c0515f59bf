//! What the emulator finds wrong about products of warpgroups (`faults/warpgroup.cu`, whose numbers of faults these are).

use cuda_host::Copies;
use cudarc::driver::{CudaSlice, DriverError, PushKernelArg};

use crate::session::{Session, run_all, shape};

const FAILED: &str = "CUDA_ERROR_LAUNCH_FAILED";

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * i + seed * i) % 31) as f32 - 15.0).collect()
}

/// The product with one fault, or with none: 0.
fn product(session: &Session, fault: u32) -> (Result<(), DriverError>, CudaSlice<f32>) {
    let bits = |v: Vec<f32>| v.into_iter().map(|x| (x.to_bits() >> 16) as u16).collect::<Vec<_>>();
    let (a, b) = (session.upload(&bits(values(64 * 64, 3))), session.upload(&bits(values(128 * 64, 7))));
    let mut out = session.fresh(64 * 128);
    let function = session.function("warpgroup_product");
    // SAFETY: the arrays have the sizes that the kernel takes; the emulator checks the rest.
    let launched = unsafe {
        let mut launch = session.stream.launch_builder(&function);
        launch.arg(&mut out).arg(&a).arg(&b).arg(&fault).launch(shape(1, 128, 24 << 10))
    };
    (launched.and_then(|_| session.stream.synchronize()), out)
}

/// Whether the product without an error is the right one: small integers, so every bit.
fn is_right(session: &Session, fault: u32) -> bool {
    let (result, out) = product(session, fault);
    result.expect("no error, maybe a wrong result");
    let (a, b) = (values(64 * 64, 3), values(128 * 64, 7));
    let dot =
        |row: usize, column: usize| -> f32 { (0..64).map(|k| a[row * 64 + k] * b[column * 64 + k]).sum() };
    let out = session.download(&out);
    (0..64 * 128).all(|i| out[i] == dot(i / 128, i % 128))
}

#[test]
fn a_correct_product_passes_under_every_schedule() {
    run_all(|session, schedule| assert!(is_right(session, 0), "{schedule:?}"));
}

#[test]
fn missing_fences() {
    run_all(|session, _| {
        session.fails(
            product(session, 1).0,
            FAILED,
            &["kernel warpgroup_product", "was copied by thread", "no proxy_fence"],
        );
        session.fails(product(session, 2).0, FAILED, &["wgmma at", "warpgroup.cu:", "without a wgmma_fence"]);
    });
}

/// Sums that are read, and tiles that are overwritten, before the wait: what a product that runs late shows.
#[test]
fn a_missing_wait() {
    run_all(|session, schedule| {
        assert_eq!(is_right(session, 3), schedule.copies == Copies::Eager, "{schedule:?}");
        if schedule.copies == Copies::Lazy {
            assert!(!is_right(session, 8), "{schedule:?}");
        }
    });
}

#[test]
fn wrong_layouts_and_descriptors() {
    run_all(|session, schedule| {
        assert!(!is_right(session, 4), "chunks that were not exchanged: {schedule:?}");
        assert!(!is_right(session, 5), "pieces half as far apart: {schedule:?}");
        session.fails(product(session, 6).0, FAILED, &["swizzle mode 2 of the left operand"]);
        let askew = ["the left operand begins at byte 128", "in the middle of a piece"];
        session.fails(product(session, 7).0, "CUDA_ERROR_MISALIGNED_ADDRESS", &askew);
        session.fails(product(session, 9).0, FAILED, &["the warps of a warpgroup have different operands"]);
        let outside = ["the right operand", "of 24576 bytes of shared memory"];
        session.fails(product(session, 10).0, "CUDA_ERROR_ILLEGAL_ADDRESS", &outside);
    });
}
