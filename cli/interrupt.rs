//! Ctrl-C: the first asks for a clean end, the second ends the program.

use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

static ASKED: AtomicBool = AtomicBool::new(false);
/// A command's loop looks at [`asked`].
static WATCHED: AtomicBool = AtomicBool::new(false);
/// Done before the program is ended from here.
static LAST: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// What a shell expects of a program that SIGINT ended.
const CODE: u8 = 130;

/// Watches for Ctrl-C from here on. To be called once, by a command whose loop looks at [`asked`].
pub(crate) fn watch() -> Result<()> {
    WATCHED.store(true, Ordering::Relaxed);
    listen()
}

/// Has `f` done before Ctrl-C ends the program: at the first of a command that does not watch, else at the second. To
/// be called at most once.
pub(crate) fn before_exit(f: impl Fn() + Send + Sync + 'static) -> Result<()> {
    let _ = LAST.set(Box::new(f));
    listen()
}

fn listen() -> Result<()> {
    static LISTENS: AtomicBool = AtomicBool::new(false);
    if LISTENS.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) || !WATCHED.load(Ordering::Relaxed) {
            if let Some(last) = LAST.get() {
                last();
            }
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
