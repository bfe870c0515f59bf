//! CSV tables by the names of their columns.

use std::fs::File;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, Reader, ReaderBuilder};

use crate::error::{Error, Result};

/// A table whose rows are read one after the other.
pub(super) struct Table {
    path: PathBuf,
    reader: Reader<File>,
    names: Vec<String>,
}

/// A row; cells that are missing are empty.
pub(super) struct Cells(Vec<String>);

impl Cells {
    /// The cell of a column, without the white space around it.
    pub(super) fn get(&self, column: usize) -> &str {
        self.0.get(column).map(|cell| cell.trim()).unwrap_or_default()
    }
}

/// The table below `folder` (itself or one level down) with one of these names.
pub(super) fn find(folder: &Path, names: &[&str]) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io(folder, "read", e))?;
    let mut below: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    below.sort();
    folders.extend(below);
    let paths = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    let Some(path) = paths.into_iter().find(|path| path.is_file()) else {
        let reason = format!("{}: has no {}; is it a MultiCaRe folder?", folder.display(), names[0]);
        return Err(Error::Data(reason));
    };
    if path.extension().is_some_and(|extension| extension == "parquet") {
        let reason = format!(
            "{}: Parquet is not read; write it as CSV first (pandas: read_parquet(…).to_csv(\"{}\", index=False))",
            path.display(),
            names[0]
        );
        return Err(Error::Data(reason));
    }
    Ok(path)
}

impl Table {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |e: csv::Error| Error::Data(format!("{}: {e}", path.display()));
        // Flexible: a line with too few cells is a damaged row, and no reason to stop.
        let mut reader = ReaderBuilder::new().flexible(true).from_path(path).map_err(failed)?;
        let head = reader.byte_headers().map_err(failed)?;
        let name = |cell: &[u8]| {
            // A byte-order mark, as spreadsheets write it.
            let cell = cell.strip_prefix(b"\xef\xbb\xbf").unwrap_or(cell);
            String::from_utf8_lossy(cell).trim().to_owned()
        };
        let names = head.iter().map(name).collect();
        Ok(Self { path: path.to_owned(), reader, names })
    }

    pub(super) fn maybe(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|n| n == name)
    }

    /// The first column with one of these names.
    pub(super) fn column(&self, names: &[&str]) -> Result<usize> {
        names.iter().find_map(|name| self.maybe(name)).ok_or_else(|| {
            let (path, names) = (self.path.display(), names.join("` or `"));
            Error::Data(format!("{path}: has no column `{names}`; its columns are {}", self.names.join(", ")))
        })
    }

    /// Hands over each row, `None` for one that is no UTF-8 or has another number of cells than the head.
    pub(super) fn each(&mut self, mut see: impl FnMut(Option<&Cells>)) -> Result<()> {
        let mut record = ByteRecord::new();
        loop {
            match self.reader.read_byte_record(&mut record) {
                Ok(false) => return Ok(()),
                Ok(true) => {}
                Err(e) => return Err(Error::Data(format!("{}: {e}", self.path.display()))),
            }
            let cells: Option<Vec<String>> =
                record.iter().map(|cell| str::from_utf8(cell).ok().map(str::to_owned)).collect();
            see(cells.filter(|cells| cells.len() == self.names.len()).map(Cells).as_ref());
        }
    }
}
