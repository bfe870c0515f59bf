//! Placed points to the `d` of an SVG path.

use std::fmt::Write as _;

/// A line through the points, broken where a point has no place. Within a pixel column only the first, lowest,
/// highest and last point of an unbroken stretch are kept, in their order.
pub(super) fn path(points: &[(f64, Option<f64>)]) -> String {
    let mut d = String::new();
    for stretch in points.split(|p| p.1.is_none()) {
        let stretch: Vec<(f64, f64)> = stretch.iter().filter_map(|&(x, y)| Some((x, y?))).collect();
        let thinned = thin(&stretch);
        for (i, (x, y)) in thinned.iter().enumerate() {
            let _ = write!(d, "{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' });
        }
        // A point without neighbours: a round cap makes a line of no length visible.
        if thinned.len() == 1 {
            d.push_str("h0");
        }
    }
    d
}

fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut kept = Vec::new();
    for column in points.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        let by_height = |a: &usize, b: &usize| column[*a].1.total_cmp(&column[*b].1);
        let extremes = [
            Some(0),
            (0..column.len()).min_by(by_height),
            (0..column.len()).max_by(by_height),
            Some(column.len() - 1),
        ];
        let mut order: Vec<usize> = extremes.into_iter().flatten().collect();
        order.sort_unstable();
        order.dedup();
        kept.extend(order.into_iter().map(|i| column[i]));
    }
    kept
}

/// Crosses at height `y` over the points without a place, at most one a pixel column.
pub(super) fn crosses(points: &[(f64, Option<f64>)], y: f64) -> String {
    let mut d = String::new();
    let missing = points.iter().filter(|p| p.1.is_none()).collect::<Vec<_>>();
    for column in missing.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        let x = column[0].0;
        let _ = write!(d, "M{:.1} {:.1}l6 6m0 -6l-6 6", x - 3.0, y + 1.0);
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_ends_and_spikes() {
        let mut points: Vec<(f64, Option<f64>)> =
            (0..100_000).map(|i| (f64::from(i) / 200.0, Some(5.0))).collect();
        points[12_345].1 = Some(99.0);
        let d = path(&points);
        assert!(d.len() < 20_000, "{}", d.len());
        assert!(d.starts_with("M0.0 5.0") && d.ends_with("L500.0 5.0") && d.contains("99.0"));
    }
}
