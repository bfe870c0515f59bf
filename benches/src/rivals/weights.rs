//! One model's weights in the forms that the systems read: a Hugging Face folder and a GGUF file.

use std::cell::OnceCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ::model::convert::{Conversion, convert};
use engine::DType;

use crate::{Error, Result};

/// Weights, and a folder for what is made of them.
pub struct Weights {
    given: PathBuf,
    made: PathBuf,
    folder: OnceCell<PathBuf>,
    gguf: OnceCell<PathBuf>,
}

impl Weights {
    /// A folder in Hugging Face layout or a GGUF file; other forms are made below `work` and kept there for the next
    /// time, under a name that changes with the file's size and time.
    ///
    /// # Errors
    /// If there is no such folder or file.
    pub fn new(given: &Path, work: &Path) -> Result<Self> {
        let failed = |source| Error::Io { path: given.into(), action: "find these weights", source };
        let given = given.canonicalize().map_err(failed)?;
        let main = if given.is_dir() { given.join("model.safetensors") } else { given.clone() };
        let about = std::fs::metadata(&main).map_err(failed)?;
        if !given.is_dir() && given.extension().is_none_or(|e| e != "gguf") {
            let reason = "weights are a folder in Hugging Face layout or a .gguf file".into();
            return Err(Error::File { path: given, reason });
        }
        let mut hash = DefaultHasher::new();
        (&given, about.len(), about.modified().ok()).hash(&mut hash);
        let name = format!("{}-{:016x}", stem(&given), hash.finish());
        Ok(Self { made: work.join(name), given, folder: OnceCell::new(), gguf: OnceCell::new() })
    }

    /// Their name, for tables.
    pub fn name(&self) -> String {
        stem(&self.given)
    }

    /// Where other forms are made.
    pub(super) fn made(&self) -> Result<PathBuf, String> {
        let made = std::path::absolute(&self.made).map_err(|e| format!("{}: {e}", self.made.display()))?;
        std::fs::create_dir_all(&made).map_err(|e| format!("{}: cannot be made: {e}", made.display()))?;
        Ok(made)
    }

    /// As a Hugging Face folder in bf16.
    pub(super) fn folder(&self) -> Result<PathBuf, String> {
        if self.given.is_dir() {
            return Ok(self.given.clone());
        }
        cached(&self.folder, self.made()?.join(stem(&self.given)), |part| {
            let how = Conversion { dtype: DType::BF16, into: None };
            convert(&self.given, part, &how, &mut |_, _| ()).map_err(|e| e.to_string())
        })
    }

    /// As a GGUF file.
    pub(super) fn gguf(&self, python: &Path, scripts: &Path) -> Result<PathBuf, String> {
        if !self.given.is_dir() {
            return Ok(self.given.clone());
        }
        cached(&self.gguf, self.made()?.join(format!("{}.gguf", stem(&self.given))), |part| {
            let mut command = Command::new(python);
            command.arg(scripts.join("write_llama_gguf.py")).arg(part).arg("--from").arg(&self.given);
            let done = command.stdin(Stdio::null()).output();
            let done = done.map_err(|e| format!("{}: cannot be started: {e}", python.display()))?;
            if done.status.success() {
                return Ok(());
            }
            let said =
                String::from_utf8_lossy(&done.stderr).trim().lines().last().unwrap_or_default().to_owned();
            Err(format!(
                "{}: no GGUF file could be written (it takes Python's gguf and numpy): {said}",
                part.display()
            ))
        })
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(|| "weights".into(), |name| name.to_string_lossy().into_owned())
}

/// What is there already, or is made beside and renamed.
fn cached(
    cell: &OnceCell<PathBuf>,
    path: PathBuf,
    make: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    if let Some(path) = cell.get() {
        return Ok(path.clone());
    }
    if !path.exists() {
        let part = path.with_extension("making");
        // Of a run that was ended.
        let _ = std::fs::remove_dir_all(&part);
        let _ = std::fs::remove_file(&part);
        make(&part)?;
        std::fs::rename(&part, &path).map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(cell.get_or_init(|| path).clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_are_not_there_are_refused() {
        let work = tempfile::tempdir().unwrap();
        let error = |path: &Path| Weights::new(path, work.path()).err().unwrap().to_string();
        assert!(error(Path::new("nowhere.gguf")).contains("nowhere.gguf"));
        assert!(error(work.path()).contains("cannot find these weights"), "a folder without weights");
        let text = work.path().join("notes.txt");
        std::fs::write(&text, "x").unwrap();
        assert!(error(&text).contains(".gguf"));
    }

    #[test]
    fn other_forms_are_made_once_and_anew_for_a_new_file() {
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("a.gguf");
        std::fs::write(&file, "first").unwrap();
        let first = Weights::new(&file, work.path()).unwrap();
        assert_eq!(
            (first.name(), first.made),
            (Weights::new(&file, work.path()).unwrap().name(), {
                Weights::new(&file, work.path()).unwrap().made
            })
        );
        let before = Weights::new(&file, work.path()).unwrap().made;
        std::fs::write(&file, "longer").unwrap();
        assert_ne!(before, Weights::new(&file, work.path()).unwrap().made);

        let mut times = 0;
        let path = work.path().join("made");
        for _ in 0..2 {
            let made = cached(&OnceCell::new(), path.clone(), |part| {
                times += 1;
                std::fs::write(part, "x").map_err(|e| e.to_string())
            });
            assert_eq!(made, Ok(path.clone()));
        }
        assert_eq!(times, 1);
        let failed = cached(&OnceCell::new(), work.path().join("other"), |_| Err("no".into()));
        assert_eq!(failed, Err("no".into()));
    }
}
