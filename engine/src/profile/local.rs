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

/// What a thread shares with whoever takes the recording.
#[derive(Default)]
pub(super) struct Log {
    pub(super) name: String,
    pub(super) spans: Vec<Ended>,
    /// By the device's clock.
    pub(super) device: Vec<Ended>,
    pub(super) memory: Vec<Change>,
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
    pub(super) modules: Map<Box<str>, u32>,
    pub(super) names: Map<Box<str>, u32>,
}

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
        names: Map::default(),
    });
    locals.len() - 1
}

impl Local {
    #[inline]
    pub(super) fn enter(&mut self, id: u64, now: u64) {
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

    /// Ends the innermost span `id`; false if there was no room to keep it. Spans may end in another order than that
    /// of their beginning.
    #[inline]
    pub(super) fn exit(&mut self, id: u64, now: u64, room: usize) -> bool {
        let Some(at) = self.stack.iter().rposition(|open| open.id == id) else { return true };
        let open = self.stack.remove(at);
        let mut log = lock(&self.log);
        match SpanId::unpack(id) {
            SpanId::Other => return true,
            SpanId::Module(_) => self.module = open.module,
            SpanId::Phase(_) => {
                self.phase = open.phase;
                if let Some(at) = log.phases.iter().rposition(|phase| phase.id == id) {
                    log.phases.remove(at);
                }
            }
            SpanId::Op { .. } => {}
        }
        if log.spans.len() >= room {
            return false;
        }
        log.spans.push(Ended { id, module: open.module, phase: open.phase, start: open.start, end: now });
        true
    }

    /// The innermost span.
    pub(super) fn current(&self) -> Option<u64> {
        self.stack.last().map(|open| open.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
