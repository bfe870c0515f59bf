//! The subscriber that keeps spans and changes of memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, SetGlobalDefaultError, Subscriber};
use tracing::{Dispatch, Event, Metadata};
use tracing_core::span::Current;

use crate::profile::fields::{Key, Texts, Times, Whole};
use crate::profile::inner::Inner;
use crate::profile::intern::{Tables, mix};
use crate::profile::local::{
    self, Ended, Local, Log, MOST_MODULES, MOST_OPERATIONS, MOST_PHASES, SpanId, lock,
};
use crate::profile::recording::{Change, Clock, Recording, Thread};
use crate::profile::ticks::{Axis, Scale};
use crate::profile::{DEVICE, MEMORY, MODULE, OP, PHASE};

/// Keeps spans and changes of memory until they are [taken](Self::take). Clones are the same recorder.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

struct Shared {
    number: u64,
    axis: Axis,
    /// Spans, and as many changes of memory, kept of each thread.
    room: usize,
    dropped: AtomicU64,
    /// When the recording before was taken.
    since: AtomicU64,
    tables: Mutex<Tables>,
    logs: Mutex<Vec<Arc<Mutex<Log>>>>,
    /// Of the spans of operations, modules and phases.
    metadata: [OnceLock<&'static Metadata<'static>>; 3],
    inner: Option<Inner>,
}

/// What a callsite is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Op = 0,
    Module = 1,
    Phase = 2,
    Memory,
    Device,
    Other,
}

impl Kind {
    #[inline]
    fn of(metadata: &Metadata<'_>) -> Self {
        match metadata.target() {
            OP => Self::Op,
            MODULE => Self::Module,
            PHASE => Self::Phase,
            MEMORY => Self::Memory,
            DEVICE => Self::Device,
            _ => Self::Other,
        }
    }
}

/// As many spans of a thread are kept unless [`Recorder::with_room`] says otherwise: 64 MB.
const ROOM: usize = 2_000_000;

impl Default for Recorder {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl Recorder {
    /// An empty recorder; its axis of time begins now.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Self::new`], with room for as many spans, and as many changes of memory, of each thread (32 bytes each).
    /// What comes when there is no more room is counted ([`Recording::dropped`]).
    pub fn with_room(room: usize) -> Self {
        Self::build(room, None)
    }

    /// As [`Self::with_room`], for programs that have another subscriber: it gets everything that has another target
    /// than the recorder's, log lines for instance.
    pub fn in_front_of(inner: impl Subscriber + Send + Sync + 'static, room: usize) -> Self {
        Self::build(room, Some(Inner::new(inner)))
    }

    fn build(room: usize, inner: Option<Inner>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(Arc::new(Shared {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            axis: Axis::new(),
            room,
            dropped: AtomicU64::new(0),
            since: AtomicU64::new(0),
            tables: Mutex::new(Tables::new(MOST_MODULES, MOST_PHASES)),
            logs: Mutex::default(),
            metadata: [const { OnceLock::new() }; 3],
            inner,
        }))
    }

    /// Listens to all threads from now on.
    ///
    /// # Errors
    /// If the process has a subscriber already.
    pub fn install(&self) -> Result<(), SetGlobalDefaultError> {
        tracing::subscriber::set_global_default(self.clone())
    }

    /// Runs `f` and listens to this thread meanwhile.
    pub fn record<R>(&self, f: impl FnOnce() -> R) -> R {
        /// Callsites remember that somebody listened until they are told to ask again.
        struct Quiet;
        impl Drop for Quiet {
            fn drop(&mut self) {
                tracing_core::callsite::rebuild_interest_cache();
            }
        }
        let _quiet = Quiet;
        tracing::subscriber::with_default(self.clone(), f)
    }

    /// Nanoseconds since the recorder was made.
    #[inline]
    pub fn now(&self) -> u64 {
        self.0.axis.nanoseconds()
    }

    /// Takes what was recorded since the last time. Phases that have not ended end here; other open spans are part of
    /// the next recording.
    pub fn take(&self) -> Recording {
        // What other threads have not handed in yet comes with the next recording: a few spans of each that is in the
        // middle of some.
        self.lose(local::with_known(self.0.number, |local| local.flush(self.0.room)).unwrap_or(0));
        let end = self.now();
        let start = self.0.since.swap(end, Ordering::Relaxed);
        let scale = self.0.axis.scale();
        let threads =
            lock(&self.0.logs).iter().map(|log| thread(&mut lock(log), start, end, scale)).collect();
        let tables = lock(&self.0.tables);
        Recording {
            threads,
            operations: tables.operations.clone(),
            modules: tables.modules.all(),
            phases: tables.phases.all(),
            names: tables.names.all(),
            start,
            end,
            dropped: self.0.dropped.swap(0, Ordering::Relaxed),
        }
    }

    #[inline]
    fn local<R>(&self, f: impl FnOnce(&mut Local) -> R) -> Option<R> {
        local::with(self.0.number, || self.enroll(), f)
    }

    fn enroll(&self) -> Arc<Mutex<Log>> {
        let name = std::thread::current().name().unwrap_or("unnamed").to_owned();
        let log = Arc::new(Mutex::new(Log { name, ..Log::default() }));
        lock(&self.0.logs).push(log.clone());
        log
    }

    /// Counts what there was no room for.
    #[inline]
    fn lose(&self, lost: u64) {
        if lost > 0 {
            self.0.dropped.fetch_add(lost, Ordering::Relaxed);
        }
    }

    fn operation(&self, local: &mut Local, span: &Attributes<'_>) -> SpanId {
        let mut key = Key::default();
        span.record(&mut key);
        let number = match local.operations.get(&key.0) {
            Some(&number) => number,
            None => self.define(local, key.0, span),
        };
        SpanId::Op { number, module: local.module, phase: local.phase }
    }

    #[cold]
    fn define(&self, local: &mut Local, key: u64, span: &Attributes<'_>) -> u32 {
        let mut tables = lock(&self.0.tables);
        let next = tables.operations.len().min(MOST_OPERATIONS - 1) as u32;
        let number = *tables.operation_numbers.entry(key).or_insert(next);
        if number as usize == tables.operations.len() {
            let mut whole = Whole::default();
            span.record(&mut whole);
            tables.operations.push(whole.0);
        }
        local.operations.insert(key, number);
        number
    }

    fn module(&self, local: &mut Local, span: &Attributes<'_>) -> SpanId {
        let mut number = 0;
        let on_text = |path: &str| {
            let key = mix(0, path.as_bytes());
            number = local.modules.get(&key).copied().unwrap_or_else(|| {
                let number = lock(&self.0.tables).modules.number(path);
                local.modules.insert(key, number);
                number
            });
        };
        span.record(&mut Texts { on_text, number: 0 });
        SpanId::Module(number)
    }

    fn phase(&self, local: &Local, span: &Attributes<'_>) -> SpanId {
        let mut number = 0;
        let on_text = |name: &str| {
            let mut tables = lock(&self.0.tables);
            let path = match tables.phases.get(local.phase) {
                "" => name.to_owned(),
                outer => format!("{outer}/{name}"),
            };
            number = tables.phases.number(&path);
        };
        span.record(&mut Texts { on_text, number: 0 });
        SpanId::Phase(number)
    }

    /// A change of memory.
    #[inline]
    fn memory(&self, event: &Event<'_>) {
        let lost = self.local(|local| {
            let mut names = [0; 2];
            let mut slots = names.iter_mut();
            let on_text = |text: &str| {
                if let Some(slot) = slots.next() {
                    *slot = local.name(text, || lock(&self.0.tables).names.number(text));
                }
            };
            let mut texts = Texts { on_text, number: 0 };
            event.record(&mut texts);
            let bytes = texts.number;
            local.memory(|| self.0.axis.ticks(), names, bytes, self.0.room)
        });
        self.lose(lost.unwrap_or(0));
    }

    /// When a device ran the parent of this event.
    fn device(&self, event: &Event<'_>) {
        let Some(id) = event.parent().map(Id::into_u64) else { return };
        let mut times = Times::default();
        event.record(&mut times);
        let (start, end) = (times.start, times.end.max(times.start));
        let kept = self.local(|local| {
            let mut log = lock(&local.log);
            let room = log.device.len() < self.0.room;
            if room {
                log.device.push(Ended { id, module: 0, phase: 0, start, end });
            }
            room
        });
        self.lose(u64::from(kept == Some(false)));
    }
}

/// What a thread has, in order; phases that are open end at `end`, and what was open before begins at `start`.
fn thread(log: &mut Log, start: u64, end: u64, scale: Scale) -> Thread {
    let timed = |span: Ended| Ended {
        start: scale.nanoseconds(span.start),
        end: scale.nanoseconds(span.end).min(end),
        ..span
    };
    let open: Vec<Ended> = log.phases.iter().rev().map(|phase| Ended { end, ..timed(*phase) }).collect();
    let host = log.spans.take().map(timed).chain(open).map(|span| (span, Clock::Host));
    let device = log.device.take().map(|span| (span, Clock::Device));
    let mut spans: Vec<_> = host.chain(device).filter_map(|(span, clock)| span.record(clock)).collect();
    for span in &mut spans {
        span.start = span.start.clamp(start, span.end.max(start));
    }
    // A span ends after those in it, so among equals the later one is the outer one.
    spans.reverse();
    spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
    let memory =
        log.memory.take().map(|change| Change { at: scale.nanoseconds(change.at).min(end), ..change });
    Thread { name: log.name.clone(), spans, memory: memory.collect() }
}

impl Subscriber for Recorder {
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        if let Some(inner) = &self.0.inner {
            inner.registered(dispatch);
        }
    }

    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match (Kind::of(metadata), &self.0.inner) {
            (Kind::Other, Some(inner)) => inner.interest(metadata),
            (Kind::Other, None) => Interest::never(),
            _ => Interest::always(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        match Kind::of(metadata) {
            Kind::Other => self.0.inner.as_ref().is_some_and(|inner| inner.enabled(metadata)),
            _ => true,
        }
    }

    #[inline]
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let kind = Kind::of(span.metadata());
        let id = match (kind, &self.0.inner) {
            (Kind::Op, _) => self.local(|local| self.operation(local, span).pack()),
            (Kind::Module, _) => self.local(|local| self.module(local, span).pack()),
            (Kind::Phase, _) => self.local(|local| self.phase(local, span).pack()),
            (_, Some(inner)) => Some(inner.new_span(span)),
            (_, None) => None,
        };
        if let Some(known) = self.0.metadata.get(kind as usize) {
            known.get_or_init(|| span.metadata());
        }
        // A thread that is being torn down: the id of a span that nothing is kept of.
        Id::from_u64(id.unwrap_or((1 << 62) - 1))
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        if let (SpanId::Other, Some(inner)) = (SpanId::unpack(id.into_u64()), &self.0.inner) {
            inner.record(id, values);
        }
    }

    fn record_follows_from(&self, id: &Id, follows: &Id) {
        if let (SpanId::Other, Some(inner)) = (SpanId::unpack(id.into_u64()), &self.0.inner) {
            inner.follows(id, follows);
        }
    }

    fn event(&self, event: &Event<'_>) {
        match (Kind::of(event.metadata()), &self.0.inner) {
            (Kind::Memory, _) => self.memory(event),
            (Kind::Device, _) => self.device(event),
            (Kind::Other, Some(inner)) => inner.event(event),
            _ => {}
        }
    }

    #[inline]
    fn enter(&self, id: &Id) {
        let now = self.0.axis.ticks();
        self.local(|local| local.enter(id.into_u64(), now));
        if let (SpanId::Other, Some(inner)) = (SpanId::unpack(id.into_u64()), &self.0.inner) {
            inner.enter(id);
        }
    }

    #[inline]
    fn exit(&self, id: &Id) {
        let now = self.0.axis.ticks();
        self.lose(self.local(|local| local.exit(id.into_u64(), now, self.0.room)).unwrap_or(0));
        if let (SpanId::Other, Some(inner)) = (SpanId::unpack(id.into_u64()), &self.0.inner) {
            inner.exit(id);
        }
    }

    fn clone_span(&self, id: &Id) -> Id {
        if let (SpanId::Other, Some(inner)) = (SpanId::unpack(id.into_u64()), &self.0.inner) {
            inner.clone_span(id);
        }
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        match (SpanId::unpack(id.into_u64()), &self.0.inner) {
            (SpanId::Other, Some(inner)) => inner.try_close(&id),
            _ => false,
        }
    }

    fn current_span(&self) -> Current {
        let Some(number) = self.local(|local| local.current()).flatten() else { return Current::none() };
        let id = Id::from_u64(number);
        let kind = match SpanId::unpack(number) {
            SpanId::Op { .. } => Kind::Op,
            SpanId::Module(_) => Kind::Module,
            SpanId::Phase(_) => Kind::Phase,
            SpanId::Other => {
                return self.0.inner.as_ref().map_or_else(Current::none, |inner| inner.current(&id));
            }
        };
        let known = self.0.metadata[kind as usize].get();
        known.map_or_else(Current::none, |metadata| Current::new(id, metadata))
    }
}
