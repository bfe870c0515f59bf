//! A recording in the trace event format (Google, "Trace Event Format", 2016), which Perfetto and `chrome://tracing` open.

use std::io::{self, Write};

use engine::profile::{Clock, Recording, SpanRecord, Thread, What};
use serde_json::{Value, json, to_string};

use super::account::main_thread;
use super::memory::Timeline;

/// The process in the file; there is one.
const PID: u32 = 1;
/// Moments of memory that the file gets at most.
const MOMENTS: u64 = 50_000;
/// Threads of the file beyond this one are devices.
const DEVICES: usize = 1000;

/// Writes `recording` as a JSON object: complete events ("X") for spans, counters ("C") for memory, names ("M").
///
/// # Errors
/// If `out` cannot be written.
pub fn write_trace(recording: &Recording, title: &str, out: &mut impl Write) -> io::Result<()> {
    let mut events = Events { out, first: true };
    write!(
        events.out,
        "{{\"displayTimeUnit\":\"ms\",\"otherData\":{},\"traceEvents\":[",
        json!({ "command": title })
    )?;
    events.metadata("process_name", 0, &json!({ "name": format!("roentgen: {title}") }))?;
    let main = main_thread(recording);
    let devices = devices(recording);
    for (i, thread) in recording.threads.iter().enumerate() {
        events.metadata("thread_name", i + 1, &json!({ "name": thread.name }))?;
        let order = if i == main { 0 } else { i + 1 };
        events.metadata("thread_sort_index", i + 1, &json!({ "sort_index": order }))?;
    }
    for (i, device) in devices.iter().enumerate() {
        let tid = DEVICES + i;
        events.metadata("thread_name", tid, &json!({ "name": format!("{device} (its own clock)") }))?;
    }
    // What events of one definition have in common is spelled out once.
    let arguments: Vec<String> = recording.operations.iter().map(arguments).collect();
    let modules: Vec<String> = recording.modules.iter().map(|m| quoted(m)).collect();
    let phases: Vec<String> = recording.phases.iter().map(|p| quoted(p)).collect();
    for (i, thread) in recording.threads.iter().enumerate() {
        for span in thread.spans.iter().filter(|span| span.clock == Clock::Host) {
            let place = [&modules[span.module as usize], &phases[span.phase as usize]];
            events.span(recording, span, i + 1, &arguments, place)?;
        }
    }
    for (i, device) in devices.iter().enumerate() {
        let mut spans: Vec<&SpanRecord> =
            recording.threads.iter().flat_map(|thread| of_device(recording, thread, device)).collect();
        spans.sort_by_key(|span| span.start);
        for span in spans {
            let place = [&modules[span.module as usize], &phases[span.phase as usize]];
            events.span(recording, span, DEVICES + i, &arguments, place)?;
        }
    }
    let memory = Timeline::new(recording, main, MOMENTS);
    for moment in memory.moments.iter().filter(|_| !memory.tags.is_empty()) {
        let tags = memory.tags.iter().zip(&moment.bytes);
        let args: serde_json::Map<String, Value> =
            tags.map(|(tag, bytes)| (tag.clone(), json!(bytes))).collect();
        let at = micros(moment.at);
        events.push(&format!(
            "{{\"ph\":\"C\",\"name\":\"memory\",\"pid\":{PID},\"tid\":0,\"ts\":{at},\"args\":{}}}",
            Value::Object(args)
        ))?;
    }
    writeln!(events.out, "\n]}}")
}

struct Events<'a, W> {
    out: &'a mut W,
    first: bool,
}

impl<W: Write> Events<'_, W> {
    fn push(&mut self, event: &str) -> io::Result<()> {
        let separator = if self.first { "\n" } else { ",\n" };
        self.first = false;
        write!(self.out, "{separator}{event}")
    }

    fn metadata(&mut self, name: &str, tid: usize, args: &Value) -> io::Result<()> {
        self.push(&format!(
            "{{\"ph\":\"M\",\"name\":\"{name}\",\"pid\":{PID},\"tid\":{tid},\"args\":{args}}}"
        ))
    }

    fn span(
        &mut self,
        recording: &Recording,
        span: &SpanRecord,
        tid: usize,
        arguments: &[String],
        [module, phase]: [&String; 2],
    ) -> io::Result<()> {
        let (category, own) = match span.what {
            What::Op(number) => ("op", arguments[number as usize].as_str()),
            What::Module(_) => ("module", ""),
            What::Phase(_) => ("phase", ""),
        };
        let name = quoted(recording.name(span));
        let (ts, dur) = (micros(span.start - recording.start), micros(span.duration()));
        let place = match span.what {
            What::Op(_) => format!("\"module\":{module},\"phase\":{phase},"),
            _ => String::new(),
        };
        let clock = match span.clock {
            Clock::Host => "host",
            Clock::Device => "device",
        };
        self.push(&format!(
            "{{\"ph\":\"X\",\"cat\":\"{category}\",\"name\":{name},\"pid\":{PID},\"tid\":{tid},\"ts\":{ts},\"dur\":{dur},\"args\":{{{place}{own}\"clock\":\"{clock}\"}}}}"
        ))
    }
}

/// The members of an operation's arguments, each with a comma.
fn arguments(op: &engine::profile::Operation) -> String {
    format!(
        "\"shapes\":{},\"device\":{},\"flops\":{},\"bytes_read\":{},\"bytes_written\":{},",
        quoted(&op.shapes),
        quoted(&op.device),
        op.cost.flops,
        op.cost.read,
        op.cost.written
    )
}

/// A JSON string.
fn quoted(text: &str) -> String {
    to_string(text).unwrap_or_else(|_| "\"\"".into())
}

/// Nanoseconds as microseconds, the unit of the format, without rounding.
fn micros(ns: u64) -> String {
    format!("{}.{:03}", ns / 1000, ns % 1000)
}

/// Devices that gave their own times.
fn devices(recording: &Recording) -> Vec<String> {
    let mut names: Vec<String> = recording
        .spans()
        .filter(|span| span.clock == Clock::Device)
        .filter_map(|span| recording.operation(&span).map(|op| op.device.clone()))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn of_device<'a>(
    recording: &'a Recording,
    thread: &'a Thread,
    device: &'a str,
) -> impl Iterator<Item = &'a SpanRecord> {
    thread.spans.iter().filter(move |span| {
        span.clock == Clock::Device && recording.operation(span).is_some_and(|op| op.device == device)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use engine::profile::{Change, Operation};

    /// Two phases, modules in each other, kernels in and between them; a second thread; a device's own times.
    pub(crate) fn invented() -> Recording {
        let texts = |all: &[&str]| all.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        let span = |what, module, phase, start, end| SpanRecord {
            what,
            module,
            phase,
            start,
            end,
            clock: Clock::Host,
        };
        let op = |name: &str, device: &str| Operation {
            name: name.into(),
            device: device.into(),
            dtype: "f32".into(),
            shapes: "f32[2,\"2\"] -> f32[2]".into(),
            cost: engine::Cost { flops: 1000, read: 64, written: 8 },
        };
        let main = vec![
            span(What::Phase(1), 0, 0, 1_000, 50_000),
            span(What::Op(1), 0, 1, 1_500, 2_000),
            span(What::Module(1), 0, 1, 3_000, 40_000),
            span(What::Module(2), 1, 1, 3_000, 30_000),
            span(What::Op(0), 2, 1, 4_000, 20_000),
            span(What::Op(1), 2, 1, 20_000, 30_000),
            span(What::Op(0), 1, 1, 31_001, 39_999),
            span(What::Phase(2), 0, 0, 60_000, 90_000),
            span(What::Phase(3), 0, 2, 61_000, 80_000),
            span(What::Op(0), 2, 3, 62_000, 79_000),
        ];
        let second = vec![
            span(What::Phase(4), 0, 0, 100, 200),
            SpanRecord { clock: Clock::Device, ..span(What::Op(2), 2, 1, 5_000, 6_000) },
        ];
        let change = |at, bytes| Change { at, device: 1, tag: 2, bytes };
        let memory = vec![change(10, 100), change(20, 50), change(70_000, -100)];
        Recording {
            threads: vec![
                Thread { name: "main".into(), spans: main, memory },
                Thread { name: "second".into(), spans: second, memory: Vec::new() },
            ],
            operations: vec![op("matmul", "cpu"), op("cast", "cpu"), op("matmul", "gpu")],
            modules: texts(&["", "model", "model.layers.3"]),
            phases: texts(&["", "forward", "backward", "backward/vision", "image"]),
            names: texts(&["", "cpu", "weights"]),
            start: 0,
            end: 100_000,
            dropped: 0,
        }
    }

    /// What the format asks of a file, and what this program promises of its own.
    pub(crate) fn check(trace: &Value) {
        let events = trace["traceEvents"].as_array().expect("an array of events");
        let mut last = std::collections::HashMap::new();
        let mut open: std::collections::HashMap<u64, Vec<f64>> = std::collections::HashMap::new();
        let mut names = std::collections::HashSet::new();
        for event in events {
            let (phase, tid) = (event["ph"].as_str().unwrap(), event["tid"].as_u64().unwrap());
            assert!(
                event["name"].is_string() && event["pid"].is_u64() && event["args"].is_object(),
                "{event}"
            );
            match phase {
                "M" => {
                    names.insert((event["name"].as_str().unwrap().to_owned(), tid));
                    continue;
                }
                "X" => {
                    let (start, duration) = (event["ts"].as_f64().unwrap(), event["dur"].as_f64().unwrap());
                    assert!(start >= 0.0 && duration >= 0.0 && event["cat"].is_string(), "{event}");
                    assert!(names.contains(&("thread_name".to_owned(), tid)), "a name of thread {tid}");
                    let stack = open.entry(tid).or_default();
                    while stack.last().is_some_and(|&end| end <= start + 1e-9) {
                        stack.pop();
                    }
                    let end = start + duration;
                    assert!(stack.last().is_none_or(|&around| end <= around + 1e-6), "{event} does not nest");
                    stack.push(end);
                }
                "C" => {
                    let args = event["args"].as_object().unwrap();
                    assert!(!args.is_empty() && args.values().all(Value::is_number), "{event}");
                }
                other => panic!("an event of the kind {other}"),
            }
            let at = event["ts"].as_f64().unwrap();
            let before = last.insert((phase.to_owned(), tid), at).unwrap_or(0.0);
            assert!(at >= before, "{event} is not in order");
        }
        assert!(names.contains(&("process_name".to_owned(), 0)));
    }

    fn written(recording: &Recording) -> Value {
        let mut bytes = Vec::new();
        write_trace(recording, "a \"command\"", &mut bytes).unwrap();
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn the_file_is_what_the_format_asks_for() {
        let recording = invented();
        let trace = written(&recording);
        check(&trace);
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |phase: &str| events.iter().filter(|e| e["ph"] == phase).count();
        assert_eq!(of("X"), recording.spans().count());
        assert_eq!(of("C"), 4 + 1, "three changes, begin and end");
        let kernel = events.iter().find(|e| e["cat"] == "op" && e["ts"].as_f64() == Some(4.0)).unwrap();
        assert_eq!(kernel["dur"].as_f64(), Some(16.0));
        assert_eq!(kernel["args"]["module"], "model.layers.3");
        assert_eq!((&kernel["args"]["phase"], &kernel["args"]["flops"]), (&json!("forward"), &json!(1000)));
        let device = events.iter().find(|e| e["args"]["clock"] == "device").unwrap();
        assert_eq!(device["tid"], DEVICES);
    }

    #[test]
    fn an_empty_recording_is_a_file_too() {
        check(&written(&Recording { end: 10, ..Recording::default() }));
    }
}
