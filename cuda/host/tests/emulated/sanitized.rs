//! The kernels' tests once more with `AddressSanitizer` and `UndefinedBehaviorSanitizer`, which see every access of a kernel.

use cuda_host::{required, sanitizer_environment};
use cudarc::driver::PushKernelArg;

use crate::session::{again, run, shape, text};

fn environment() -> Option<Vec<(&'static str, String)>> {
    let environment = sanitizer_environment();
    if environment.is_none() {
        assert!(!required(), "the stand-in was not built with sanitizers");
        println!("SKIP: the stand-in was not built with sanitizers");
    }
    environment
}

#[test]
fn kernels_are_clean() {
    let Some(environment) = environment() else { return };
    let output = again(&["kernels::"], &environment);
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("SKIP:") && text.contains("test kernels::"), "{text}");
}

#[test]
#[ignore = "started by `reads_past_the_end_are_found`"]
fn read_past_the_end() {
    run(|session| {
        let input = session.upload(&[1.0_f32; 60]);
        let mut out = session.fresh(32);
        let function = session.function("read_global");
        // SAFETY: the read past the end is the bug.
        unsafe {
            let mut launch = session.stream.launch_builder(&function);
            launch.arg(&mut out).arg(&input).arg(&29_i64).launch(shape(1, 32, 0)).expect("a launch");
        }
    });
}

#[test]
fn reads_past_the_end_are_found() {
    let Some(environment) = environment() else { return };
    let output = again(&["--exact", "--ignored", "sanitized::read_past_the_end"], &environment);
    let text = text(&output);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("AddressSanitizer: use-after-poison"), "{text}");
    assert!(text.contains("faults.cu:"), "{text}");
}
