//! Where ceilings are kept between runs.

use std::path::{Path, PathBuf};

use engine::Device;

use super::{Effort, Fingerprint, Machine};
use crate::record::write_json;
use crate::{Error, Result};

/// Names the file of ceilings instead of the one in the user's cache folder.
const VARIABLE: &str = "ROENTGEN_MACHINE";
/// Larger files hold no ceilings.
const MOST_BYTES: u64 = 1 << 20;

/// `$ROENTGEN_MACHINE`, else a file for the device's fingerprint in `$XDG_CACHE_HOME/roentgen` (`~/.cache/roentgen`);
/// `None` where there is no home folder either. A GPU's ceilings are in a file beside `$ROENTGEN_MACHINE`, with its digest in the
/// name.
pub fn default_path(device: &Device) -> Option<PathBuf> {
    Fingerprint::of(device).path()
}

impl Fingerprint {
    /// [`default_path`] of the device that this belongs to.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        let digest = self.digest();
        match set(VARIABLE) {
            Some(path) if self.gpu() => Some(path.with_extension(format!("{digest}.json"))),
            Some(path) => Some(path),
            None => Some(cache_folder()?.join(format!("machine-{digest}.json"))),
        }
    }
}

/// `$XDG_CACHE_HOME/roentgen`, or `~/.cache/roentgen`.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(cache.join("roentgen"))
}

/// A path from the environment.
fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

impl Machine {
    /// Reads ceilings.
    ///
    /// # Errors
    /// If the file cannot be read or holds no ceilings.
    pub fn load(path: &Path) -> Result<Self> {
        let wrong = |reason: String| Error::File {
            path: path.into(),
            reason: format!("{reason}; `roentgen bench machine` writes the file anew"),
        };
        let failed = |source| Error::Io { path: path.into(), action: "read the machine's ceilings", source };
        if std::fs::metadata(path).map_err(failed)?.len() > MOST_BYTES {
            return Err(wrong("is too large for a machine's ceilings".into()));
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let machine: Self = serde_json::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        machine.check().map_err(wrong)?;
        Ok(machine)
    }

    /// Why these are no ceilings, if they are none.
    pub(crate) fn check(&self) -> Result<(), String> {
        let good = |x: f64| x.is_finite() && x > 0.0;
        if !self.peaks.iter().any(|p| p.dtype == "f32") || !self.peaks.iter().all(|p| good(p.flops)) {
            return Err("has no valid arithmetic peaks".into());
        }
        if self.levels.is_empty() || !self.levels.iter().all(|l| good(l.read) && good(l.triad)) {
            return Err("has no valid bandwidths".into());
        }
        if !self.levels.is_sorted_by_key(|l| l.bytes) {
            return Err("has working sets out of order".into());
        }
        Ok(())
    }

    /// Writes the ceilings, making the folder where it is missing.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            let made = std::fs::create_dir_all(folder);
            made.map_err(|source| Error::Io { path: folder.into(), action: "make this folder", source })?;
        }
        write_json(path, self)
    }

    /// The ceilings of a device of this machine: those kept at `path` if they fit, raised by a short probe, else measured quickly;
    /// kept there again where they changed. A file that cannot be used is reported and measured over, and one that
    /// cannot be written is reported only.
    ///
    /// # Errors
    /// If the engine fails.
    pub fn known(device: &Device, path: Option<&Path>) -> Result<Self> {
        let own = Fingerprint::of(device);
        let stored = path.filter(|p| p.exists()).and_then(|path| match Self::load(path) {
            Ok(machine) => {
                let differences = machine.fingerprint.differences(&own);
                if differences.is_empty() {
                    return Some(machine);
                }
                tracing::info!("{}: of another machine ({differences}); measuring this one", path.display());
                None
            }
            Err(error) => {
                tracing::warn!("{error}; measuring now");
                None
            }
        });
        let (machine, changed) = match stored {
            Some(mut machine) => {
                let changed = machine.raise(&Self::measure(device, Effort::Probe)?);
                (machine, changed)
            }
            None => (Self::measure(device, Effort::Quick)?, true),
        };
        if let Some(path) = path.filter(|_| changed)
            && let Err(error) = machine.save(path)
        {
            tracing::warn!("the machine's ceilings are not kept: {error}");
        }
        Ok(machine)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::invented;
    use super::*;

    #[test]
    fn ceilings_come_back_as_they_were_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/machine.json");
        let machine = invented();
        machine.save(&path).unwrap();
        assert_eq!(Machine::load(&path).unwrap(), machine);
    }

    #[test]
    fn hostile_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        let mut zero = invented();
        zero.levels[0].read = 0.0;
        let mut negative = invented();
        negative.peaks[1].flops = -1.0;
        let mut disorder = invented();
        disorder.levels.reverse();
        let texts = [zero, negative, disorder, Machine { levels: vec![], ..invented() }]
            .map(|m| serde_json::to_string(&m).unwrap());
        let broken = ["", "{}", "[1]", "{\"peaks\":", "\u{0}"].map(str::to_owned);
        for text in texts.into_iter().chain(broken) {
            std::fs::write(&path, &text).unwrap();
            let error = Machine::load(&path).unwrap_err().to_string();
            assert!(error.contains("machine.json") && error.contains("bench machine"), "{error}");
        }
        assert!(Machine::load(&folder.path().join("none.json")).is_err());
    }

    #[test]
    fn a_file_of_another_machine_is_measured_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("machine.json");
        let mut other = invented();
        other.fingerprint.cpu = "another".into();
        other.save(&path).unwrap();
        let here = Machine::known(&Device::cpu(), Some(&path)).unwrap();
        assert_eq!(here.fingerprint, Fingerprint::here());
        assert_eq!(Machine::load(&path).unwrap(), here);
    }
}
