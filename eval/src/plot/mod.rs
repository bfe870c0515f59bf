//! Charts as self-contained SVG: curves and points over two axes (training curves, rooflines), and bars.
//!
//! The file carries its own style with a light and a dark palette (Okabe and Ito's colours, which most colour-blind
//! readers tell apart) and needs nothing else, so it opens in a browser and sits inside an HTML page alike.

mod axis;
mod bars;
mod marks;
mod path;

use std::fmt::Write as _;

use crate::html::escape;
use axis::Axis;
pub use axis::Scale;
pub use bars::{Bar, BarPlot};

/// Distances in the picture's own units.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 68.0;
const RIGHT: f64 = 16.0;
const BOTTOM: f64 = 48.0;
/// Title line and the first line of the legend.
const TOP: f64 = 60.0;
const LEGEND_LINE: f64 = 18.0;
/// Mean width of a letter of the legend; it only has to keep entries apart.
const LETTER: f64 = 7.4;
const PALETTE: usize = 7;

/// Plain rules instead of CSS variables, which viewers other than browsers do not know.
const STYLE: &str = "\
.roentgen-plot{font:13px system-ui,sans-serif}.roentgen-plot path{fill:none}\
.roentgen-plot .title{font-weight:600;font-size:15px}\
.roentgen-plot .s{stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}\
.roentgen-plot .raw{stroke-width:1;opacity:.32}.roentgen-plot .end{text-anchor:end}\
.roentgen-plot .mid{text-anchor:middle}.roentgen-plot .dash{stroke-dasharray:5 4;stroke-width:1.3}\
.roentgen-plot .dot{stroke-width:7}.roentgen-plot .mark{font-size:11px}.roentgen-plot path.bar{stroke-width:14;stroke-linecap:butt}\
.roentgen-plot path.range{stroke-width:1.2}.roentgen-plot .back{fill:#fff}.roentgen-plot text{fill:#5f6368}\
.roentgen-plot .title{fill:#1c1c1e}.roentgen-plot .grid{stroke:#e6e8ea}\
.roentgen-plot .frame{stroke:#5f6368}.roentgen-plot .c0{stroke:#0072b2}\
.roentgen-plot .c1{stroke:#d55e00}.roentgen-plot .c2{stroke:#009e73}.roentgen-plot .c3{stroke:#cc79a7}\
.roentgen-plot .c4{stroke:#b8860b}.roentgen-plot .c5{stroke:#56b4e9}.roentgen-plot .c6{stroke:#6b6b6b}\
@media(prefers-color-scheme:dark){.roentgen-plot .back{fill:#17181a}.roentgen-plot text{fill:#9aa0a6}\
.roentgen-plot .title{fill:#e8eaed}.roentgen-plot .grid{stroke:#303336}\
.roentgen-plot .frame{stroke:#9aa0a6}.roentgen-plot .c0{stroke:#5aa9e6}\
.roentgen-plot .c1{stroke:#ff8f4d}.roentgen-plot .c2{stroke:#3ecfa0}.roentgen-plot .c3{stroke:#e6a0c8}\
.roentgen-plot .c4{stroke:#e5b84b}.roentgen-plot .c5{stroke:#8fd3fa}.roentgen-plot .c6{stroke:#b0b0b0}}";

/// One curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// (x, y) in the order of x. A y that the axis cannot show (not finite, or not positive on a logarithmic axis)
    /// interrupts the line and is marked by a cross at the upper edge.
    pub points: Vec<(f64, f64)>,
    /// 0 for none, towards 1 for more: see [`smooth`]. The raw curve stays behind, faint.
    pub smoothing: f64,
    /// How it is drawn.
    pub style: Style,
    /// For points: a short label beside each and a longer text under the pointer. Missing ones are empty.
    pub labels: Vec<(String, String)>,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A line through the points.
    Line,
    /// A broken line.
    Dashed,
    /// A dot for each point, in any order.
    Points,
}

impl Series {
    /// A curve without smoothing.
    pub fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.to_owned(), points, smoothing: 0.0, style: Style::Line, labels: vec![] }
    }

    /// A broken line.
    pub fn dashed(name: &str, points: Vec<(f64, f64)>) -> Self {
        Self { style: Style::Dashed, ..Self::new(name, points) }
    }

    /// Dots with labels.
    pub fn dots(name: &str, points: Vec<(f64, f64)>, labels: Vec<(String, String)>) -> Self {
        Self { style: Style::Points, labels, ..Self::new(name, points) }
    }

    /// Draws an exponential mean over the raw curve.
    #[must_use]
    pub fn smoothed(self, smoothing: f64) -> Self {
        Self { smoothing, ..self }
    }
}

/// A chart of one or more curves.
#[derive(Debug, Clone, PartialEq)]
pub struct LinePlot {
    /// Heading.
    pub title: String,
    /// Name of the horizontal axis.
    pub x_label: String,
    /// Name of the vertical axis.
    pub y_label: String,
    /// Scale of the horizontal axis.
    pub x_scale: Scale,
    /// Scale of the vertical axis.
    pub y_scale: Scale,
    /// The curves, in the order of the legend.
    pub series: Vec<Series>,
}

impl LinePlot {
    /// An empty chart with linear axes.
    pub fn new(title: &str, x_label: &str, y_label: &str) -> Self {
        Self {
            title: title.to_owned(),
            x_label: x_label.to_owned(),
            y_label: y_label.to_owned(),
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            series: vec![],
        }
    }

    /// Sets the scale of the horizontal axis.
    #[must_use]
    pub fn x_scale(self, x_scale: Scale) -> Self {
        Self { x_scale, ..self }
    }

    /// Sets the scale of the vertical axis.
    #[must_use]
    pub fn y_scale(self, y_scale: Scale) -> Self {
        Self { y_scale, ..self }
    }

    /// Adds a curve.
    #[must_use]
    pub fn series(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    /// The picture. Size does not grow with the number of points: beyond two a pixel column only its extremes are
    /// drawn, so that no spike is lost.
    pub fn to_svg(&self) -> String {
        let legend = self.legend();
        let lines = legend.last().map_or(0.0, |&(_, line)| line as f64);
        let top = TOP + lines * LEGEND_LINE;
        let height = HEIGHT + lines * LEGEND_LINE;
        let all = || self.series.iter().flat_map(|s| &s.points);
        let x = Axis::new(self.x_scale, all().map(|p| p.0), LEFT, WIDTH - RIGHT, false);
        let y = Axis::new(self.y_scale, all().map(|p| p.1), height - BOTTOM, top, true);

        let title = escape(&self.title);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"roentgen-plot\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
             <rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"24\">{title}</text>\n"
        );
        draw_axes(&mut svg, &x, &y);
        let (middle_x, middle_y) = (f64::midpoint(LEFT, WIDTH - RIGHT), f64::midpoint(top, height - BOTTOM));
        let _ = writeln!(
            svg,
            "<text class=\"mid\" x=\"{middle_x}\" y=\"{}\">{}</text>\n\
             <text class=\"mid\" transform=\"translate(16 {middle_y}) rotate(-90)\">{}</text>",
            height - 10.0,
            escape(&self.x_label),
            escape(&self.y_label)
        );
        let mut marks = marks::Marks::new(LEFT, WIDTH - RIGHT);
        for (i, series) in self.series.iter().enumerate() {
            if series.style == Style::Points {
                marks.draw(&mut svg, series, i % PALETTE, &x, &y);
            } else {
                draw_series(&mut svg, series, i % PALETTE, &x, &y);
            }
        }
        for (i, (series, (left, line))) in self.series.iter().zip(&legend).enumerate() {
            let baseline = 46.0 + *line as f64 * LEGEND_LINE;
            // The sign of a dot is a line of no length: its caps are round.
            let (class, length) = match series.style {
                Style::Line => ("", 18.0),
                Style::Dashed => (" dash", 18.0),
                Style::Points => (" dot", 0.0),
            };
            let _ = writeln!(
                svg,
                "<path class=\"s{} c{}\" d=\"M{:.1} {:.1}h{length}\"/>\
                 <text x=\"{:.1}\" y=\"{baseline}\">{}</text>",
                class,
                i % PALETTE,
                left + f64::midpoint(18.0, -length),
                baseline - 4.0,
                left + 24.0,
                escape(&series.name)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// Left edge and line of each entry.
    fn legend(&self) -> Vec<(f64, usize)> {
        let (mut left, mut line) = (LEFT, 0);
        let place = |s: &Series| {
            let width = 24.0 + s.name.chars().count() as f64 * LETTER + 20.0;
            if left > LEFT && left + width > WIDTH - RIGHT {
                left = LEFT;
                line += 1;
            }
            let here = (left, line);
            left += width;
            here
        };
        self.series.iter().map(place).collect()
    }
}

fn draw_axes(svg: &mut String, x: &Axis, y: &Axis) {
    let (left, right, bottom, top) = (x.start, x.end, y.start, y.end);
    for tick in y.ticks() {
        let at = y.place(tick.value).unwrap_or(bottom);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{left} {at:.1}H{right}\"/><text class=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
            left - 8.0,
            at + 4.0,
            tick.label
        );
    }
    for tick in x.ticks() {
        let at = x.place(tick.value).unwrap_or(left);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{at:.1} {top}V{bottom}\"/><text class=\"mid\" x=\"{at:.1}\" y=\"{}\">{}</text>",
            bottom + 18.0,
            tick.label
        );
    }
    let _ = writeln!(svg, "<path class=\"frame\" d=\"M{left} {top}V{bottom}H{right}\"/>");
}

fn draw_series(svg: &mut String, series: &Series, colour: usize, x: &Axis, y: &Axis) {
    let place = |points: &[(f64, f64)]| -> Vec<(f64, Option<f64>)> {
        points.iter().filter_map(|&(a, b)| Some((x.place(a)?, y.place(b)))).collect()
    };
    let raw = place(&series.points);
    let smoothing = if series.smoothing > 0.0 { series.smoothing.min(0.999) } else { 0.0 };
    let name = escape(&series.name);
    let mut draw = |class: &str, points: &[(f64, Option<f64>)]| {
        let d = path::path(points);
        if !d.is_empty() {
            let _ = writeln!(svg, "<path class=\"{class} c{colour}\" d=\"{d}\"><title>{name}</title></path>");
        }
    };
    if smoothing > 0.0 {
        draw("s raw", &raw);
        let (xs, ys): (Vec<f64>, Vec<f64>) = series.points.iter().copied().unzip();
        let points: Vec<_> = xs.into_iter().zip(smooth(&ys, smoothing)).collect();
        draw("s", &place(&points));
    } else {
        draw(if series.style == Style::Dashed { "s dash" } else { "s" }, &raw);
    }
    let crosses = path::crosses(&raw, y.end);
    if !crosses.is_empty() {
        let _ = writeln!(
            svg,
            "<path class=\"s c{colour}\" d=\"{crosses}\"><title>{name}: no number that this \
             axis can show</title></path>"
        );
    }
}

/// Exponential mean with the start-up bias removed: the first value is itself, later ones forget at rate `smoothing`
/// per point. Values that are not finite stay as they are and are not averaged in.
pub fn smooth(values: &[f64], smoothing: f64) -> Vec<f64> {
    let keep = smoothing.clamp(0.0, 0.999);
    let (mut sum, mut weight) = (0.0, 0.0);
    values
        .iter()
        .map(|&v| {
            if !v.is_finite() {
                return v;
            }
            sum = keep * sum + (1.0 - keep) * v;
            weight = keep * weight + (1.0 - keep);
            sum / weight
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(svg: &str, what: &str) -> usize {
        svg.matches(what).count()
    }

    #[test]
    fn a_chart_of_two_curves() {
        let loss: Vec<_> = (0..200).map(|i| (f64::from(i), 3.0 / f64::from(i + 1) + 0.1)).collect();
        let svg = LinePlot::new("Loss & rate", "step", "nats")
            .y_scale(Scale::Log)
            .series(Series::new("train", loss.clone()).smoothed(0.9))
            .series(Series::new("<val>", loss))
            .to_svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(count(&svg, "class=\"s raw c0\""), 1);
        assert!(svg.contains("Loss &amp; rate") && svg.contains("&lt;val&gt;") && !svg.contains("<val>"));
        assert_eq!(count(&svg, "<svg"), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert!(svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn empty_constant_and_broken_curves_are_drawn() {
        for points in [
            vec![],
            vec![(0.0, 0.0)],
            vec![(1.0, 2.5); 3],
            vec![(0.0, f64::NAN), (1.0, f64::INFINITY)],
            vec![(f64::NAN, 1.0)],
            vec![(0.0, f64::MAX), (1.0, f64::MIN)],
            vec![(0.0, f64::MIN_POSITIVE), (f64::MAX, 1.0)],
            vec![(0.0, -1.0), (1.0, 0.0)],
        ] {
            for scale in [Scale::Linear, Scale::Log] {
                let series = Series::new("s", points.clone()).smoothed(0.5);
                let svg = LinePlot::new("t", "x", "y").y_scale(scale).series(series).to_svg();
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?} {scale:?}: {svg}");
                assert!(svg.len() < 20_000, "{points:?} {scale:?}");
            }
        }
    }

    #[test]
    fn a_gap_breaks_the_line_and_is_marked() {
        let points = vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 2.0), (4.0, 1.0)];
        let svg = LinePlot::new("t", "x", "y").series(Series::new("s", points)).to_svg();
        assert!(svg.contains("no number that this axis can show"));
        let line = svg.split(" d=\"").filter_map(|s| s.split('"').next()).find(|d| d.contains('L'));
        assert_eq!(line.map(|d| (count(d, "M"), count(d, "L"))), Some((2, 2)), "{svg}");
    }

    #[test]
    fn smoothing_starts_at_the_first_value_and_keeps_constants() {
        assert_eq!(smooth(&[4.0, 4.0, 4.0], 0.9), [4.0, 4.0, 4.0]);
        let s = smooth(&[1.0, f64::NAN, 3.0], 0.5);
        assert_eq!(s[0], 1.0);
        assert!(s[1].is_nan());
        assert!((s[2] - 7.0 / 3.0).abs() < 1e-12);
    }
}
