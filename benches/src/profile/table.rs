//! The tables of a profile, as text and as HTML.

use std::fmt::Write as _;

use eval::html::escape;

use super::{Profile, Row, tree};
use crate::units::{bytes, flops, grouped, share, short, time};

/// A table. The first column is text, the others are numbers.
pub(super) struct Table {
    pub(super) title: String,
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Line>,
}

/// A row of one.
pub(super) struct Line {
    cells: Vec<String>,
    /// How far the first cell is in.
    indent: usize,
    /// Part of the whole time, drawn as a bar on the page.
    part: f64,
    /// Shown on pointing at the row.
    hint: String,
}

impl Table {
    /// Columns that line up.
    pub(super) fn to_text(&self) -> String {
        let width = |c: usize| {
            let cells = self
                .rows
                .iter()
                .map(|row| row.cells[c].chars().count() + if c == 0 { 2 * row.indent } else { 0 });
            cells.max().unwrap_or(0).max(self.head[c].chars().count())
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut text = format!("{}\n", self.title);
        let mut line = |indent: usize, cells: &[&str]| {
            let name = format!("{:1$}{2}", "", 2 * indent, cells[0]);
            let mut line = format!("  {name:<0$}", widths[0]);
            for (cell, width) in cells.iter().zip(&widths).skip(1) {
                let _ = write!(line, "  {cell:>width$}");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        };
        line(0, &self.head);
        for row in &self.rows {
            line(row.indent, &row.cells.iter().map(String::as_str).collect::<Vec<_>>());
        }
        text
    }

    /// With a bar behind the first column.
    pub(super) fn to_html(&self) -> String {
        let mut html = format!(
            "<div class=\"wide\"><table class=\"profile\">\n<caption>{}</caption>\n<thead><tr>",
            escape(&self.title)
        );
        for (i, name) in self.head.iter().enumerate() {
            let class = if i == 0 { "" } else { " class=\"n\"" };
            let _ = write!(html, "<th{class}>{}</th>", escape(name));
        }
        html.push_str("</tr></thead>\n<tbody>\n");
        for row in &self.rows {
            let hint =
                if row.hint.is_empty() { String::new() } else { format!(" title=\"{}\"", escape(&row.hint)) };
            let _ = write!(
                html,
                "<tr{hint}><td style=\"--part:{:.2}%;--in:{}\">{}</td>",
                100.0 * row.part.clamp(0.0, 1.0),
                row.indent,
                escape(&row.cells[0])
            );
            for cell in &row.cells[1..] {
                let _ = write!(html, "<td class=\"n\">{}</td>", escape(cell));
            }
            html.push_str("</tr>\n");
        }
        html.push_str("</tbody></table></div>\n");
        html
    }
}

const WORK: [&str; 8] = ["calls", "time", "share", "FLOP", "bytes", "GFLOP/s", "GB/s", "roofline"];

/// Where there is nothing to count.
const NONE: &str = "–";

fn rate(x: f64) -> String {
    if x == 0.0 { NONE.into() } else { short(x) }
}

/// Cells of [`WORK`].
fn work(profile: &Profile, row: &Row) -> Vec<String> {
    let sum = &row.sum;
    let mut cells = vec![
        grouped(sum.calls),
        time(sum.ns),
        share(sum.ns, profile.wall_ns),
        if sum.flops == 0 { NONE.into() } else { flops(sum.flops) },
        bytes(sum.bytes as f64),
        rate(sum.gflops()),
        rate(sum.gbytes()),
    ];
    if profile.has_ceilings {
        cells.push(sum.percent().map_or(NONE.into(), |percent| format!("{} %", short(percent))));
    }
    cells
}

fn head(profile: &Profile, first: &'static str) -> Vec<&'static str> {
    let work = if profile.has_ceilings { &WORK[..] } else { &WORK[..7] };
    [&[first], work].concat()
}

impl Profile {
    fn part(&self, ns: u64) -> f64 {
        ns as f64 / self.wall_ns.max(1) as f64
    }

    pub(super) fn phase_table(&self) -> Table {
        let line = |phase: &super::Phase| {
            let name = phase.path.rsplit('/').next().unwrap_or_default();
            let cells = vec![
                if name.is_empty() { "(in no phase)".into() } else { name.to_owned() },
                if name.is_empty() { String::new() } else { grouped(phase.calls) },
                time(phase.ns),
                share(phase.ns, self.wall_ns),
                time(phase.kernels.ns),
                time(phase.gap_ns()),
                share(phase.gap_ns(), phase.ns),
                rate(phase.kernels.gflops()),
                rate(phase.kernels.gbytes()),
            ];
            let indent = phase.path.matches('/').count();
            Line { cells, indent, part: self.part(phase.ns), hint: phase.path.clone() }
        };
        Table {
            title: "By phase".into(),
            head: vec!["phase", "times", "time", "share", "kernels", "no kernel", "of it", "GFLOP/s", "GB/s"],
            rows: self.phases.iter().filter(|p| !p.path.is_empty() || p.ns > 0).map(line).collect(),
        }
    }

    pub(super) fn operation_table(&self) -> Table {
        let line = |row: &Row| {
            let own = row.clock.contains(',');
            let name = if own { format!("{} ({})", row.name, row.clock) } else { row.name.clone() };
            Line {
                cells: [vec![name], work(self, row)].concat(),
                indent: 0,
                part: self.part(row.sum.ns),
                hint: row.clock.clone(),
            }
        };
        Table {
            title: "By operation".into(),
            head: head(self, "operation"),
            rows: self.operations.iter().map(line).collect(),
        }
    }

    /// The first `most` kernels by operation and shapes.
    pub(super) fn kernel_table(&self, most: usize) -> Table {
        let line = |row: &Row| Line {
            cells: [vec![format!("{} {}", row.name, brief(&row.shapes))], work(self, row)].concat(),
            indent: 0,
            part: self.part(row.sum.ns),
            hint: format!("{} {}", row.name, row.shapes),
        };
        let shown = self.kernels.len().min(most);
        let title = format!("By operation and shapes (the first {shown} of {})", self.kernels.len());
        Table { title, head: head(self, "kernel"), rows: self.kernels[..shown].iter().map(line).collect() }
    }

    /// Modules; `whole`: each layer by itself.
    pub(super) fn module_table(&self, whole: bool) -> Table {
        let rows = if whole { &self.modules } else { &self.folded };
        let line = |row: &Row| Line {
            cells: [vec![tree::last(&row.name).to_owned()], work(self, row)].concat(),
            indent: tree::prefixes(&row.name).count() - 1,
            part: self.part(row.sum.ns),
            hint: row.name.clone(),
        };
        let title = if whole { "By module" } else { "By module, layers added up" };
        Table { title: title.into(), head: head(self, "module"), rows: rows.iter().map(line).collect() }
    }
}

/// Shapes of many inputs, cut in the middle.
fn brief(shapes: &str) -> String {
    const LONGEST: usize = 72;
    if shapes.chars().count() <= LONGEST {
        return shapes.to_owned();
    }
    let (inputs, outputs) = shapes.split_once(" -> ").unwrap_or((shapes, ""));
    let first: Vec<&str> = inputs.split(' ').take(2).collect();
    format!("{} … -> {outputs}", first.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_html_is_escaped() {
        let line = |name: &str, cell: &str, indent| Line {
            cells: vec![name.into(), cell.into()],
            indent,
            part: 0.5,
            hint: "<x>".into(),
        };
        let rows = vec![line("a", "1", 0), line("b<", "23", 1)];
        let table = Table { title: "T".into(), head: vec!["name", "n"], rows };
        assert_eq!(table.to_text(), "T\n  name   n\n  a      1\n    b<  23\n");
        let html = table.to_html();
        assert!(
            html.contains("b&lt;") && html.contains("title=\"&lt;x&gt;\"") && html.contains("--part:50.00%")
        );
    }

    #[test]
    fn long_shapes_are_cut() {
        assert_eq!(brief("f32[1] -> f32[1]"), "f32[1] -> f32[1]");
        let long = format!("bf16[4,4] {}-> bf16[4,8]", "u8[1000000] ".repeat(8));
        assert_eq!(brief(&long), "bf16[4,4] u8[1000000] … -> bf16[4,8]");
    }
}
