//! The folder of a run: who may write to it, and what says where and by what it was made.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use engine::Device;
use engine::cpu::{isa, threads};
use serde_json::{Value, json};

use crate::checkpoint::Checkpoints;
use crate::config::TrainConfig;
use crate::data::BadRow;
use crate::data::store::remove_partials;
use crate::error::{Error, Result};
use crate::metrics::write;

/// The program that runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Program {
    /// Its version.
    pub version: &'static str,
    /// The commit that it was built from, if that was known.
    pub commit: Option<&'static str>,
}

/// The folder, as long as this process may write to it.
pub(crate) struct RunFolder {
    pub(crate) checkpoints: Checkpoints,
    /// Locked until it is closed, by whatever end of the process.
    pub(crate) lock: File,
}

impl RunFolder {
    /// Makes the folder; refuses to write over another run or beside another process.
    pub(crate) fn open(config: &TrainConfig, resume: bool) -> Result<Self> {
        let out = &config.out;
        std::fs::create_dir_all(out).map_err(|e| Error::io(out, "create", e))?;
        let path = out.join(".lock");
        let lock = File::create(&path).map_err(|e| Error::io(&path, "create", e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let reason = "another process trains in this folder; wait for it, or choose another `out`";
                return Err(Error::checkpoint(out, reason));
            }
            // A file system without locks: nothing to hold on to.
            Err(TryLockError::Error(e)) => tracing::debug!("{}: cannot be locked: {e}", path.display()),
        }
        let checkpoints = Checkpoints::new(out.join("checkpoints"), config.training.keep_checkpoints);
        if !resume && (out.join("metrics.jsonl").exists() || !checkpoints.steps()?.is_empty()) {
            let reason = "holds a run already; continue it with --resume, or choose another `out`";
            return Err(Error::checkpoint(out, reason));
        }
        checkpoints.clean()?;
        for folder in [out.clone(), out.join("model"), out.join("samples")] {
            remove_partials(&folder, Duration::ZERO);
        }
        Ok(Self { checkpoints, lock })
    }
}

/// Writes `bad-rows.txt`, or removes it where there are none.
pub(crate) fn report_bad(out: &Path, bad: &[BadRow]) -> Result<()> {
    let path = out.join("bad-rows.txt");
    if bad.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, "remove", e)),
            _ => Ok(()),
        };
    }
    let mut lines = String::new();
    for row in bad {
        tracing::warn!("bad row left out: {row}");
        lines += &row.to_string();
        lines.push('\n');
    }
    write(&path, lines.as_bytes())
}

/// Adds this process to `environment.json`: a run that was continued has one entry for each start.
pub(crate) fn note_environment(out: &Path, program: &Program, device: &Device, start: usize) -> Result<()> {
    let path = out.join("environment.json");
    let before = std::fs::read(&path).ok().and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    let mut starts = match before {
        Some(Value::Array(starts)) => starts,
        _ => Vec::new(),
    };
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    starts.push(json!({
        "after_step": start,
        "unix_time": seconds.as_secs(),
        "version": program.version,
        "commit": program.commit,
        "device": device.description(),
        "threads": threads::threads(),
        "kernels": isa::isa().name(),
        "cpu": cpu_name(),
        "cpu_features": cpu_features(),
        "os": std::env::consts::OS,
        "os_release": os_release(),
        "arch": std::env::consts::ARCH,
    }));
    write(&path, format!("{:#}\n", Value::Array(starts)).as_bytes())
}

fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, name) = info.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(name.trim().to_owned())
}

fn os_release() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned())
}

/// What this processor has of the extensions that kernels use or may come to use.
fn cpu_features() -> Vec<&'static str> {
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if is_x86_feature_detected!($name) { features.push($name); })* };
        }
        detect!(
            "avx",
            "avx2",
            "fma",
            "f16c",
            "avxvnni",
            "avx512f",
            "avx512bw",
            "avx512vl",
            "avx512dq",
            "avx512vnni",
            "avx512bf16",
            "avx512fp16"
        );
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if std::arch::is_aarch64_feature_detected!($name) { features.push($name); })* };
        }
        detect!("neon", "fp16", "dotprod", "i8mm", "bf16", "sve", "sve2");
    }
    features.sort_unstable();
    features
}
