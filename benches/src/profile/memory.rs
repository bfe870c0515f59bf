//! Bytes by tag over time.

use engine::profile::{Recording, What};
use serde::Serialize;

/// What was held at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moment {
    /// Nanoseconds since the start.
    pub at: u64,
    /// Bytes of each tag, in the order of [`Timeline::tags`]. Negative where more went than came since the start.
    pub bytes: Vec<i64>,
}

impl Moment {
    /// Over all tags.
    pub fn total(&self) -> i64 {
        self.bytes.iter().sum()
    }
}

/// A phase on the axis of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// Its name.
    pub name: String,
    /// Nanoseconds since the start.
    pub start: u64,
    /// Nanoseconds since the start.
    pub end: u64,
}

/// Bytes by tag over time, thinned: of the moments in a window, that with the most bytes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Timeline {
    /// Tags, with their device where there are several; the one with the largest peak first.
    pub tags: Vec<String>,
    /// Moments in order.
    pub moments: Vec<Moment>,
    /// The moment with the most bytes.
    pub peak: Moment,
    /// The phase of the peak.
    pub peak_phase: String,
    /// Outermost phases of the main thread, neighbours of one name joined.
    pub phases: Vec<Stretch>,
}

impl Timeline {
    /// Of `recording`, in at most `most` moments and two.
    pub fn new(recording: &Recording, main: usize, most: u64) -> Self {
        let changes = recording.memory();
        let mut keys: Vec<(u32, u32)> = Vec::new();
        for change in &changes {
            if !keys.contains(&(change.device, change.tag)) {
                keys.push((change.device, change.tag));
            }
        }
        let several = keys.iter().any(|key| key.0 != keys[0].0);
        let name = |&(device, tag): &(u32, u32)| {
            let (device, tag) = (&recording.names[device as usize], &recording.names[tag as usize]);
            if several { format!("{device}: {tag}") } else { tag.clone() }
        };
        let tags: Vec<String> = keys.iter().map(name).collect();

        let window = ((recording.end - recording.start) / most.max(1)).max(1);
        let mut now = Moment { at: 0, bytes: vec![0; keys.len()] };
        let mut moments = vec![now.clone()];
        let mut peaks = vec![0i64; keys.len()];
        let mut peak = now.clone();
        // The fullest moment of the window that is running.
        let mut fullest: Option<Moment> = None;
        for change in &changes {
            let at = change.at.saturating_sub(recording.start);
            if fullest.as_ref().is_some_and(|m| m.at / window != at / window) {
                moments.extend(fullest.take());
            }
            let tag = keys.iter().position(|key| *key == (change.device, change.tag)).unwrap_or(0);
            now.bytes[tag] += change.bytes;
            now.at = at;
            peaks[tag] = peaks[tag].max(now.bytes[tag]);
            if fullest.as_ref().is_none_or(|m| now.total() > m.total()) {
                fullest = Some(now.clone());
            }
            if now.total() > peak.total() {
                peak = now.clone();
            }
        }
        moments.extend(fullest);
        now.at = recording.end - recording.start;
        moments.push(now);

        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(peaks[i]));
        let sorted = |m: Moment| Moment { at: m.at, bytes: order.iter().map(|&i| m.bytes[i]).collect() };
        let phases = stretches(recording, main);
        let peak_phase = phases.iter().find(|p| p.start <= peak.at && peak.at <= p.end);
        Self {
            tags: order.iter().map(|&i| tags[i].clone()).collect(),
            moments: moments.into_iter().map(sorted).collect(),
            peak_phase: peak_phase.map(|p| p.name.clone()).unwrap_or_default(),
            peak: sorted(peak),
            phases,
        }
    }
}

fn stretches(recording: &Recording, main: usize) -> Vec<Stretch> {
    let mut all: Vec<Stretch> = Vec::new();
    for span in recording.threads.get(main).into_iter().flat_map(|thread| &thread.spans) {
        if !matches!(span.what, What::Phase(_)) || span.phase != 0 {
            continue;
        }
        let (start, end) = (span.start - recording.start, span.end - recording.start);
        match all.last_mut() {
            Some(last) if last.name == recording.name(span) => last.end = end,
            _ => all.push(Stretch { name: recording.name(span).to_owned(), start, end }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::profile::{Change, Thread};

    #[test]
    fn a_short_peak_survives_thinning() {
        let change = |at, tag, bytes| Change { at, device: 1, tag, bytes };
        let mut memory = vec![change(10, 2, 500)];
        for i in 0..1000 {
            memory.push(change(100 + i, 3, 10));
            memory.push(change(100 + i, 3, if i == 500 { 9000 } else { 0 }));
            memory.push(change(101 + i, 3, if i == 500 { -9010 } else { -10 }));
        }
        let thread = Thread { memory, ..Thread::default() };
        let names = ["", "cpu", "weights", "other"].map(str::to_owned).to_vec();
        let recording = Recording { threads: vec![thread], names, end: 2000, ..Recording::default() };
        let timeline = Timeline::new(&recording, 0, 20);
        assert_eq!(timeline.tags, ["other", "weights"]);
        assert!(timeline.moments.len() <= 22);
        assert_eq!(timeline.peak.bytes, [9010, 500]);
        assert!(timeline.moments.contains(&timeline.peak));
        assert_eq!(timeline.moments.last().map(Moment::total), Some(500));
        assert!(timeline.moments.is_sorted_by_key(|m| m.at));
    }
}
