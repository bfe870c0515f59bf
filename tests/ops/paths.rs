//! The whole suite on every instruction-set path of the machine.

use std::process::Command;

use engine::cpu::isa::{Isa, isa};

/// Set in the processes that this test starts, so that they start none.
const MARKER: &str = "ROENTGEN_TEST_CHILD";

#[test]
fn every_instruction_set_path_passes() {
    if std::env::var_os(MARKER).is_some() {
        let wanted = std::env::var("ROENTGEN_CPU").unwrap();
        assert_eq!(isa().name(), wanted, "the path that was asked for is not the one in use");
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
        let output = Command::new(std::env::current_exe().unwrap())
            .args(only)
            .env("ROENTGEN_CPU", path.name())
            .env(MARKER, "1")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "the suite fails with ROENTGEN_CPU={}:\n{}{}",
            path.name(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
