//! A result table: metrics down, systems across (base, tuned, a paper's numbers), as text, Markdown, JSON or HTML.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::html::{escape, page};

/// One row: what is measured, by which implementation, printed how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metric {
    /// Name of the metric; unique in a table.
    pub name: String,
    /// The implementation it reproduces. Libraries disagree, so this is always printed.
    pub implementation: String,
    /// Digits after the point.
    pub decimals: usize,
    /// Whether more is better; the best system is marked by it.
    pub higher_is_better: bool,
}

impl Metric {
    /// A metric on 0..1 where more is better, printed with five decimals.
    pub fn new(name: &str, implementation: &str) -> Self {
        Self {
            name: name.to_owned(),
            implementation: implementation.to_owned(),
            decimals: 5,
            higher_is_better: true,
        }
    }

    /// Other digits after the point.
    #[must_use]
    pub fn decimals(self, decimals: usize) -> Self {
        Self { decimals, ..self }
    }

    /// Less is better, as for a loss.
    #[must_use]
    pub fn lower_is_better(self) -> Self {
        Self { higher_is_better: false, ..self }
    }
}

/// One column of values, in the order of the table's metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct System {
    name: String,
    values: Vec<Option<f64>>,
}

/// The table. A cell may be empty: not every system has every metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultTable {
    title: String,
    notes: Vec<String>,
    metrics: Vec<Metric>,
    systems: Vec<System>,
    /// Columns whose difference (second minus first) is shown.
    change: Option<(usize, usize)>,
}

impl ResultTable {
    /// An empty table.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), notes: vec![], metrics: vec![], systems: vec![], change: None }
    }

    /// A line under the table, e.g. the number of cases and how they were decoded.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// Puts scores into a system's column; systems and metrics that are new are appended. A metric is known by its
    /// name *and* implementation, so that scores of two implementations never share a row. A value that is not
    /// finite leaves the cell empty.
    pub fn add(&mut self, system: &str, scores: &[(Metric, f64)]) {
        let column = self.systems.iter().position(|s| s.name == system).unwrap_or_else(|| {
            self.systems.push(System { name: system.to_owned(), values: vec![None; self.metrics.len()] });
            self.systems.len() - 1
        });
        for (metric, value) in scores {
            let same = |m: &Metric| m.name == metric.name && m.implementation == metric.implementation;
            let row = self.metrics.iter().position(same).unwrap_or_else(|| {
                self.metrics.push(metric.clone());
                for s in &mut self.systems {
                    s.values.push(None);
                }
                self.metrics.len() - 1
            });
            self.systems[column].values[row] = value.is_finite().then_some(*value);
        }
    }

    /// Shows the change between two systems, `to` minus `from`.
    ///
    /// # Errors
    /// [`Error::Unknown`] if the table has no such system.
    pub fn show_change(&mut self, from: &str, to: &str) -> Result<(), Error> {
        let find = |name: &str| {
            self.systems.iter().position(|s| s.name == name).ok_or_else(|| Error::Unknown {
                kind: "system",
                name: name.to_owned(),
                known: self.systems.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
            })
        };
        self.change = Some((find(from)?, find(to)?));
        Ok(())
    }

    /// A system's value of a metric, unrounded.
    pub fn value(&self, system: &str, metric: &str) -> Option<f64> {
        let row = self.metrics.iter().position(|m| m.name == metric)?;
        self.systems.iter().find(|s| s.name == system)?.values[row]
    }

    fn header(&self) -> Vec<String> {
        let mut cells = vec!["Metric".to_owned()];
        cells.extend(self.systems.iter().map(|s| s.name.clone()));
        cells.extend(self.change.map(|_| "Change".to_owned()));
        cells.push("Implementation".to_owned());
        cells
    }

    /// The cells of a row, numbers rounded.
    fn row(&self, row: usize) -> Vec<String> {
        let metric = &self.metrics[row];
        let digits = metric.decimals;
        let mut cells = vec![metric.name.clone()];
        cells.extend(self.systems.iter().map(|s| match s.values[row] {
            Some(v) => format!("{v:.digits$}"),
            None => "–".to_owned(),
        }));
        if let Some((from, to)) = self.change {
            // Of the rounded numbers, so that the row adds up for its reader.
            let round =
                |s: usize| self.systems[s].values[row].and_then(|v| format!("{v:.digits$}").parse().ok());
            cells.push(match (round(from), round(to)) {
                (Some(a), Some(b)) => {
                    let (a, b): (f64, f64) = (a, b);
                    format!("{:+.digits$}", b - a)
                }
                _ => "–".to_owned(),
            });
        }
        cells.push(metric.implementation.clone());
        cells
    }

    /// Columns with the best value of a row; none if fewer than two systems have one.
    fn best(&self, row: usize) -> Vec<usize> {
        let metric = &self.metrics[row];
        let shown: Vec<(usize, f64)> = (self.systems.iter().enumerate())
            .filter_map(|(i, s)| {
                let v = s.values[row]?;
                // Compared as printed: equal digits are equally good.
                Some((i, format!("{v:.*}", metric.decimals).parse().ok()?))
            })
            .collect();
        if shown.len() < 2 {
            return vec![];
        }
        let better = |a: f64, b: f64| if metric.higher_is_better { a.max(b) } else { a.min(b) };
        let best = shown.iter().map(|&(_, v)| v).reduce(better);
        shown.iter().filter(|&&(_, v)| Some(v) == best).map(|&(i, _)| i).collect()
    }

    fn is_number(&self, column: usize) -> bool {
        column > 0 && column + 1 < self.header().len()
    }

    /// Columns aligned by spaces, for a terminal.
    pub fn to_text(&self) -> String {
        let mut rows = vec![self.header()];
        rows.extend((0..self.metrics.len()).map(|r| self.row(r)));
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0))
            .collect();
        let mut out = format!("{}\n", self.title);
        for (i, row) in rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(c, cell)| {
                    if self.is_number(c) {
                        format!("{cell:>0$}", widths[c])
                    } else {
                        format!("{cell:<0$}", widths[c])
                    }
                })
                .collect();
            let _ = writeln!(out, "{}", cells.join("  ").trim_end());
            if i == 0 {
                let rule: Vec<String> = widths.iter().map(|w| "─".repeat(*w)).collect();
                let _ = writeln!(out, "{}", rule.join("  "));
            }
        }
        for note in &self.notes {
            let _ = writeln!(out, "{note}");
        }
        out
    }

    /// A GitHub Markdown table, best values in bold.
    pub fn to_markdown(&self) -> String {
        let cell = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace('\n', " ");
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let header: Vec<String> = self.header().iter().map(|h| cell(h)).collect();
        let rule: Vec<String> =
            (0..header.len()).map(|c| if self.is_number(c) { "---:" } else { "---" }.to_owned()).collect();
        let mut out = format!("**{}**\n\n{}{}", self.title.replace('\n', " "), line(&header), line(&rule));
        for r in 0..self.metrics.len() {
            let mut cells: Vec<String> = self.row(r).iter().map(|c| cell(c)).collect();
            for column in self.best(r) {
                cells[column + 1] = format!("**{}**", cells[column + 1]);
            }
            out.push_str(&line(&cells));
        }
        for note in &self.notes {
            let _ = write!(out, "\n{}\n", note.replace('\n', " "));
        }
        out
    }

    /// Unrounded values: `{"title", "notes", "metrics": [{"name", "implementation", …, "values": {system: number|null}}]}`.
    pub fn to_json(&self) -> serde_json::Value {
        let metrics: Vec<serde_json::Value> = (self.metrics.iter().enumerate())
            .map(|(r, m)| {
                let values: serde_json::Map<_, _> =
                    self.systems.iter().map(|s| (s.name.clone(), s.values[r].into())).collect();
                serde_json::json!({
                    "name": m.name,
                    "implementation": m.implementation,
                    "decimals": m.decimals,
                    "higher_is_better": m.higher_is_better,
                    "values": values,
                })
            })
            .collect();
        serde_json::json!({ "title": self.title, "notes": self.notes, "metrics": metrics })
    }

    /// A `<table>` with its notes, to be put into [`page`].
    pub fn to_html_fragment(&self) -> String {
        let class = |c: usize, best: bool| match (self.is_number(c), best) {
            (true, true) => " class=\"n best\"",
            (true, false) => " class=\"n\"",
            _ if c > 0 => " class=\"by\"",
            _ => "",
        };
        let mut out =
            format!("<div class=\"wide\"><table>\n<caption>{}</caption>\n<thead><tr>", escape(&self.title));
        for (c, h) in self.header().iter().enumerate() {
            let _ = write!(out, "<th scope=\"col\"{}>{}</th>", class(c, false), escape(h));
        }
        out.push_str("</tr></thead>\n<tbody>\n");
        for r in 0..self.metrics.len() {
            let best = self.best(r);
            out.push_str("<tr>");
            for (c, cell) in self.row(r).iter().enumerate() {
                let tag = if c == 0 { "th scope=\"row\"" } else { "td" };
                let end = if c == 0 { "th" } else { "td" };
                let marked = c > 0 && best.contains(&(c - 1));
                let _ = write!(out, "<{tag}{}>{}</{end}>", class(c, marked), escape(cell));
            }
            out.push_str("</tr>\n");
        }
        out.push_str("</tbody></table></div>\n");
        for note in &self.notes {
            let _ = writeln!(out, "<p class=\"note\">{}</p>", escape(note));
        }
        out
    }

    /// A whole page of this one table.
    pub fn to_html(&self) -> String {
        page(&self.title, &[self.to_html_fragment()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ResultTable {
        let mut table = ResultTable::new("Base against tuned <1>");
        let rouge = Metric::new("ROUGE-1", "rouge-score");
        let loss = Metric::new("Loss", "mean | nats").decimals(2).lower_is_better();
        table.add("base", &[(rouge.clone(), 0.154_92), (loss.clone(), 3.0)]);
        table.add("tuned", &[(rouge, 0.582_344), (loss, 1.234)]);
        table.add("paper", &[(Metric::new("BLEU", "evaluate"), f64::NAN)]);
        table.show_change("base", "tuned").unwrap();
        table.note("140 cases, greedy");
        table
    }

    #[test]
    fn text_is_aligned_and_rounded() {
        assert_eq!(
            sample().to_text(),
            "Base against tuned <1>\n\
             Metric      base    tuned  paper    Change  Implementation\n\
             ───────  ───────  ───────  ─────  ────────  ──────────────\n\
             ROUGE-1  0.15492  0.58234      –  +0.42742  rouge-score\n\
             Loss        3.00     1.23      –     -1.77  mean | nats\n\
             BLEU           –        –      –         –  evaluate\n\
             140 cases, greedy\n"
        );
    }

    #[test]
    fn markdown_marks_the_best_and_escapes_bars() {
        let markdown = sample().to_markdown();
        assert!(markdown.contains("| ROUGE-1 | 0.15492 | **0.58234** | – | +0.42742 | rouge-score |"));
        assert!(markdown.contains("| Loss | 3.00 | **1.23** | – | -1.77 | mean \\| nats |"));
        let bars = |l: &str| l.replace("\\|", "").matches('|').count();
        assert!(markdown.lines().filter(|l| l.starts_with('|')).all(|l| bars(l) == 7));
    }

    #[test]
    fn json_keeps_every_digit_and_html_escapes() {
        let json = sample().to_json();
        assert_eq!(json["metrics"][0]["values"]["tuned"], 0.582_344);
        assert!(json["metrics"][2]["values"]["paper"].is_null());
        let html = sample().to_html();
        assert!(html.contains("Base against tuned &lt;1&gt;") && !html.contains("<1>"));
        assert!(html.contains("<td class=\"n best\">0.58234</td>"));
        assert!(!html.contains("<script") && !html.contains("http"));
    }

    #[test]
    fn one_name_of_two_implementations_is_two_rows() {
        let mut table = sample();
        table.add("tuned", &[(Metric::new("ROUGE-1", "another"), 0.5)]);
        assert_eq!(table.value("tuned", "ROUGE-1"), Some(0.582_344));
        assert_eq!(table.to_json()["metrics"].as_array().unwrap().len(), 4);
        assert!(table.show_change("base", "tunde").unwrap_err().to_string().contains("base, tuned, paper"));
    }
}
