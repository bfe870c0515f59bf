//! What a recorder keeps for each thread.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::profile::intern::Map;
use crate::profile::recording::{Change, Clock, SpanRecord, What};

/// A span as an id of `tracing`: what it is, and for an operation where it is, in one word. Equal spans have equal ids,
/// which `tracing` allows, so that nothing is kept of a span between its making and its end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SpanId {
    /// Of another target: a number of [`crate::profile::inner::Inner`].
    Other,
    Op {
        number: u32,
        module: u32,
        phase: u32,
    },
    Module(u32),
    Phase(u32),
}

const PHASE_BITS: u32 = 12;
const MODULE_BITS: u32 = 22;
/// Most phases and modules that an id has room for.
pub(super) const MOST_PHASES: usize = 1 << PHASE_BITS;
pub(super) const MOST_MODULES: usize = 1 << MODULE_BITS;
/// Most operations.
pub(super) const MOST_OPERATIONS: usize = 1 << (62 - PHASE_BITS - MODULE_BITS);

impl SpanId {
    pub(super) fn pack(self) -> u64 {
        match self {
            Self::Other => 0,
            Self::Op { number, module, phase } => {
                1 << 62
                    | u64::from(number) << (PHASE_BITS + MODULE_BITS)
                    | u64::from(module) << PHASE_BITS
                    | u64::from(phase)
            }
            Self::Module(path) => 2 << 62 | u64::from(path),
            Self::Phase(name) => 3 << 62 | u64::from(name),
        }
    }

    pub(super) fn unpack(id: u64) -> Self {
        let body = id & !(3 << 62);
        let bits = |from: u32, many: u32| (body >> from & ((1 << many) - 1)) as u32;
        match id >> 62 {
            1 => Self::Op {
                number: (body >> (PHASE_BITS + MODULE_BITS)) as u32,
                module: bits(PHASE_BITS, MODULE_BITS),
                phase: bits(0, PHASE_BITS),
            },
            2 => Self::Module(body as u32),
            3 => Self::Phase(body as u32),
            _ => Self::Other,
        }
    }
}

/// A span that has ended.
#[derive(Clone, Copy)]
pub(super) struct Ended {
    pub(super) id: u64,
    pub(super) module: u32,
    pub(super) phase: u32,
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Ended {
    pub(super) fn record(&self, clock: Clock) -> Option<SpanRecord> {
        let (what, module, phase) = match SpanId::unpack(self.id) {
            SpanId::Op { number, module, phase } => (What::Op(number), module, phase),
            SpanId::Module(path) => (What::Module(path), self.module, self.phase),
            SpanId::Phase(name) => (What::Phase(name), self.module, self.phase),
            SpanId::Other => return None,
        };
        Some(SpanRecord { what, module, phase, start: self.start, end: self.end, clock })
    }
}

/// A span that was entered and not left.
struct Open {
    id: u64,
    start: u64,
    /// Around it.
    module: u32,
    phase: u32,
}

/// A list that grows without moving what is in it.
pub(super) struct Chunks<T> {
    full: Vec<Vec<T>>,
    last: Vec<T>,
}

const CHUNK: usize = 4096;

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { full: Vec::new(), last: Vec::new() }
    }
}

impl<T> Chunks<T> {
    pub(super) fn len(&self) -> usize {
        self.full.len() * CHUNK + self.last.len()
    }

    #[inline]
    pub(super) fn push(&mut self, item: T) {
        if self.last.len() == self.last.capacity() {
            self.grow();
        }
        self.last.push(item);
    }

    #[cold]
    fn grow(&mut self) {
        let full = std::mem::replace(&mut self.last, Vec::with_capacity(CHUNK));
        if !full.is_empty() {
            self.full.push(full);
        }
    }

    /// Everything, in order.
    pub(super) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        let all = std::mem::take(self);
        all.full.into_iter().flatten().chain(all.last)
    }
}

/// What a thread shares with whoever takes the recording.
#[derive(Default)]
pub(super) struct Log {
    pub(super) name: String,
    pub(super) spans: Chunks<Ended>,
    /// By the device's clock.
    pub(super) device: Chunks<Ended>,
    pub(super) memory: Chunks<Change>,
    /// Phases that the thread is in: they are shown even if the recording is taken before their end.
    pub(super) phases: Vec<Ended>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a thread keeps for itself.
pub(super) struct Local {
    recorder: u64,
    pub(super) log: Arc<Mutex<Log>>,
    stack: Vec<Open>,
    /// The module and phase that the thread is in.
    pub(super) module: u32,
    pub(super) phase: u32,
    /// Numbers that were asked of the recorder before.
    pub(super) operations: Map<u64, u32>,
    /// By the hash of their paths: comparing texts that the weights have driven out of the cache would cost more than the
    /// rest of a span, and 64 bits do not meet by chance.
    pub(super) modules: Map<u64, u32>,
    /// Devices and tags of memory, a handful, by place and length of their texts, which live as long as the program.
    names: Vec<([usize; 2], u32)>,
    /// The last time that was read, and how many changes of memory have been given it.
    last: u64,
    given: u32,
    /// What is on its way to the log: it goes when the outermost span ends, or when it is much or old.
    spans: Vec<Ended>,
    changes: Vec<Change>,
}

/// So many changes of memory may have the time of the span that began or ended before them. An operation makes a few
/// tensors beside its span; reading the clock for each would double the cost of recording.
const GIVEN: u32 = 6;
/// Most names that a thread remembers.
const NAMES: usize = 64;
/// So many spans or changes go to the log at once, under one lock.
const PENDING: usize = 64;
/// Or when a span that began so many ticks ago has ended, some milliseconds: kernels that long do not mind.
const OLD: u64 = 1 << 24;

thread_local! {
    /// One for each recorder that has listened to this thread; hardly ever more than one.
    static LOCALS: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on what this thread keeps for the recorder number `recorder`; `log` makes its shared part at first. `None`
/// while the thread is being torn down.
#[inline]
pub(super) fn with<R>(
    recorder: u64,
    log: impl FnOnce() -> Arc<Mutex<Log>>,
    f: impl FnOnce(&mut Local) -> R,
) -> Option<R> {
    let run = |locals: &RefCell<Vec<Local>>| {
        let mut locals = locals.try_borrow_mut().ok()?;
        let at = match locals.iter().position(|local| local.recorder == recorder) {
            Some(at) => at,
            None => enroll(&mut locals, recorder, log()),
        };
        Some(f(&mut locals[at]))
    };
    LOCALS.try_with(run).ok().flatten()
}

/// As [`with`], for a thread that the recorder has listened to.
pub(super) fn with_known<R>(recorder: u64, f: impl FnOnce(&mut Local) -> R) -> Option<R> {
    let run = |locals: &RefCell<Vec<Local>>| {
        let mut locals = locals.try_borrow_mut().ok()?;
        locals.iter_mut().find(|local| local.recorder == recorder).map(f)
    };
    LOCALS.try_with(run).ok().flatten()
}

#[cold]
fn enroll(locals: &mut Vec<Local>, recorder: u64, log: Arc<Mutex<Log>>) -> usize {
    // Logs of recorders that are gone.
    locals.retain(|local| Arc::strong_count(&local.log) > 1);
    locals.push(Local {
        recorder,
        log,
        stack: Vec::new(),
        module: 0,
        phase: 0,
        operations: Map::default(),
        modules: Map::default(),
        names: Vec::new(),
        last: 0,
        given: GIVEN,
        spans: Vec::with_capacity(PENDING),
        changes: Vec::with_capacity(PENDING),
    });
    locals.len() - 1
}

impl Local {
    /// The number of a name; `ask` is for one that was never seen at this place.
    #[inline]
    pub(super) fn name(&mut self, text: &str, ask: impl FnOnce() -> u32) -> u32 {
        let place = [text.as_ptr().addr(), text.len()];
        match self.names.iter().find(|known| known.0 == place) {
            Some(known) => known.1,
            None => self.learn(place, ask()),
        }
    }

    #[cold]
    fn learn(&mut self, place: [usize; 2], number: u32) -> u32 {
        if self.names.len() < NAMES {
            self.names.push((place, number));
        }
        number
    }

    /// A change of memory; `now` reads the clock. Returns how many found no room.
    #[inline]
    pub(super) fn memory(
        &mut self,
        now: impl FnOnce() -> u64,
        [device, tag]: [u32; 2],
        bytes: i64,
        room: usize,
    ) -> u64 {
        if self.given >= GIVEN {
            self.stamp(now());
        }
        self.given += 1;
        self.changes.push(Change { at: self.last, device, tag, bytes });
        self.hand_in(room)
    }

    /// Gives the log what is on its way there, if it is time. Returns how much found no room.
    #[inline]
    fn hand_in(&mut self, room: usize) -> u64 {
        let much = self.spans.len() >= PENDING || self.changes.len() >= PENDING;
        let old = self.spans.first().is_some_and(|span| self.last.saturating_sub(span.start) > OLD);
        if much || old || self.stack.is_empty() { self.flush(room) } else { 0 }
    }

    /// Gives the log what is on its way there. Returns how much found no room.
    pub(super) fn flush(&mut self, room: usize) -> u64 {
        let mut log = lock(&self.log);
        let spans = append(&mut self.spans, &mut log.spans, room);
        spans + append(&mut self.changes, &mut log.memory, room)
    }

    #[inline]
    fn stamp(&mut self, now: u64) {
        (self.last, self.given) = (now, 0);
    }

    #[inline]
    pub(super) fn enter(&mut self, id: u64, now: u64) {
        self.stamp(now);
        self.stack.push(Open { id, start: now, module: self.module, phase: self.phase });
        match SpanId::unpack(id) {
            SpanId::Module(path) => self.module = path,
            SpanId::Phase(name) => {
                self.phase = name;
                let open = Ended { id, module: self.module, phase: self.stack_top().1, start: now, end: now };
                lock(&self.log).phases.push(open);
            }
            SpanId::Op { .. } | SpanId::Other => {}
        }
    }

    /// Module and phase around the innermost span.
    fn stack_top(&self) -> (u32, u32) {
        self.stack.last().map_or((0, 0), |open| (open.module, open.phase))
    }

    /// Ends the innermost span `id`; returns for how much there was no room. Spans may end in another order than that
    /// of their beginning.
    #[inline]
    pub(super) fn exit(&mut self, id: u64, now: u64, room: usize) -> u64 {
        self.stamp(now);
        let Some(at) = self.stack.iter().rposition(|open| open.id == id) else { return 0 };
        let open = self.stack.remove(at);
        match SpanId::unpack(id) {
            SpanId::Other => return self.hand_in(room),
            SpanId::Module(_) => self.module = open.module,
            SpanId::Phase(_) => {
                self.phase = open.phase;
                let mut log = lock(&self.log);
                if let Some(at) = log.phases.iter().rposition(|phase| phase.id == id) {
                    log.phases.remove(at);
                }
            }
            SpanId::Op { .. } => {}
        }
        self.spans.push(Ended { id, module: open.module, phase: open.phase, start: open.start, end: now });
        self.hand_in(room)
    }

    /// The innermost span.
    pub(super) fn current(&self) -> Option<u64> {
        self.stack.last().map(|open| open.id)
    }
}

impl Drop for Local {
    /// The thread ends; this little is kept even if there is no room.
    fn drop(&mut self) {
        self.flush(usize::MAX);
    }
}

/// Moves what there is room for; returns how much there was none for.
fn append<T: Copy>(from: &mut Vec<T>, to: &mut Chunks<T>, room: usize) -> u64 {
    let fit = from.len().min(room.saturating_sub(to.len()));
    from.iter().take(fit).for_each(|&item| to.push(item));
    let lost = from.len() - fit;
    from.clear();
    lost as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_keep_order() {
        let mut chunks = Chunks::default();
        (0..2 * CHUNK + 5).for_each(|i| chunks.push(i));
        assert_eq!(chunks.len(), 2 * CHUNK + 5);
        assert!(chunks.take().eq(0..2 * CHUNK + 5));
        assert_eq!(chunks.len(), 0);
    }

    #[test]
    fn ids_hold_what_was_put_in() {
        let largest = SpanId::Op {
            number: (MOST_OPERATIONS - 1) as u32,
            module: (MOST_MODULES - 1) as u32,
            phase: (MOST_PHASES - 1) as u32,
        };
        let some = SpanId::Op { number: 5, module: 0, phase: 3 };
        for id in [largest, some, SpanId::Module(0), SpanId::Module(77), SpanId::Phase(4095)] {
            assert!(SpanId::unpack(id.pack()) == id);
            assert_ne!(id.pack(), 0);
        }
        assert!(SpanId::unpack(12345) == SpanId::Other);
    }
}
