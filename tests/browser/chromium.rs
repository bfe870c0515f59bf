//! Headless Chromium with its software WebGPU.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::server::Server;

/// Names under which distributions install it.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// The browser's program: `ROENTGEN_CHROMIUM`, or the first of its names in PATH. `None`, with a `SKIP:` line, where there is
/// none; a failure if `REQUIRE_BROWSER=1` then.
pub(crate) fn find(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os("ROENTGEN_CHROMIUM").map(PathBuf::from);
    let found = named.or_else(|| {
        let path = std::env::var_os("PATH")?;
        let places = std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name)));
        places.into_iter().find(|place| place.is_file())
    });
    if found.is_none() {
        skip(test, "no Chromium; ROENTGEN_CHROMIUM names one");
    }
    found
}

/// Says that a test cannot run here, or fails if it must.
fn skip(test: &str, reason: &str) {
    let required = std::env::var_os("REQUIRE_BROWSER").is_some_and(|v| v == "1");
    assert!(!required, "REQUIRE_BROWSER=1, but {test}: {reason}");
    println!("SKIP: {test}: {reason}");
}

/// A running browser that ends with the test.
struct Chromium {
    child: Child,
    folder: TempDir,
}

impl Chromium {
    fn open(program: &PathBuf, url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = File::create(folder.path().join("log")).expect("a file in a fresh folder");
        let child = Command::new(program)
            .args(["--headless", "--no-sandbox", "--no-first-run", "--disable-sync"])
            .args(["--disable-background-networking", "--disable-component-update"])
            // The processor plays the GPU, so that every machine gives the same answer.
            .args(["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"])
            // The page's console goes to the log.
            .args(["--enable-logging=stderr", "--v=0"])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{} cannot be started: {e}", program.display()));
        Self { child, folder }
    }

    /// What the page wrote to its console, or else the end of what the browser said.
    fn console(&self) -> String {
        let log = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let of_page: Vec<&str> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
        if of_page.is_empty() {
            let lines: Vec<&str> = log.lines().collect();
            return lines[lines.len().saturating_sub(20)..].join("\n");
        }
        of_page.join("\n")
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Its other processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pages go one by one: the processor plays the GPU of each.
static TURN: Mutex<()> = Mutex::new(());

/// Opens the page with `query` and waits for what it sends back, at most `patience`. `None`, with a `SKIP:` line, if this
/// browser has no software WebGPU; a failure if `REQUIRE_BROWSER=1` then.
///
/// # Panics
/// If nothing comes, with the page's console.
pub(crate) fn visit(program: &PathBuf, server: &Server, query: &str, patience: Duration) -> Option<Value> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut browser = Chromium::open(program, &server.page(query));
    let started = Instant::now();
    let result = loop {
        match server.results().recv_timeout(Duration::from_millis(200)) {
            Ok(result) => break result,
            Err(RecvTimeoutError::Disconnected) => panic!("the server has ended"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if let Ok(Some(status)) = browser.child.try_wait() {
            panic!("the browser ended ({status}) before the page answered:\n{}", browser.console());
        }
        assert!(
            started.elapsed() < patience,
            "the page did not answer ?{query} within {patience:?}; its console:\n{}",
            browser.console()
        );
    };
    let value: Value = serde_json::from_str(&result)
        .unwrap_or_else(|e| panic!("the page sent no JSON ({e}): {result}\n{}", browser.console()));
    let uncaught = value.get("error").is_none() && browser.console().contains("Uncaught");
    assert!(!uncaught, "the page has an uncaught error:\n{}", browser.console());
    if let Some(error) = value["error"].as_str().filter(|error| error.starts_with("no GPU")) {
        skip("a page of the browser", error);
        return None;
    }
    Some(value)
}
