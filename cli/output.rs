//! What is shown: text and JSON on stdout, tables, errors on stderr.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

use anyhow::{Context, Result};
pub(crate) use bench::units::{flops, grouped};
use serde::Serialize;

/// Writes to stdout at once. Unlike `print!`, a closed pipe is an error and no panic.
pub(crate) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.context("stdout cannot be written")
}

/// As [`text`], with a line end.
pub(crate) fn line(line: &str) -> Result<()> {
    text(&format!("{line}\n"))
}

/// A result as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Whether a person looks at stdout.
pub(crate) fn to_terminal() -> bool {
    io::stdout().is_terminal()
}

/// The error with its causes, each once: errors of the crates repeat the text of their cause.
pub(crate) fn error(error: &anyhow::Error) {
    let _ = writeln!(io::stderr(), "error: {}", chain(error));
}

/// Text beside the result, on stderr.
pub(crate) fn note(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The texts of an error and its causes, joined; a cause whose text was already said is left out.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}

/// How a column of a table is set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows of cells under a head, as aligned text; a row may be shorter than the head.
pub(crate) fn table(head: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let width = |c: usize| {
        let cells = rows.iter().filter_map(|row| row.get(c)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(head[c].0.chars().count())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let names: Vec<String> = head.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut text = String::new();
    // A table without names has no head.
    let shown = (!names.iter().all(String::is_empty)).then_some(&names);
    for row in shown.into_iter().chain(rows) {
        let mut line = String::new();
        for ((cell, &width), (_, align)) in row.iter().zip(&widths).zip(head) {
            let _ = match align {
                Align::Left => write!(line, "{cell:<width$}  "),
                Align::Right => write!(line, "{cell:>width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people: `4.49 GB` (powers of ten, as file sizes are given).
pub(crate) fn bytes(n: u64) -> String {
    bench::units::bytes(n as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_scaled() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(2_246_272_880), "2,246,272,880");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(999_999), "1.00 MB");
        assert_eq!(bytes(4_492_545_760), "4.49 GB");
        assert_eq!(flops(665_000_000_000), "665 GFLOP");
    }

    #[test]
    fn a_cause_is_said_once() {
        let inner = io::Error::other("no space");
        let error = anyhow::Error::new(inner).context("out.jsonl: no space").context("cannot go on");
        assert_eq!(chain(&error), "cannot go on: out.jsonl: no space");
    }

    #[test]
    fn tables_line_up() {
        let rows = vec![vec!["a".into(), "10".into()], vec!["long".into(), "9".into()]];
        let text = table(&[("name", Align::Left), ("n", Align::Right)], &rows);
        assert_eq!(text, "name   n\na     10\nlong   9\n");
    }
}
