//! Small files of a model folder.

use std::io::Write;
use std::path::Path;

use engine::weights::{WeightError, replace_file};
use serde_json::Value;

use crate::error::{Error, Result};

/// Writes a file so that it is there whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(replace_file(path, |file| {
        file.write_all(bytes).map_err(|source| WeightError::Io {
            path: path.to_owned(),
            action: "write",
            source,
        })
    })?)
}

/// Writes JSON with an indentation of two spaces and a line end.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    write(path, format!("{value:#}\n").as_bytes())
}

/// Makes a folder and those above it.
pub fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::Input(format!("{}: cannot create: {e}", path.display())))
}
