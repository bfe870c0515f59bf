//! A run as text.

use std::fmt::Write as _;

use super::Details;
use crate::machine::Bound;
use crate::record::{Row, Run};

/// What a row of `bench op` says.
pub fn details(row: &Row) -> Option<Details> {
    serde_json::from_value(serde_json::Value::Object(row.details.clone())).ok()
}

/// Seconds for people: `1.23 ms`.
pub(crate) fn seconds(s: f64) -> String {
    let (x, unit) = match s {
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{x:.*} {unit}", digits(x))
}

/// Decimals that leave three significant digits.
fn digits(x: f64) -> usize {
    match x.abs() {
        99.95.. => 0,
        9.995.. => 1,
        _ => 2,
    }
}

fn three(x: f64) -> String {
    format!("{x:.*}", digits(x))
}

/// Head and cells of the table, in the order of [`text`] and of the page.
pub(super) const HEAD: [&str; 11] = [
    "operation",
    "inputs",
    "variant",
    "count",
    "median",
    "min–max",
    "GFLOP/s",
    "GB/s",
    "FLOP/B",
    "% of roof",
    "bound",
];

/// Columns that hold words.
pub(super) const WORDS: [usize; 4] = [0, 1, 2, 10];

/// The cells of a row; a failed one has its reason in place of figures.
pub(super) fn cells(d: &Details) -> Vec<String> {
    let mut cells = vec![d.op.clone(), d.shapes.clone(), d.variant.clone(), d.count.to_string()];
    let rate = |x: Option<f64>| x.map_or_else(String::new, |x| three(x / 1e9));
    if let Some(time) = d.time {
        cells.extend([
            seconds(time.median),
            format!("{}–{}", seconds(time.min), seconds(time.max)),
            if d.flops == 0 { "–".into() } else { rate(d.flops_per_second()) },
            rate(d.bytes_per_second()),
            three(d.intensity),
            d.percent.map_or_else(String::new, three),
            match d.bound {
                _ if d.percent.is_none() => "",
                Bound::Compute => "compute",
                Bound::Memory => "memory",
                Bound::Latency => "latency",
            }
            .into(),
        ]);
    } else {
        cells.push("WRONG".into());
        cells.push(d.failure.clone().unwrap_or_default());
    }
    cells
}

/// The rows of a run with what they say, by what the whole model spends on them, longest first.
pub(super) fn sorted(run: &Run) -> Vec<(&Row, Details)> {
    let mut rows: Vec<_> = run.rows.iter().filter_map(|row| Some((row, details(row)?))).collect();
    let weight = |d: &Details| d.time.map_or(f64::INFINITY, |t| t.median * d.count as f64);
    rows.sort_by(|a, b| weight(&b.1).total_cmp(&weight(&a.1)));
    // Paths of one case stand together, under the place of its slowest.
    let mut order: Vec<(String, String)> = Vec::new();
    for (_, d) in &rows {
        let case = (d.op.clone(), format!("{} {}", d.shapes, d.parameters));
        if !order.contains(&case) {
            order.push(case);
        }
    }
    let place = |d: &Details| {
        let case = (d.op.clone(), format!("{} {}", d.shapes, d.parameters));
        order.iter().position(|c| *c == case)
    };
    rows.sort_by_key(|(_, d)| place(d));
    rows
}

/// Table, ceilings and notes.
pub fn text(run: &Run) -> String {
    let rows = sorted(run);
    let mut lines: Vec<Vec<String>> = vec![HEAD.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|(_, d)| cells(d)));
    // A failure's reason is as long as it is; it takes no part in the widths.
    let whole = |line: &&Vec<String>| line.len() == HEAD.len();
    let width = |c: usize| {
        let cells = lines.iter().filter(whole).map(|line| line[c].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut out = String::new();
        for (c, cell) in line.iter().enumerate() {
            let width = widths[c];
            let _ = if WORDS.contains(&c) || line.len() < HEAD.len() {
                write!(out, "{cell:<width$}  ")
            } else {
                write!(out, "{cell:>width$}  ")
            };
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    let ceilings = run.machine.ceilings();
    let checked: usize = rows.iter().map(|(_, d)| d.checked).sum();
    let wrong = rows.iter().filter(|(_, d)| d.failure.is_some()).count();
    let _ = write!(
        text,
        "\nroof: f32 {} GFLOP/s, bf16 {} GFLOP/s, reading memory {} GB/s; {checked} elements agree with the f64 oracle",
        three(ceilings.flops(engine::DType::F32) / 1e9),
        three(ceilings.flops(engine::DType::BF16) / 1e9),
        three(ceilings.memory() / 1e9),
    );
    let _ = if wrong == 0 { writeln!(text, ".") } else { writeln!(text, ", {wrong} cases do not.") };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        assert_eq!(seconds(1.234e-6), "1.23 µs");
        assert_eq!(seconds(12.34e-3), "12.3 ms");
        assert_eq!(seconds(0.9999e-3), "1000 µs");
        assert_eq!(seconds(123.4), "123 s");
    }
}
