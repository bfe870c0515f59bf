//! Ctrl-C: the first asks for a clean end, the second ends the program.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// What a shell expects of a program that SIGINT ended.
const CODE: u8 = 130;

/// Watches for Ctrl-C from here on. To be called once, by a command whose loop looks at [`asked`].
pub(crate) fn watch() -> Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(CODE));
        }
    })
    .context("cannot watch for Ctrl-C")
}

/// What Ctrl-C sets, for loops of other crates.
pub(crate) fn flag() -> &'static AtomicBool {
    &ASKED
}

/// Whether Ctrl-C was pressed.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// The exit code of a command that ended early because of it.
pub(crate) fn exit_code() -> ExitCode {
    ExitCode::from(CODE)
}
