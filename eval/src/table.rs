//! A result table: metrics down, systems across (base, tuned, a paper's numbers), as text, Markdown, JSON or HTML.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::bootstrap::{Bootstrap, Interval, Measure};
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
    intervals: Vec<Option<Interval>>,
    /// Values of others, from other data: shown beside, never marked as best.
    cited: bool,
}

/// How the change between two systems is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Change {
    Difference,
    Relative,
}

/// The table. A cell may be empty: not every system has every metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultTable {
    title: String,
    notes: Vec<String>,
    metrics: Vec<Metric>,
    systems: Vec<System>,
    /// Columns whose change (from first to second) is shown.
    change: Option<(usize, usize, Change)>,
    /// p-value of that change, a metric each; empty if none were computed.
    p_values: Vec<Option<f64>>,
}

impl ResultTable {
    /// An empty table.
    pub fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            notes: vec![],
            metrics: vec![],
            systems: vec![],
            change: None,
            p_values: vec![],
        }
    }

    /// A line under the table, e.g. the number of cases and how they were decoded.
    pub fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// Puts scores into a system's column; systems and metrics that are new are appended. A metric is known by its
    /// name *and* implementation, so that scores of two implementations never share a row. A value that is not
    /// finite leaves the cell empty.
    pub fn add(&mut self, system: &str, scores: &[(Metric, f64)]) {
        let column = self.column(system, false);
        for (metric, value) in scores {
            let row = self.metric_row(metric);
            self.systems[column].values[row] = value.is_finite().then_some(*value);
        }
    }

    /// As [`Self::add`], with a confidence interval beside each value.
    pub fn add_measures(&mut self, system: &str, measures: &[Measure], bootstrap: &Bootstrap) {
        let column = self.column(system, false);
        for measure in measures {
            let row = self.metric_row(&measure.metric);
            let value = measure.value();
            self.systems[column].values[row] = value.is_finite().then_some(value);
            self.systems[column].intervals[row] = bootstrap.interval(&measure.samples);
        }
    }

    /// Two systems on the same pairs: values with intervals, the relative change, and its p-value.
    pub fn compare(&mut self, from: (&str, &[Measure]), to: (&str, &[Measure]), bootstrap: &Bootstrap) {
        for (system, measures) in [from, to] {
            self.add_measures(system, measures, bootstrap);
        }
        self.change = Some((self.column(from.0, false), self.column(to.0, false), Change::Relative));
        let other = |m: &Measure| to.1.iter().find(|t| t.metric == m.metric);
        for measure in from.1 {
            let row = self.metric_row(&measure.metric);
            self.p_values.resize(self.metrics.len(), None);
            self.p_values[row] = other(measure).and_then(|t| bootstrap.p_value(&measure.samples, &t.samples));
        }
    }

    /// Values that somebody else published, by the names of metrics; how they were computed is not known, so each
    /// stands in the first row of its name.
    pub fn cite(&mut self, system: &str, values: &[(&str, f64)]) {
        let column = self.column(system, true);
        for &(name, value) in values {
            let row = self.metrics.iter().position(|m| m.name == name);
            let row = row.unwrap_or_else(|| self.metric_row(&Metric::new(name, "not stated")));
            self.systems[column].values[row] = value.is_finite().then_some(value);
        }
    }

    /// The column of a system, a new one if it has none.
    fn column(&mut self, name: &str, cited: bool) -> usize {
        self.systems.iter().position(|s| s.name == name).unwrap_or_else(|| {
            let n = self.metrics.len();
            let name = name.to_owned();
            self.systems.push(System { name, values: vec![None; n], intervals: vec![None; n], cited });
            self.systems.len() - 1
        })
    }

    /// The row of a metric, a new one if it has none.
    fn metric_row(&mut self, metric: &Metric) -> usize {
        let same = |m: &Metric| m.name == metric.name && m.implementation == metric.implementation;
        self.metrics.iter().position(same).unwrap_or_else(|| {
            self.metrics.push(metric.clone());
            for s in &mut self.systems {
                s.values.push(None);
                s.intervals.push(None);
            }
            self.metrics.len() - 1
        })
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
        self.change = Some((find(from)?, find(to)?, Change::Difference));
        Ok(())
    }

    /// Says under the table how its intervals and p-values were made.
    pub fn note_bootstrap(&mut self, bootstrap: &Bootstrap, pairs: usize) {
        if bootstrap.resamples == 0 {
            return;
        }
        let test = if self.p_values.is_empty() { "" } else { "; p: paired, two-sided" };
        self.note(&format!(
            "[{} % intervals]: bootstrap percentiles, {} resamples of the {pairs} pairs, seed {}{test}",
            100.0 * bootstrap.level,
            bootstrap.resamples,
            bootstrap.seed
        ));
    }

    /// A system's value of a metric, unrounded.
    pub fn value(&self, system: &str, metric: &str) -> Option<f64> {
        let row = self.metrics.iter().position(|m| m.name == metric)?;
        self.systems.iter().find(|s| s.name == system)?.values[row]
    }

    /// Systems in the order of their columns: own ones, then (after the change) those that are cited.
    fn order(&self) -> (Vec<usize>, Vec<usize>) {
        (0..self.systems.len()).partition(|&s| !self.systems[s].cited)
    }

    fn header(&self) -> Vec<String> {
        let (own, cited) = self.order();
        let names = |systems: Vec<usize>| systems.into_iter().map(|s| self.systems[s].name.clone());
        let mut cells = vec!["Metric".to_owned()];
        cells.extend(names(own));
        cells.extend(self.change.map(|_| "Change".to_owned()));
        cells.extend((!self.p_values.is_empty()).then(|| "p".to_owned()));
        cells.extend(names(cited));
        cells.push("Implementation".to_owned());
        cells
    }

    /// The cells of a row, numbers rounded.
    fn row(&self, row: usize) -> Vec<String> {
        let metric = &self.metrics[row];
        let digits = metric.decimals;
        let none = || "–".to_owned();
        let value = |s: usize| match (self.systems[s].values[row], self.systems[s].intervals[row]) {
            (Some(v), Some(Interval { low, high })) => {
                // Its ends are not known to five digits.
                let few = digits.min(3);
                format!("{v:.digits$} [{low:.few$}, {high:.few$}]")
            }
            (Some(v), None) => format!("{v:.digits$}"),
            (None, _) => none(),
        };
        let (own, cited) = self.order();
        let mut cells = vec![metric.name.clone()];
        cells.extend(own.into_iter().map(value));
        if let Some((from, to, change)) = self.change {
            // Of the rounded numbers, so that the row adds up for its reader.
            let round = |s: usize| -> Option<f64> {
                self.systems[s].values[row].and_then(|v| format!("{v:.digits$}").parse().ok())
            };
            cells.push(match (round(from), round(to), change) {
                (Some(a), Some(b), Change::Difference) => format!("{:+.digits$}", b - a),
                (Some(a), Some(b), Change::Relative) if a != 0.0 => {
                    format!("{:+.1} %", 100.0 * (b - a) / a.abs())
                }
                _ => none(),
            });
        }
        if !self.p_values.is_empty() {
            let p = self.p_values.get(row).copied().flatten();
            cells.push(p.map_or_else(none, |p| format!("{p:.3}")));
        }
        cells.extend(cited.into_iter().map(value));
        cells.push(metric.implementation.clone());
        cells
    }

    /// Columns, from 0, with the best value of a row; none if fewer than two own systems have one.
    fn best(&self, row: usize) -> Vec<usize> {
        let metric = &self.metrics[row];
        let shown: Vec<(usize, f64)> = (self.systems.iter().filter(|s| !s.cited).enumerate())
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

    /// Unrounded: `{"title", "notes", "metrics": [{"name", "implementation", …, "values": {system: number|null}}]}`;
    /// where they were computed, a metric also has `"intervals": {system: [low, high]}` and `"p_value"`.
    pub fn to_json(&self) -> serde_json::Value {
        let metrics: Vec<serde_json::Value> = (self.metrics.iter().enumerate())
            .map(|(r, m)| {
                let values: serde_json::Map<_, _> =
                    self.systems.iter().map(|s| (s.name.clone(), s.values[r].into())).collect();
                let mut row = serde_json::json!({
                    "name": m.name,
                    "implementation": m.implementation,
                    "decimals": m.decimals,
                    "higher_is_better": m.higher_is_better,
                    "values": values,
                });
                let intervals: serde_json::Map<_, _> = (self.systems.iter())
                    .filter_map(|s| s.intervals[r].map(|i| (s.name.clone(), [i.low, i.high].to_vec().into())))
                    .collect();
                if !intervals.is_empty() {
                    row["intervals"] = intervals.into();
                }
                if let Some(p) = self.p_values.get(r).copied().flatten() {
                    row["p_value"] = p.into();
                }
                row
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
    use crate::bootstrap::Samples;

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
    #[test]
    fn a_comparison_has_intervals_relative_change_and_p() {
        let measure = |values: &[f64]| {
            [Measure::new(Metric::new("ROUGE-1", "rouge-score"), Samples::Mean(values.to_vec()))]
        };
        let (base, tuned) = (measure(&[0.1, 0.2, 0.3, 0.2]), measure(&[0.5, 0.6, 0.7, 0.6]));
        let bootstrap = Bootstrap::default();
        let mut table = ResultTable::new("Table III");
        table.compare(("base", &base), ("tuned", &tuned), &bootstrap);
        table.cite("paper, tuned", &[("ROUGE-1", 0.9), ("CIDEr", 1.0)]);
        table.note_bootstrap(&bootstrap, 4);
        let text = table.to_text();
        assert!(text.contains("0.20000 [0.125, 0.275]"), "{text}");
        // A difference that is the same in every pair never comes out otherwise.
        assert!(text.contains("+200.0 %  0.001       0.90000  rouge-score"), "{text}");
        assert!(
            text.contains("[95 % intervals]: bootstrap percentiles, 1000 resamples of the 4 pairs"),
            "{text}"
        );
        let json = table.to_json();
        assert_eq!(json["metrics"][0]["values"]["paper, tuned"], 0.9);
        assert_eq!(json["metrics"][0]["intervals"]["base"].as_array().unwrap().len(), 2);
        assert!((json["metrics"][0]["p_value"].as_f64().unwrap() - 1.0 / 1001.0).abs() < 1e-12);
        assert!(json["metrics"][1].get("p_value").is_none());
        // A number from elsewhere is never the best.
        assert!(table.to_html().contains("<td class=\"n best\">0.60000 ["), "{}", table.to_html());
    }
}
