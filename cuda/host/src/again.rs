//! Test programs that run some of their tests again, on the stand-in.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::{Copies, Order, Schedule, folder, load, sanitizer_environment};

/// In which way.
#[derive(Clone, Copy, Debug)]
pub enum How {
    /// The plain build under a schedule.
    Under(Schedule),
    /// The build with sanitizers, if the compiler has them.
    Sanitized,
}

impl How {
    /// The four schedules.
    pub const SCHEDULES: [Self; 4] = [
        Self::Under(Schedule::ALL[0]),
        Self::Under(Schedule::ALL[1]),
        Self::Under(Schedule::ALL[2]),
        Self::Under(Schedule::ALL[3]),
    ];
}

/// Runs the tests of this program with exactly these names once more, in a process whose driver library is the stand-in and with
/// `ROENTGEN_TEST_DEVICE=cuda`. With `ROENTGEN_CUDA=device` on this machine's GPU instead, once. Without a stand-in it says `SKIP:`.
///
/// # Panics
/// If a test fails or is not there, or the emulator found something that no test asked about.
pub fn again(tests: &[&str], how: How) {
    const DEVICE: &str = "ROENTGEN_TEST_DEVICE";
    if std::env::var_os(DEVICE).is_some() {
        // A second run in a second run, or one on a device of the caller's choice.
        return;
    }
    let program = std::env::current_exe().expect("a test program knows its name");
    let mut command = Command::new(program);
    command.args(tests).arg("--exact").env(DEVICE, "cuda");
    let hardware = std::env::var_os("ROENTGEN_CUDA").is_some_and(|v| v == "device");
    if hardware {
        // It knows no schedules: once is enough.
        static DONE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        if !DONE.lock().unwrap_or_else(PoisonError::into_inner).insert(tests.concat()) {
            return;
        }
    } else {
        let (Some(_), Some(folder)) = (load(), folder()) else { return };
        match how {
            How::Under(schedule) => {
                let order = if schedule.order == Order::Greedy { "greedy" } else { "round-robin" };
                let copies = if schedule.copies == Copies::Eager { "eager" } else { "lazy" };
                command.env("ROENTGEN_EMULATOR_SCHEDULE", format!("{order}+{copies}"));
                command.env("ROENTGEN_EMULATOR_SEED", schedule.seed.to_string());
                command.env("LD_LIBRARY_PATH", folder);
            }
            How::Sanitized => match sanitizer_environment() {
                Some(environment) => {
                    command.envs(environment).env("LD_LIBRARY_PATH", folder.with_file_name("sanitized"));
                }
                None => return println!("SKIP: the C++ compiler has no sanitizers"),
            },
        }
    }
    let output = command.output().expect("this program");
    let text = String::from_utf8_lossy(&output.stdout);
    let passed = format!("{} passed", tests.len());
    assert!(
        output.status.success() && text.contains(&passed),
        "{tests:?} on CUDA, {how:?}, {}:\n{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
