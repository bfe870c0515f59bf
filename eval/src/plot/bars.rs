//! Horizontal bars with their values, and the range of what was measured.

use std::fmt::Write as _;

use super::{LETTER, PALETTE, STYLE, WIDTH};
use crate::html::escape;

const ROW: f64 = 24.0;
const TOP: f64 = 44.0;
/// Labels take at most this share of the width.
const LABELS: f64 = 0.45;
/// Room for the value at the end of a bar.
const VALUE: f64 = 90.0;

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// Before the bar.
    pub label: String,
    /// Its length; not finite or negative: drawn as "–".
    pub value: f64,
    /// Least and greatest, as a thin line over the bar.
    pub range: Option<(f64, f64)>,
    /// Behind the bar.
    pub text: String,
    /// Bars of one group have one colour.
    pub group: usize,
}

/// A chart of bars, all from 0.
#[derive(Debug, Clone, PartialEq)]
pub struct BarPlot {
    /// Heading.
    pub title: String,
    /// From above.
    pub bars: Vec<Bar>,
}

impl BarPlot {
    /// The picture.
    pub fn to_svg(&self) -> String {
        let height = TOP + ROW * self.bars.len() as f64 + 8.0;
        let letters = self.bars.iter().map(|b| b.label.chars().count()).max().unwrap_or(0);
        let most = (LABELS * WIDTH / LETTER) as usize;
        let left = 16.0 + letters.min(most) as f64 * LETTER;
        let length = |v: f64| v.is_finite() && v >= 0.0;
        let shown = self.bars.iter().flat_map(|b| [b.value, b.range.map_or(0.0, |r| r.1)]);
        let largest = shown.filter(|&v| length(v)).fold(f64::MIN_POSITIVE, f64::max);
        let place = |v: f64| left + v / largest * (WIDTH - left - VALUE);
        let title = escape(&self.title);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"roentgen-plot\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
             <rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"16\" y=\"24\">{title}</text>\n"
        );
        for (i, bar) in self.bars.iter().enumerate() {
            let middle = TOP + ROW * (i as f64 + 0.5);
            let mut label: String = bar.label.chars().take(most).collect();
            if label.len() < bar.label.len() {
                label.push('…');
            }
            let _ = write!(
                svg,
                "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                left - 6.0,
                middle + 4.0,
                escape(&label)
            );
            let mut end = left;
            if length(bar.value) {
                end = place(bar.value);
                let _ = write!(
                    svg,
                    "<path class=\"s bar c{}\" d=\"M{left:.1} {middle:.1}H{end:.1}\"><title>{}</title></path>",
                    bar.group % PALETTE,
                    escape(&bar.label)
                );
            }
            if let Some((low, high)) = bar.range.filter(|r| length(r.0) && length(r.1)) {
                let (low, high) = (place(low), place(high));
                let _ = write!(
                    svg,
                    "<path class=\"frame range\" d=\"M{low:.1} {:.1}v6m0 -3H{high:.1}m0 -3v6\"/>",
                    middle - 3.0
                );
                end = end.max(high);
            }
            let text = if length(bar.value) { &bar.text } else { "–" };
            let _ = writeln!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                end + 6.0,
                middle + 4.0,
                escape(text)
            );
        }
        svg.push_str("</svg>\n");
        svg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_with_their_values_and_odd_ones_are_dashes() {
        let bar = |label: &str, value, range| Bar {
            label: label.into(),
            value,
            range,
            text: format!("{value} s"),
            group: 0,
        };
        let bars = vec![
            bar("one & only", 1.0, Some((0.5, 2.0))),
            bar("none", f64::NAN, None),
            bar(&"long ".repeat(100), 2.0, Some((f64::NAN, 1.0))),
        ];
        let svg = BarPlot { title: "t <".into(), bars }.to_svg();
        assert!(svg.contains("one &amp; only") && svg.contains("t &lt;") && svg.contains('–'));
        assert_eq!(svg.matches("class=\"s bar").count(), 2);
        assert_eq!(svg.matches("range\"").count(), 1);
        assert!(!svg.contains("NaN\"") && svg.len() < 20_000);
        assert!(!BarPlot { title: String::new(), bars: vec![] }.to_svg().contains("inf"));
    }
}
