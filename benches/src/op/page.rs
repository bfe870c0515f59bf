//! A run as one HTML page: roofline, table, bars, history.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use engine::DType;
use eval::html::{escape, page as html_page};
use eval::plot::{Bar, BarPlot, LinePlot, Scale, Series};

use super::Details;
use super::report::{HEAD, WORDS, cells, seconds, sorted};
use crate::machine::Ceilings;
use crate::record::{Row, Run};
use crate::stats::Summary;

/// The table is wider than those of scores.
const STYLE: &str = "body{max-width:82rem}.roentgen-plot{width:100%}td,th{padding:.2rem .55rem;font-size:.86rem;\
white-space:nowrap}td.wrap{white-space:normal;min-width:11rem}.by{color:var(--soft);font-size:.85em}";

/// A page that needs nothing else: the roofline with every case a point, the table, where the time of a whole model
/// goes, and, where earlier runs are given, each case's history.
pub fn page(run: &Run, history: &[(String, Run)]) -> String {
    let rows = sorted(run);
    let f = &run.machine.fingerprint;
    let mut about = format!(
        "<style>{STYLE}</style><p class=\"note\">roentgen bench {}<br>{} ({}), {} threads, {}, kernel {}<br>roentgen {}</p>",
        escape(&run.command.join(" ")),
        escape(&f.cpu),
        escape(&f.revision),
        f.threads,
        escape(&f.isa),
        escape(&f.kernel),
        escape(&run.program.version)
    );
    about.push_str(
        "<p class=\"note\">A point is a kernel at its median. No kernel can lie above its ceiling: the flat one of its \
         element type, or the slope of the memory that its inputs come from. Numbers are those of the table. Every \
         figure stands for a result that agreed with the f64 oracle; a wrong one has no figure.</p>",
    );
    let mut fragments = vec![about, roofline(&rows, &run.machine.ceilings()), table(&rows)];
    fragments.extend(shares(&rows));
    fragments.extend(over_time(run, history));
    let what = run.command.get(1).map_or("operations", String::as_str);
    let what = if what == "all" { "all operations" } else { what };
    let model = run.command.iter().skip_while(|w| *w != "--model").nth(1);
    let of = model.map_or_else(String::new, |model| format!(" of {model}"));
    html_page(&format!("Roofline: {what}{of}"), &fragments)
}

/// Ceilings and points over arithmetic intensity, both axes in powers of ten.
fn roofline(rows: &[(&Row, Details)], ceilings: &Ceilings) -> String {
    let points: Vec<(usize, &Details, (f64, f64))> = rows
        .iter()
        .enumerate()
        .filter_map(|(i, (_, d))| Some((i, d, (d.intensity, d.flops_per_second()? / 1e9))))
        .filter(|p| p.2.0 > 0.0)
        .collect();
    let intensities = || points.iter().map(|p| p.2.0);
    let (f32, bf16) = (ceilings.flops(DType::F32), ceilings.flops(DType::BF16));
    // A little to the left of the leftmost point, and to the right of where the last slope ends.
    let low = intensities().fold(0.5, f64::min) / 2.0;
    let high = intensities().fold(bf16 / ceilings.memory(), f64::max) * 3.0;
    let roof = |flops: f64, bandwidth: f64| {
        vec![(low, low * bandwidth / 1e9), (flops / bandwidth, flops / 1e9), (high, flops / 1e9)]
    };
    let giga = |x: f64| format!("{:.0}", x / 1e9);
    let mut plot = LinePlot::new("Roofline", "operations per byte", "GFLOP/s")
        .x_scale(Scale::Log)
        .y_scale(Scale::Log)
        .series(Series::new(
            &format!("bf16 {} GFLOP/s, memory {} GB/s", giga(bf16), giga(ceilings.memory())),
            roof(bf16, ceilings.memory()),
        ))
        .series(Series::new(&format!("f32 {} GFLOP/s", giga(f32)), roof(f32, ceilings.memory())));
    // Caches: the slopes of sets that lie in them.
    for (name, bytes) in [("1 MiB set", 1 << 20), ("64 KiB set", 1 << 16)] {
        let bandwidth = ceilings.bandwidth(bytes, 0.0);
        if bandwidth > ceilings.memory() {
            let slope = vec![(low, low * bandwidth / 1e9), (bf16 / bandwidth, bf16 / 1e9)];
            plot = plot.series(Series::dashed(&format!("{name} {} GB/s", giga(bandwidth)), slope));
        }
    }
    let mut by_variant: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for point in &points {
        by_variant.entry(&point.1.variant).or_default().push(point);
    }
    for (variant, points) in by_variant {
        let labels = points.iter().map(|(i, d, _)| {
            let time = d.time.map_or_else(String::new, |t| seconds(t.median));
            let percent = d.percent.unwrap_or(0.0);
            (
                (i + 1).to_string(),
                format!("{}: {} {} {time}, {percent:.0} % of its roof", i + 1, d.op, d.shapes),
            )
        });
        plot = plot.series(Series::dots(variant, points.iter().map(|p| p.2).collect(), labels.collect()));
    }
    plot.to_svg()
}

fn table(rows: &[(&Row, Details)]) -> String {
    let mut html =
        String::from("<div class=\"wide\"><table><caption>Cases</caption><tr><th class=\"n\">#</th>");
    for (c, name) in HEAD.iter().enumerate() {
        let class = if WORDS.contains(&c) { "" } else { " class=\"n\"" };
        let _ = write!(html, "<th{class}>{name}</th>");
    }
    html.push_str("<th>where</th></tr>\n");
    for (i, (_, d)) in rows.iter().enumerate() {
        let _ = write!(html, "<tr><td class=\"n\">{}</td>", i + 1);
        let cells = cells(d);
        let whole = cells.len() == HEAD.len();
        for (c, cell) in cells.iter().enumerate() {
            let class = match c {
                0 | 1 => " class=\"wrap\"",
                c if WORDS.contains(&c) || !whole => "",
                _ => " class=\"n\"",
            };
            let span = if !whole && c + 1 == cells.len() {
                format!(" colspan=\"{}\"", HEAD.len() - c)
            } else {
                String::new()
            };
            let title = if c == 0 && !d.parameters.is_empty() {
                format!("<br><span class=\"by\">{}</span>", escape(&d.parameters))
            } else {
                String::new()
            };
            let _ = write!(html, "<td{class}{span}>{}{title}</td>", escape(cell));
        }
        let _ = writeln!(html, "<td class=\"by\">{}</td></tr>", escape(&phases(d)));
    }
    html.push_str("</table></div>");
    html
}

/// Names of a case's phases.
fn phases(d: &Details) -> String {
    d.phases.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// What each case takes of a whole model: its median times how often it is applied.
fn shares(rows: &[(&Row, Details)]) -> Option<String> {
    let best = rows.iter().map(|(_, d)| &d.variant).max()?.clone();
    let whole: Vec<(usize, &Details, f64)> = rows
        .iter()
        .enumerate()
        .filter(|(_, (_, d))| d.variant == best && d.count > 0 && !d.phases.is_empty())
        .filter_map(|(i, (_, d))| Some((i, d, d.time?.median * d.count as f64)))
        .collect();
    if whole.len() < 2 {
        return None;
    }
    let groups: Vec<String> = {
        let mut names: Vec<String> = whole.iter().map(|w| phases(w.1)).collect();
        names.sort();
        names.dedup();
        names
    };
    let bars = whole.iter().take(24).map(|(i, d, total)| Bar {
        label: format!("{} {} {}", i + 1, d.op, phases(d)),
        value: *total,
        range: None,
        text: format!("{} ({}×)", seconds(*total), d.count),
        group: groups.iter().position(|g| *g == phases(d)).unwrap_or(0),
    });
    let title = "Time in the whole model: median times applications".into();
    Some(BarPlot { title, bars: bars.collect() }.to_svg())
}

/// Bars of the same case in earlier runs and in this one.
fn over_time(run: &Run, history: &[(String, Run)]) -> Vec<String> {
    if history.is_empty() {
        return Vec::new();
    }
    let mut plots = Vec::new();
    for row in &run.rows {
        let mut bars = Vec::new();
        let runs = history.iter().map(|(name, run)| (name.as_str(), run)).chain([("this run", run)]);
        for (i, (name, run)) in runs.enumerate() {
            let found = run.rows.iter().find(|r| r.case == row.case);
            if let Some(time) = found.and_then(|r| Summary::of(&r.samples)) {
                bars.push(Bar {
                    label: name.to_owned(),
                    value: time.median,
                    range: Some((time.min, time.max.min(4.0 * time.median))),
                    text: seconds(time.median),
                    group: usize::from(i < history.len()),
                });
            }
        }
        if bars.len() > 1 {
            plots.push(BarPlot { title: row.case.clone(), bars }.to_svg());
        }
    }
    if plots.is_empty() {
        plots.push("<p class=\"note\">The given runs have no case of this one.</p>".into());
    }
    plots.insert(0, "<h2>History</h2>".into());
    plots
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Bound;
    use crate::machine::tests::invented;

    fn details(failure: Option<&str>) -> Details {
        Details {
            op: "attention".into(),
            parameters: "causal: true".into(),
            shapes: "1×2 <bf16>".into(),
            phases: vec![super::super::Phase { name: "prefill".into(), count: 3 }],
            count: 3,
            device: "cpu".into(),
            variant: "avx2".into(),
            dtype: "bf16".into(),
            flops: 1_000_000,
            bytes: 10_000,
            working_set: 1 << 28,
            intensity: 100.0,
            time: failure.is_none().then(|| Summary::of(&[1e-4, 2e-4]).unwrap()),
            percent: failure.is_none().then_some(50.0),
            bound: Bound::Compute,
            checked: 10,
            worst: 0.5,
            failure: failure.map(str::to_owned),
        }
    }

    fn run(failure: Option<&str>) -> Run {
        let map = serde_json::to_value(details(failure)).unwrap().as_object().cloned().unwrap();
        let samples = if failure.is_none() { vec![1e-4, 2e-4] } else { vec![] };
        let row = Row { case: "cpu cold avx2 attention".into(), samples, details: map };
        let other = Row { case: "another".into(), ..row.clone() };
        Run::new(vec!["op".into(), "attention".into()], invented(), invented(), vec![row, other]).unwrap()
    }

    #[test]
    fn the_page_holds_plot_table_and_history() {
        let run = run(None);
        let html = page(&run, &[("base".into(), run.clone())]);
        assert!(html.contains("Roofline") && html.contains("1×2 &lt;bf16&gt;") && html.contains("History"));
        assert_eq!(html.matches("class=\"mark\"").count(), 2);
        assert!(!html.contains("NaN") && !html.contains("http-equiv") && !html.contains("src="));
        assert!(super::super::text(&run).contains("50.0"));
    }

    #[test]
    fn a_wrong_kernel_has_a_reason_and_no_figure() {
        let run = run(Some("output 0 at [3] is 1, the oracle gives 2"));
        let html = page(&run, &[]);
        assert!(html.contains("WRONG") && html.contains("at [3] is 1"));
        assert_eq!(html.matches("class=\"mark\"").count(), 0);
        let text = super::super::text(&run);
        assert!(text.contains("WRONG") && text.contains("2 cases do not"), "{text}");
    }
}
