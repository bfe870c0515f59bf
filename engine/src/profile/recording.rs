//! What was recorded.

use crate::op::Cost;

/// Everything that a [`Recorder`](crate::profile::Recorder) saw. Times are nanoseconds since it was made.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Threads that entered a span or changed memory, in the order in which they first did.
    pub threads: Vec<Thread>,
    /// What [`What::Op`] counts.
    pub operations: Vec<Operation>,
    /// Paths by number; number 0, the empty one, is no module.
    pub modules: Vec<String>,
    /// Nested phases by number, as `forward/vision`; number 0, the empty one, is no phase.
    pub phases: Vec<String>,
    /// Tags and devices of [`Change`] by number.
    pub names: Vec<String>,
    /// When recording began: 0, or when the recording before was taken.
    pub start: u64,
    /// When it was taken.
    pub end: u64,
    /// Spans and changes of memory that came when there was no more room.
    pub dropped: u64,
}

/// What one thread did.
#[derive(Clone, Debug, Default)]
pub struct Thread {
    /// Its name.
    pub name: String,
    /// Its spans by their start; a span that contains others comes before them.
    pub spans: Vec<SpanRecord>,
    /// Its changes of memory by time.
    pub memory: Vec<Change>,
}

/// One application of an operation, by everything but its values; many spans share one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// [`Op::NAME`](crate::Op::NAME)
    pub name: String,
    /// Name of the backend.
    pub device: String,
    /// Element type of its first float input; empty if there is none.
    pub dtype: String,
    /// Shapes of inputs and outputs.
    pub shapes: String,
    /// Work, as the operation declares it.
    pub cost: Cost,
}

/// What a span is of, with its number in the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum What {
    /// A kernel.
    Op(u32),
    /// A module of a model.
    Module(u32),
    /// A part of a command.
    Phase(u32),
}

/// Which clock a span's times come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clock {
    /// The processor's, around the call.
    Host,
    /// The device's own, mapped to the same axis.
    Device,
}

/// A span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanRecord {
    /// What ran.
    pub what: What,
    /// The module around it; for a module, the one around that.
    pub module: u32,
    /// The innermost phase around it; for a phase, the one around that.
    pub phase: u32,
    /// When it began.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// Whose times these are.
    pub clock: Clock,
}

impl SpanRecord {
    /// Nanoseconds from start to end.
    pub fn duration(&self) -> u64 {
        self.end - self.start
    }
}

/// A storage came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: u64,
    /// Where: a number of [`Recording::names`].
    pub device: u32,
    /// Under which tag: a number of [`Recording::names`].
    pub tag: u32,
    /// How many bytes; negative if it went.
    pub bytes: i64,
}

impl Recording {
    /// The spans of all threads, thread by thread.
    pub fn spans(&self) -> impl Iterator<Item = SpanRecord> {
        self.threads.iter().flat_map(|thread| thread.spans.iter().copied())
    }

    /// The operation of a span that is one.
    pub fn operation(&self, span: &SpanRecord) -> Option<&Operation> {
        match span.what {
            What::Op(number) => self.operations.get(number as usize),
            _ => None,
        }
    }

    /// Path of the module around a span; empty if there is none.
    pub fn module(&self, span: &SpanRecord) -> &str {
        text(&self.modules, span.module)
    }

    /// The phase around a span, as `forward/vision`; empty if there is none.
    pub fn phase(&self, span: &SpanRecord) -> &str {
        text(&self.phases, span.phase)
    }

    /// What a span is called: the name of the operation, the path of the module, the last part of the phase.
    pub fn name(&self, span: &SpanRecord) -> &str {
        match span.what {
            What::Op(number) => self.operations.get(number as usize).map_or("", |op| &op.name),
            What::Module(number) => text(&self.modules, number),
            What::Phase(number) => {
                let path = text(&self.phases, number);
                path.rsplit('/').next().unwrap_or(path)
            }
        }
    }

    /// The changes of memory of all threads by time.
    pub fn memory(&self) -> Vec<Change> {
        let mut all: Vec<Change> = self.threads.iter().flat_map(|t| t.memory.iter().copied()).collect();
        all.sort_by_key(|change| change.at);
        all
    }
}

fn text(texts: &[String], number: u32) -> &str {
    texts.get(number as usize).map_or("", String::as_str)
}
