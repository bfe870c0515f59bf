//! `profile`: any other command, with a record of where its time and memory went.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Once};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bench::profile::{Profile, least_seconds, stored_ceilings, write_trace};
use engine::profile::{Operation, Recorder};

use crate::global::Global;
use crate::{Command, interrupt, output};

/// Run another command and show where its time and memory go
///
/// The command does and prints what it always does. A table follows on stderr; the folder gets `index.html` (flame
/// view, tables, memory over time), `trace.json` (for <https://ui.perfetto.dev>) and `profile.json` (for programs).
#[derive(Debug, clap::Args)]
#[command(subcommand_value_name = "COMMAND", override_usage = "roentgen profile [OPTIONS] COMMAND …")]
pub(crate) struct ProfileArgs {
    /// Folder for the profile [default: profile-COMMAND in the working folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write over the profile that is in the folder
    #[arg(long)]
    force: bool,
    /// Most spans to keep of each thread, and as many changes of memory (32 bytes each)
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = crate::generate::positive)]
    room: usize,
    #[command(subcommand)]
    command: Command,
}

const PAGE: &str = "index.html";
const TRACE: &str = "trace.json";
const NUMBERS: &str = "profile.json";

pub(crate) fn run(args: &ProfileArgs, name: &str, global: &Global, started: Instant) -> Result<ExitCode> {
    let folder = args.out.clone().unwrap_or_else(|| format!("profile-{name}").into());
    check(&folder, args.force)?;
    let recorder = Recorder::in_front_of(crate::log_lines(global.verbose), args.room);
    recorder.install().context("another listener is there already")?;
    let ending = Arc::new(Ending { recorder, folder, title: title(name), once: Once::new() });
    let last = ending.clone();
    interrupt::before_exit(move || {
        if let Err(error) = last.write() {
            output::error(&error);
        }
    })?;
    let result = crate::run(&args.command, global, started);
    ending.write()?;
    result
}

/// Turns away a folder that cannot be written before anything is computed.
fn check(folder: &Path, force: bool) -> Result<()> {
    let there = [PAGE, TRACE, NUMBERS].into_iter().find(|name| folder.join(name).exists());
    if let Some(name) = there.filter(|_| !force) {
        bail!(
            "{}: has a profile already ({name}); --force writes over it, --out names another folder",
            folder.display()
        );
    }
    fs::create_dir_all(folder).with_context(|| format!("{}: the folder cannot be made", folder.display()))
}

/// The words of the command, from its name on.
fn title(name: &str) -> String {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let at = words.iter().rposition(|word| word == "profile").map_or(0, |at| at + 1);
    let from = words[at..].iter().position(|word| word == name).map_or(at, |i| at + i);
    let quoted = |word: &String| if word.contains(' ') { format!("\"{word}\"") } else { word.clone() };
    words[from..].iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// What is done at the end, whether the command came to its own or Ctrl-C to it.
struct Ending {
    recorder: Recorder,
    folder: PathBuf,
    title: String,
    once: Once,
}

impl Ending {
    fn write(&self) -> Result<()> {
        let mut result = Ok(());
        self.once.call_once(|| result = self.write_now());
        result
    }

    fn write_now(&self) -> Result<()> {
        let recording = self.recorder.take();
        let ceilings = stored_ceilings(crate::global::opened());
        let least = |op: &Operation| least_seconds(&ceilings, op);
        let roofline = (!ceilings.is_empty()).then_some(&least as &dyn Fn(&Operation) -> Option<f64>);
        let profile = Profile::new(&self.title, &recording, roofline);
        let trace = |path: &Path| -> std::io::Result<()> {
            let mut file = BufWriter::new(File::create(path)?);
            write_trace(&recording, &self.title, &mut file)?;
            file.flush()
        };
        let numbers = format!("{:#}\n", profile.to_json());
        self.file(TRACE, trace)?;
        self.file(NUMBERS, |path| fs::write(path, numbers))?;
        self.file(PAGE, |path| fs::write(path, profile.to_html()))?;
        let folder = self.folder.display();
        output::note(&format!(
            "\n{}\n{folder}: {PAGE} has more; {TRACE} opens in https://ui.perfetto.dev\n",
            profile.to_text()
        ));
        Ok(())
    }

    fn file(&self, name: &str, write: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<()> {
        let path = self.folder.join(name);
        write(&path).with_context(|| format!("{}: cannot be written", path.display()))
    }
}
