//! Memory over time as stacked areas, phases above them.

use std::fmt::Write as _;

use eval::html::escape;

use super::memory::Timeline;
use crate::units::{bytes, time};

const WIDTH: f64 = 1200.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 30.0;
const HEIGHT: f64 = 300.0;
const LETTER: f64 = 6.4;
/// Classes of colour.
const COLOURS: usize = 8;

/// The picture, or nothing if no memory changed.
pub(super) fn svg(timeline: &Timeline, wall_ns: u64) -> String {
    let most = timeline.peak.total();
    if most <= 0 {
        return String::new();
    }
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let x = |at: u64| LEFT + (right - LEFT) * at as f64 / wall_ns.max(1) as f64;
    let step = nice(most as f64 / 4.0);
    let top = (most as f64 / step).ceil() * step;
    let y = |n: f64| bottom - (bottom - TOP) * (n / top).clamp(0.0, 1.0);
    let mut svg = format!(
        "<svg class=\"memory\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" \
         aria-label=\"bytes of tensors over time\">\n"
    );
    for (i, phase) in timeline.phases.iter().enumerate() {
        let (from, to) = (x(phase.start), x(phase.end));
        if to - from < 0.3 {
            continue;
        }
        let room = ((to - from - 6.0) / LETTER).max(0.0) as usize;
        let label = if phase.name.chars().count() <= room { phase.name.as_str() } else { "" };
        let _ = writeln!(
            svg,
            "<g class=\"stretch s{}\"><title>{}: {}</title><rect x=\"{from:.1}\" y=\"6\" width=\"{:.1}\" \
             height=\"20\"/><path class=\"edge\" d=\"M{from:.1} 6V{bottom}\"/><text x=\"{:.1}\" y=\"20\">{}</text></g>",
            i % 2,
            escape(&phase.name),
            time(phase.end - phase.start),
            to - from,
            from + 4.0,
            escape(label)
        );
    }
    let mut tick = 0.0;
    while tick <= top * 1.0001 {
        let at = y(tick);
        let _ = writeln!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            bytes(tick)
        );
        tick += step;
    }
    let mut seconds = 0.0;
    let every = nice(wall_ns as f64 / 1e9 / 8.0);
    while seconds * 1e9 <= wall_ns as f64 {
        let at = x((seconds * 1e9) as u64);
        let _ = writeln!(
            svg,
            "<text class=\"mid\" x=\"{at:.1}\" y=\"{}\">{}</text>",
            bottom + 18.0,
            time((seconds * 1e9) as u64).replace(".00 ", " ").replace("0 ns", "0")
        );
        seconds += every;
    }
    let mut below = vec![0.0; timeline.moments.len()];
    for (tag, name) in timeline.tags.iter().enumerate() {
        let above: Vec<f64> = timeline
            .moments
            .iter()
            .zip(&below)
            .map(|(moment, &base)| base + moment.bytes[tag].max(0) as f64)
            .collect();
        // Bytes stay as they are until they change: steps, along the top and back along the bottom.
        let mut d = String::new();
        let stairs = |d: &mut String, heights: &[f64], back: bool| {
            let all = timeline.moments.iter().zip(heights);
            let places: Vec<(f64, f64)> = all.map(|(m, &h)| (x(m.at), y(h))).collect();
            let mut steps = Vec::with_capacity(places.len() * 2);
            for (i, &(at, height)) in places.iter().enumerate() {
                if i > 0 {
                    steps.push((at, places[i - 1].1));
                }
                steps.push((at, height));
            }
            if back {
                steps.reverse();
            }
            for (at, height) in steps {
                let _ = write!(d, "{}{at:.1} {height:.1}", if d.is_empty() { 'M' } else { 'L' });
            }
        };
        stairs(&mut d, &above, false);
        stairs(&mut d, &below, true);
        let _ = writeln!(
            svg,
            "<path class=\"area c{}\" d=\"{d}Z\"><title>{}</title></path>",
            tag % COLOURS,
            escape(name)
        );
        below = above;
    }
    let (at, height) = (x(timeline.peak.at), y(most as f64));
    let _ = writeln!(svg, "<circle class=\"peak\" cx=\"{at:.1}\" cy=\"{height:.1}\" r=\"3.5\"/></svg>");
    svg.push_str("<p class=\"legend\">");
    for (tag, name) in timeline.tags.iter().enumerate() {
        let _ = write!(
            svg,
            "<span><i class=\"c{}\"></i>{} <b>{}</b></span>",
            tag % COLOURS,
            escape(name),
            bytes(timeline.peak.bytes[tag] as f64)
        );
    }
    let _ = writeln!(
        svg,
        "<span>at the peak of <b>{}</b>, {}</span></p>",
        bytes(most as f64),
        time(timeline.peak.at)
    );
    svg
}

/// 1, 2 or 5 times a power of ten, not below `x`.
fn nice(x: f64) -> f64 {
    let power = 10f64.powf(x.max(1e-12).log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|&m| m >= x).unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use crate::profile::trace::tests::invented;

    #[test]
    fn areas_of_all_tags_and_the_phases_are_drawn() {
        let profile = Profile::new("t", &invented(), None);
        let svg = svg(&profile.memory, profile.wall_ns);
        assert_eq!(svg.matches("class=\"area").count(), 1);
        assert!(svg.contains("forward") && svg.contains("weights <b>150 B</b>"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(super::svg(&Timeline::default(), 10), "");
    }

    #[test]
    fn steps_are_round() {
        assert_eq!([nice(0.7), nice(1.0), nice(3.0), nice(700.0)], [1.0, 1.0, 5.0, 1000.0]);
    }
}
