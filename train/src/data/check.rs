//! The data of a configuration, looked at without a model.

use std::collections::HashSet;

use super::images::{decode_all, hash};
use super::{BadRow, Cases, Split};
use crate::config::DataSection;
use crate::error::Result;

/// What is in one part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Rows.
    pub rows: usize,
    /// Those with an image.
    pub images: usize,
    /// Those whose answer is a structured report.
    pub reports: usize,
    /// Patients or articles.
    pub groups: usize,
    /// Rows that name none.
    pub without_group: usize,
}

/// What there is to say about the data.
#[derive(Clone, Debug)]
pub struct Check {
    /// Training, validation, test.
    pub parts: [(Split, Part); 3],
    /// Rows that cannot be used, damaged images among them.
    pub bad: Vec<BadRow>,
    /// Rows in no list of ids.
    pub unlisted: usize,
}

/// Reads all rows, hashes and decodes all images. `done` is called twice for each row.
///
/// # Errors
/// If a file cannot be read, no row is good, or a patient, an article or an image is in two parts.
pub fn check(section: &DataSection, begin: impl FnOnce(usize), done: &(dyn Fn() + Sync)) -> Result<Check> {
    let mut cases = Cases::read(section)?;
    begin(2 * cases.cases.len());
    hash(&mut cases, done)?;
    decode_all(&mut cases, done);
    let part = |split| {
        let mut part = Part::default();
        let mut groups = HashSet::new();
        for case in cases.of(split) {
            part.rows += 1;
            part.images += usize::from(case.image.is_some());
            part.reports += usize::from(case.report.is_some());
            match &case.group {
                Some(group) => part.groups += usize::from(groups.insert(group)),
                None => part.without_group += 1,
            }
        }
        (split, part)
    };
    let parts = Split::ALL.map(part);
    Ok(Check { parts, bad: cases.bad, unlisted: cases.unlisted })
}
