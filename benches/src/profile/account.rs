//! Every nanosecond of a thread to one place: a kernel, or no kernel in a module and a phase.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use engine::profile::{Clock, Recording, SpanRecord, What};

use super::{Elsewhere, Phase, Sum, is_op};

/// Time of a thread that belongs to one span and to none in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) phase: u32,
    pub(super) module: u32,
    /// The kernel; `None`: no kernel ran.
    pub(super) op: Option<u32>,
    pub(super) ns: u64,
}

/// The thread that ran most kernels.
pub(super) fn main_thread(recording: &Recording) -> usize {
    let time = |spans: &[SpanRecord]| -> u64 {
        spans.iter().filter(|s| is_op(s.what)).map(SpanRecord::duration).sum()
    };
    let busiest = recording.threads.iter().enumerate().max_by_key(|(i, t)| (time(&t.spans), Reverse(*i)));
    busiest.map_or(0, |(i, _)| i)
}

/// The time of a thread, split. The slices add up to the time of the whole recording, to the nanosecond: what a span
/// has is its duration without those of the spans in it.
pub(super) fn slices(recording: &Recording, thread: usize) -> Vec<Slice> {
    struct Open {
        end: u64,
        inside: u64,
        duration: u64,
        slice: Slice,
    }
    let whole = recording.end - recording.start;
    let nowhere = Slice { phase: 0, module: 0, op: None, ns: 0 };
    let mut stack = vec![Open { end: recording.end, inside: 0, duration: whole, slice: nowhere }];
    let mut slices = Vec::new();
    let mut close = |open: &Open| slices.push(Slice { ns: open.duration - open.inside, ..open.slice });
    let none = Vec::new();
    let spans = recording.threads.get(thread).map_or(&none, |t| &t.spans);
    for span in spans.iter().filter(|span| span.clock == Clock::Host) {
        while stack.len() > 1 && stack.last().is_some_and(|open| open.end <= span.start) {
            stack.pop().iter().for_each(&mut close);
        }
        let Some(around) = stack.last_mut() else { continue };
        // A guard that outlived the one around it is cut there.
        let end = span.end.min(around.end);
        let duration = end.saturating_sub(span.start);
        around.inside += duration;
        let slice = match span.what {
            What::Op(number) => Slice { phase: span.phase, module: span.module, op: Some(number), ns: 0 },
            What::Module(number) => Slice { phase: span.phase, module: number, op: None, ns: 0 },
            What::Phase(number) => Slice { phase: number, module: span.module, op: None, ns: 0 },
        };
        stack.push(Open { end, inside: 0, duration, slice });
    }
    stack.iter().rev().for_each(close);
    slices
}

/// Applications of one operation in one place.
pub(super) struct Kernel {
    pub(super) number: u32,
    pub(super) module: u32,
    pub(super) phase: u32,
    pub(super) clock: Clock,
    pub(super) ns: u64,
    pub(super) calls: u64,
    /// Whether the main thread called it.
    pub(super) main: bool,
}

/// The kernels of all threads. Where a device gave its own times, they count and those of the calls do not.
pub(super) fn kernels(recording: &Recording, of_main: &[Slice], main: usize) -> Vec<Kernel> {
    let device = |number: u32| recording.operations[number as usize].device.as_str();
    let timed: BTreeSet<&str> = recording
        .spans()
        .filter(|span| span.clock == Clock::Device)
        .filter_map(|span| recording.operation(&span).map(|op| op.device.as_str()))
        .collect();
    let mut kernels: Vec<Kernel> = Vec::new();
    let mut at: HashMap<(u32, u32, u32, bool), usize> = HashMap::new();
    let mut add = |number, module, phase, clock, ns, main| {
        let i = *at.entry((number, module, phase, main)).or_insert_with(|| {
            kernels.push(Kernel { number, module, phase, clock, ns: 0, calls: 0, main });
            kernels.len() - 1
        });
        kernels[i].ns += ns;
        kernels[i].calls += 1;
    };
    let mut add_host = |slices: &[Slice], main| {
        for slice in slices {
            if let Some(number) = slice.op.filter(|&number| !timed.contains(device(number))) {
                add(number, slice.module, slice.phase, Clock::Host, slice.ns, main);
            }
        }
    };
    add_host(of_main, true);
    for other in (0..recording.threads.len()).filter(|&i| i != main) {
        add_host(&slices(recording, other), false);
    }
    for (i, thread) in recording.threads.iter().enumerate() {
        for span in thread.spans.iter().filter(|span| span.clock == Clock::Device) {
            if let What::Op(number) = span.what {
                add(number, span.module, span.phase, Clock::Device, span.duration(), i == main);
            }
        }
    }
    kernels
}

/// `cpu`, or `cuda, its own clock`.
pub(super) fn clock_name(device: &str, clock: Clock) -> String {
    match clock {
        Clock::Host => device.to_owned(),
        Clock::Device => format!("{device}, its own clock"),
    }
}

/// Phases of the main thread, and of the others.
pub(super) fn phases(
    recording: &Recording,
    main: usize,
    kernels: &HashMap<u32, Sum>,
) -> (Vec<Phase>, Vec<Elsewhere>) {
    let of_thread = |thread: usize| -> Vec<Phase> {
        let mut order: Vec<u32> = Vec::new();
        let mut times: HashMap<u32, (u64, u64)> = HashMap::new();
        for span in &recording.threads[thread].spans {
            if let What::Phase(number) = span.what {
                let (calls, ns) = times.entry(number).or_insert_with(|| {
                    order.push(number);
                    (0, 0)
                });
                *calls += 1;
                *ns += span.duration();
            }
        }
        let path = |number: u32| recording.phases[number as usize].as_str();
        let phase = |&number: &u32| {
            let (calls, ns) = times[&number];
            let mut sum = Sum::default();
            if thread == main {
                let within = |&(other, _): &(&u32, &Sum)| is_within(path(*other), path(number));
                kernels.iter().filter(within).for_each(|(_, own)| sum.add(own));
            }
            Phase { path: path(number).to_owned(), calls, ns, kernels: sum }
        };
        let phases: Vec<Phase> = order.iter().map(phase).collect();
        in_tree_order(phases)
    };
    let mut phases = if recording.threads.is_empty() { Vec::new() } else { of_thread(main) };
    let top = phases.iter().filter(|phase| !phase.path.contains('/'));
    let inside: u64 = top.map(|phase| phase.ns).sum();
    let outside = (recording.end - recording.start).saturating_sub(inside);
    let kernels = kernels.get(&0).copied().unwrap_or_default();
    phases.push(Phase { path: String::new(), calls: 1, ns: outside, kernels });
    let elsewhere = (0..recording.threads.len())
        .filter(|&i| i != main)
        .map(|i| Elsewhere { thread: recording.threads[i].name.clone(), phases: of_thread(i) })
        .filter(|other| !other.phases.is_empty())
        .collect();
    (phases, elsewhere)
}

/// Whether the phase `path` is `outer` or in it.
fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Phases after the ones that they are in, siblings as they were.
fn in_tree_order(phases: Vec<Phase>) -> Vec<Phase> {
    let mut ordered: Vec<Phase> = Vec::with_capacity(phases.len());
    for phase in phases {
        let outer = phase.path.rsplit_once('/').map(|(outer, _)| outer);
        let last = outer.and_then(|outer| ordered.iter().rposition(|known| is_within(&known.path, outer)));
        match last {
            Some(last) => ordered.insert(last + 1, phase),
            None => ordered.push(phase),
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::trace::tests::invented;

    #[test]
    fn slices_add_up_to_the_whole() {
        let recording = invented();
        let slices = slices(&recording, 0);
        assert_eq!(slices.iter().map(|s| s.ns).sum::<u64>(), recording.end - recording.start);
        let kernels: u64 = slices.iter().filter(|s| s.op.is_some()).map(|s| s.ns).sum();
        let spans = recording.threads[0].spans.iter().filter(|s| is_op(s.what) && s.clock == Clock::Host);
        assert_eq!(kernels, spans.map(SpanRecord::duration).sum::<u64>());
    }

    #[test]
    fn a_span_that_outlives_the_one_around_it_is_cut() {
        let mut recording = invented();
        let last = recording.threads[0].spans.len() - 1;
        recording.threads[0].spans[last].end = recording.end + 1_000_000;
        let whole: u64 = slices(&recording, 0).iter().map(|s| s.ns).sum();
        assert_eq!(whole, recording.end - recording.start);
    }

    #[test]
    fn phases_stand_after_those_that_they_are_in() {
        let phase = |path: &str| Phase { path: path.into(), calls: 1, ns: 1, kernels: Sum::default() };
        let given = ["load", "forward", "backward", "forward/vision", "load/x", "forward/vision/y"];
        let ordered = in_tree_order(given.map(phase).into());
        let paths: Vec<_> = ordered.iter().map(|p| p.path.as_str()).collect();
        assert_eq!(paths, ["load", "load/x", "forward", "forward/vision", "forward/vision/y", "backward"]);
    }
}
