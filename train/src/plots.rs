//! The curves of a run, each as an SVG, and one page with all of them and the sample reports.

use std::fmt::Write as _;
use std::path::Path;

use eval::html::{escape, page};
use eval::plot::{LinePlot, Scale, Series};

use crate::error::Result;
use crate::metrics::{Record, StepRecord, ValidationRecord, write};
use crate::samples;

/// Draws everything anew into the run folder `out`.
pub(crate) fn draw(out: &Path, records: &[Record], config: &str) -> Result<()> {
    let mut fragments = vec![summary(records)];
    for (file, plot) in plots(records) {
        let svg = plot.to_svg();
        write(&out.join(file), svg.as_bytes())?;
        fragments.push(svg);
    }
    for (step, reports) in samples::read(out).iter().rev().take(SHOWN_SAMPLES) {
        fragments.push(sample_table(*step, reports));
    }
    fragments
        .push(format!("<details><summary>Configuration</summary><pre>{}</pre></details>", escape(config)));
    let name = out.file_name().map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned());
    write(&out.join("index.html"), page(&format!("Training run {name}"), &fragments).as_bytes())
}

/// Steps whose sample reports the page shows: the newest.
const SHOWN_SAMPLES: usize = 8;

fn steps(records: &[Record]) -> impl Iterator<Item = &StepRecord> {
    records.iter().filter_map(|r| match r {
        Record::Step(s) => Some(s),
        Record::Validation(_) => None,
    })
}

fn validations(records: &[Record]) -> impl Iterator<Item = &ValidationRecord> {
    records.iter().filter_map(|r| match r {
        Record::Validation(v) => Some(v),
        Record::Step(_) => None,
    })
}

fn plots(records: &[Record]) -> Vec<(&'static str, LinePlot)> {
    let points = |value: &dyn Fn(&StepRecord) -> f64| -> Vec<(f64, f64)> {
        steps(records).map(|s| (s.step as f64, value(s))).collect()
    };
    let mut loss = LinePlot::new("Loss", "step", "cross-entropy per token")
        .series(Series::new("training", points(&|s| s.loss)).smoothed(0.9));
    let validation: Vec<_> = validations(records).map(|v| (v.step as f64, v.loss)).collect();
    if !validation.is_empty() {
        loss = loss.series(Series::new("validation", validation));
    }
    let without: Vec<_> =
        validations(records).filter_map(|v| Some((v.step as f64, v.loss_without_case?))).collect();
    if !without.is_empty() {
        loss = loss.series(Series::new("validation without case", without));
    }
    let one = |title: &str, label: &str, name: &str, points| {
        LinePlot::new(title, "step", label).series(Series::new(name, points))
    };
    vec![
        ("loss.svg", loss),
        ("learning_rate.svg", one("Learning rate", "rate", "rate", points(&|s| s.lr))),
        (
            "gradient_norm.svg",
            one("Gradient norm before clipping", "norm", "norm", points(&|s| s.grad_norm))
                .y_scale(Scale::Log),
        ),
        (
            "throughput.svg",
            one("Throughput", "tokens per second", "tokens/s", points(&|s| s.tokens_per_second)),
        ),
        (
            "memory.svg",
            one("Memory of tensors", "MB", "most so far", points(&|s| s.peak_memory as f64 / 1e6)),
        ),
    ]
}

fn summary(records: &[Record]) -> String {
    let Some(last) = steps(records).last() else { return "<p>No step was made yet.</p>".into() };
    let mut rows = vec![
        ("Steps", last.step.to_string()),
        ("Epochs", format!("{:.2}", last.epoch)),
        ("Loss", format!("{:.4}", last.loss)),
    ];
    if let Some(v) = validations(records).last() {
        rows.push(("Validation loss", format!("{:.4} (step {})", v.loss, v.step)));
    }
    let mut table = String::from("<table>\n");
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "<tr><th>{name}</th><td class=\"n\">{value}</td></tr>");
    }
    table + "</table>"
}

fn sample_table(step: usize, reports: &[samples::Report]) -> String {
    let mut table = format!(
        "<div class=\"wide\"><table><caption>Sample reports after step {step}</caption>\n\
         <tr><th>row</th><th>expected</th><th>generated</th></tr>\n"
    );
    for report in reports {
        let [id, expected, generated] = [&report.id, &report.expected, &report.generated].map(|t| escape(t));
        let _ = writeln!(table, "<tr><td>{id}</td><td>{expected}</td><td>{generated}</td></tr>");
    }
    table + "</table></div>"
}
