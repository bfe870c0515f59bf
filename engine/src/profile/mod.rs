//! Where time and memory go: spans of operations, modules and phases, and a recorder of them.
//!
//! The engine and the crates above it emit [`tracing`] spans and events under five targets, all at the level
//! `TRACE`. Nothing is computed for them unless a subscriber wants them:
//!
//! | target | what | fields |
//! |---|---|---|
//! | [`OP`] | span: a kernel runs | `name`, `device`, `dtype` (of the first float input), `flops`, `read`, `written`, `shapes`, `key` |
//! | [`MODULE`] | span: inside a module of a model | `path`, as in the checkpoint: `model.layers.3.mlp` |
//! | [`PHASE`] | span: a part of a command | `name`: `prefill`, `backward`, … |
//! | [`MEMORY`] | event: a storage came or went | `device`, `tag`, `bytes` (negative: it went) |
//! | [`DEVICE`] | event: when a device ran an operation, by its own clock; child of the operation's span | `start`, `end` |
//!
//! `device` and `tag` of a change of memory are texts that live as long as the program: a recorder may know them by
//! where they lie.
//!
//! Cost and shapes of an operation are what it declares itself ([`Op::cost`]). The backward pass runs the gradient of
//! each operation inside the module that the operation ran in.
//!
//! [`Recorder`] is a subscriber that keeps all of it at less than a tenth of a microsecond each:
//!
//! ```
//! use engine::{DType, Device, Tensor, profile};
//! let x = Tensor::zeros(&[64, 128], DType::F32, &Device::cpu())?;
//! let w = Tensor::zeros(&[128, 32], DType::F32, &Device::cpu())?.tracked();
//! let recorder = profile::Recorder::new();
//! recorder.record(|| {
//!     let _phase = profile::phase("forward");
//!     let loss = {
//!         let _module = profile::module("model.head");
//!         x.matmul(&w)?.sum(&[0, 1])?
//!     };
//!     let _phase = profile::phase("backward");
//!     loss.backward()
//! })?;
//! let recording = recorder.take();
//! let product = recording.spans().find_map(|span| recording.operation(&span)).unwrap();
//! assert_eq!((product.name.as_str(), product.cost.flops), ("matmul", 2 * 64 * 128 * 32));
//! assert_eq!(product.shapes, "f32[64,128] f32[128,32] -> f32[64,32]");
//! // The backward pass knows the module, too.
//! let paths = recording.spans().filter(|span| recording.operation(span).is_some());
//! assert!(paths.map(|span| recording.module(&span)).all(|path| path == "model.head"));
//! # Ok::<(), engine::Error>(())
//! ```
//!
//! `roentgen profile` shows a recording as tables, as a page, and as a trace for Perfetto.

mod fields;
mod inner;
mod intern;
mod local;
mod nvtx;
mod recorder;
mod recording;
mod ticks;

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Level, Span};

use crate::backend::Device;
use crate::op::{Op, Spec};

pub use nvtx::{Nvtx, NvtxError};
pub use recorder::Recorder;
pub use recording::{Change, Clock, Operation, Recording, SpanRecord, Thread, What};

/// Target of the spans of operations.
pub const OP: &str = "roentgen::op";
/// Target of the spans of modules.
pub const MODULE: &str = "roentgen::module";
/// Target of the spans of phases.
pub const PHASE: &str = "roentgen::phase";
/// Target of the events of memory.
pub const MEMORY: &str = "roentgen::memory";
/// Target of the events with times of a device's own clock.
pub const DEVICE: &str = "roentgen::device";

/// Ends its module or phase when it is dropped.
pub type Scope = tracing::span::EnteredSpan;

/// Until the guard is dropped, operations of this thread, and the gradients of those that the tape records, belong to
/// the module `path`: its full name in the checkpoint. Costs one load and a branch when nobody listens.
#[inline]
#[must_use = "the module ends when the guard is dropped"]
pub fn module(path: &str) -> Scope {
    tracing::trace_span!(target: MODULE, "module", path).entered()
}

/// Until the guard is dropped, this thread is in the phase `name`. Phases nest: `forward/vision`.
#[inline]
#[must_use = "the phase ends when the guard is dropped"]
pub fn phase(name: &'static str) -> Scope {
    tracing::trace_span!(target: PHASE, "phase", name).entered()
}

/// Says when a device ran the operation of `span` by the device's own clock. Backends that submit work and go on call
/// it when their timestamps have come back: they keep [`Span::current`] of the kernel's call until then.
///
/// `start` and `end` are nanoseconds on the recorder's axis ([`Recorder::now`]); mapping the device's clock to it is
/// the backend's part. A profile then counts these times for that device instead of the calls'.
pub fn device_time(span: &Span, start: u64, end: u64) {
    tracing::trace!(target: DEVICE, parent: span, start, end);
}

/// Nanoseconds on the axis of the [`Recorder`] that listens to this thread; `None` if none does.
pub fn now() -> Option<u64> {
    tracing::dispatcher::get_default(|listener| listener.downcast_ref::<Recorder>().map(Recorder::now))
}

thread_local! {
    /// Number of the application that this thread is in, or was in last.
    static APPLICATION: Cell<u64> = const { Cell::new(0) };
}

/// A number that no two recorded applications share; their spans may be alike.
pub(crate) fn application() -> u64 {
    APPLICATION.get()
}

/// The span of one application, disabled when nobody listens.
#[inline]
pub(crate) fn operation<O: Op>(op: &O, device: &Device, inputs: &[Spec], outputs: &[Spec]) -> Span {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    if tracing::span_enabled!(target: OP, Level::TRACE) {
        APPLICATION.set(NEXT.fetch_add(1, Ordering::Relaxed));
        fields::describe(O::NAME, device, &op.cost(inputs, outputs), inputs, outputs)
    } else {
        Span::none()
    }
}

/// A storage of `bytes` came (positive) or went.
#[inline]
pub(crate) fn memory(device: &'static str, tag: &'static str, bytes: i64) {
    tracing::trace!(target: MEMORY, device, tag, bytes);
}

/// The module that this thread is in, to be entered again by the backward pass.
#[inline]
pub(crate) fn current_module() -> Span {
    if tracing::span_enabled!(target: MODULE, Level::TRACE) {
        let span = Span::current();
        if span.metadata().is_some_and(|metadata| metadata.target() == MODULE) {
            return span;
        }
    }
    Span::none()
}
