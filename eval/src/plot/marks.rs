//! Dots with labels that keep out of each other's way.

use std::fmt::Write as _;

use super::axis::Axis;
use super::{LETTER, Series};
use crate::html::escape;

/// Height of a label.
const LINE: f64 = 11.0;
/// Distance of a label from its dot.
const GAP: f64 = 6.0;

/// Left, upper, right and lower edge.
type Box4 = [f64; 4];

/// Labels and dots drawn so far.
pub(super) struct Marks {
    taken: Vec<Box4>,
    left: f64,
    right: f64,
}

fn overlap(a: &Box4, b: &Box4) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

impl Marks {
    /// Labels stay between these edges.
    pub(super) fn new(left: f64, right: f64) -> Self {
        Self { taken: Vec::new(), left, right }
    }

    /// Draws a series of points. A point that an axis cannot show is left out.
    pub(super) fn draw(&mut self, svg: &mut String, series: &Series, colour: usize, x: &Axis, y: &Axis) {
        let place = |&(a, b): &(f64, f64)| Some((x.place(a)?, y.place(b)?));
        let placed: Vec<Option<(f64, f64)>> = series.points.iter().map(place).collect();
        self.taken.extend(placed.iter().flatten().map(|(x, y)| [x - 3.0, y - 3.0, x + 3.0, y + 3.0]));
        for (i, at) in placed.iter().enumerate() {
            let Some((x, y)) = at else { continue };
            let empty = (String::new(), String::new());
            let (label, text) = series.labels.get(i).unwrap_or(&empty);
            let _ = writeln!(
                svg,
                "<path class=\"s dot c{colour}\" d=\"M{x:.1} {y:.1}h0\"><title>{}</title></path>",
                escape(text)
            );
            if !label.is_empty() {
                let (x, y) = self.find(*x, *y, label.chars().count() as f64 * LETTER * 0.9);
                let _ = writeln!(
                    svg,
                    "<text class=\"mark\" x=\"{x:.1}\" y=\"{y:.1}\">{}<title>{}</title></text>",
                    escape(label),
                    escape(text)
                );
            }
        }
    }

    /// Left edge and baseline of a label near a dot: the first free place around it, farther out if need be.
    fn find(&mut self, x: f64, y: f64, width: f64) -> (f64, f64) {
        let mut first = None;
        for ring in 0..4 {
            let far = GAP + f64::from(ring) * LINE;
            for (left, middle) in [
                (x + GAP, y),
                (x - GAP - width, y),
                (x - width / 2.0, y - far - LINE / 2.0),
                (x - width / 2.0, y + far + LINE / 2.0),
                (x + far, y - far),
                (x + far, y + far),
                (x - far - width, y - far),
                (x - far - width, y + far),
            ] {
                let edges = [left, middle - LINE / 2.0, left + width, middle + LINE / 2.0];
                if left < self.left || left + width > self.right {
                    continue;
                }
                first.get_or_insert(edges);
                if !self.taken.iter().any(|other| overlap(other, &edges)) {
                    self.taken.push(edges);
                    return (left, middle + 4.0);
                }
            }
        }
        let [left, top, ..] = first.unwrap_or([x + GAP, y - LINE / 2.0, 0.0, 0.0]);
        (left, top + LINE / 2.0 + 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{LinePlot, Scale, Series};
    use super::*;

    #[test]
    fn labels_of_near_points_do_not_overlap() {
        let mut marks = Marks::new(0.0, 500.0);
        let places: Vec<(f64, f64)> = (0..8).map(|i| marks.find(100.0 + f64::from(i), 100.0, 20.0)).collect();
        for (i, a) in places.iter().enumerate() {
            for b in &places[..i] {
                assert!((a.0 - b.0).abs() >= 20.0 || (a.1 - b.1).abs() >= LINE - 0.1, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn points_are_dots_with_their_texts_escaped() {
        let labels =
            vec![("1".into(), "a <b>".into()), ("2".into(), "c".into()), ("3".into(), "gone".into())];
        let points = vec![(1.0, 10.0), (100.0, 1000.0), (1.0, -1.0)];
        let svg = LinePlot::new("roof", "x", "y")
            .x_scale(Scale::Log)
            .y_scale(Scale::Log)
            .series(Series::dashed("ceiling", vec![(0.1, 1.0), (1000.0, 1.0)]))
            .series(Series::dots("kernels", points, labels))
            .to_svg();
        assert_eq!(svg.matches("class=\"mark\"").count(), 2, "{svg}");
        assert!(svg.contains("a &lt;b&gt;") && !svg.contains("gone") && svg.contains("s dash c0"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}
