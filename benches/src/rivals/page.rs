//! The page: bars of every figure, ours and the rivals', and the table.

use std::fmt::Write as _;

use eval::html::{escape, page as html_page};
use eval::plot::{Bar, BarPlot};

use super::line::more_is_better;
use super::report::{HEADS, Report, Row, digits};
use crate::stats::median;

/// A self-contained page.
pub fn page(report: &Report) -> String {
    let mut fragments = vec![format!(
        "<p>{}. A bar is the median of the turns, the line from the least to the greatest repeat; a ratio is taken \
             within a turn, above 1 roentgen is ahead.</p>",
        escape(&format!("{}, {} threads", report.machine.cpu, report.machine.threads))
    )];
    fragments.extend(report.groups().iter().map(|group| bars(group)));
    fragments.push(table(report));
    fragments.extend(report.notes().iter().map(|note| format!("<p class=\"note\">{}</p>", escape(note))));
    html_page("roentgen beside others", &fragments)
}

/// One figure of all systems.
fn bars(group: &[&Row]) -> String {
    let first = group[0];
    let (scale, unit) = if first.unit == "B" { (1e9, "GB") } else { (1.0, first.unit.as_str()) };
    let better = if more_is_better(&first.unit) { "more is better" } else { "less is better" };
    let bar = |label: String, value: f64, range: (f64, f64), note: &str, group: usize| Bar {
        label,
        value: value / scale,
        range: Some((range.0 / scale, range.1 / scale)),
        text: format!("{}{note}", digits(value / scale)),
        group,
    };
    let turns: Vec<f64> = group.iter().flat_map(|row| row.ours.turns.iter().copied()).collect();
    let least = group.iter().map(|row| row.ours.min).fold(f64::INFINITY, f64::min);
    let most = group.iter().map(|row| row.ours.max).fold(f64::NEG_INFINITY, f64::max);
    let ours = bar(format!("roentgen ({})", first.ours.weights), median(&turns), (least, most), "", 0);
    let theirs = group.iter().map(|row| {
        let side = &row.theirs;
        let label = format!("{} ({})", side.system, side.weights);
        bar(label, side.median(), (side.min, side.max), &format!(" · {:.2}×", row.comparison.speedup), 6)
    });
    let title = format!("{}: {} ({unit}, {better})", first.suite.title(&first.model), first.figure);
    BarPlot { title, bars: std::iter::once(ours).chain(theirs).collect() }.to_svg()
}

fn table(report: &Report) -> String {
    let mut html = String::from("<div class=\"wide\"><table><tr><th>model</th>");
    for head in HEADS {
        let _ = write!(html, "<th>{head}</th>");
    }
    html.push_str("</tr>\n");
    for row in report.table().1 {
        html.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let class = if matches!(i, 3 | 5 | 6) { " class=\"n\"" } else { "" };
            let _ = write!(html, "<td{class}>{}</td>", escape(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>");
    html
}

#[cfg(test)]
mod tests {
    use super::super::registry::Suite;
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_page_has_a_bar_for_each_system_and_escapes_what_rivals_say() {
        let mut report = report();
        report.rows[0].theirs.weights = "<b>&".into();
        let html = page(&report);
        assert_eq!(html.matches("<svg").count(), report.groups().len());
        assert_eq!(html.matches("bar c0").count(), report.groups().len());
        assert_eq!(html.matches("bar c6").count(), report.rows.len());
        assert!(!html.contains("<b>") && html.contains("&lt;b&gt;&amp;"));
        assert!(!html.contains("NaN") && !html.contains("inf"));
        assert!(html.contains("less is better") && html.contains(Suite::TextBf16.title("m").as_str()));
        assert!(
            !html.contains("http://")
                || html.matches("http").count() == html.matches("http://www.w3.org").count()
        );
    }
}
