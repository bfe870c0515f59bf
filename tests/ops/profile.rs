//! Spans of operations, modules and phases, changes of memory, and their recorder.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use engine::profile::{self, Clock, Recorder, Recording, What, module, phase};
use engine::{DType, Device, Result, Tensor, checkpoint};

fn tensor(dims: &[usize]) -> Tensor {
    let n = dims.iter().product::<usize>();
    let values: Vec<f32> = (0..n).map(|i| (i % 7) as f32 * 0.25 - 0.5).collect();
    Tensor::from_slice(&values, dims, &Device::cpu()).unwrap()
}

/// Two small modules: a norm, then a product.
fn block(x: &Tensor, gain: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let _module = module("model.layers.0");
    let normed = {
        let _module = module("model.layers.0.norm");
        x.rms_norm(gain, 1e-5)?
    };
    let _module = module("model.layers.0.proj");
    normed.matmul(weight)
}

/// Name and module of each operation of a phase.
fn operations(recording: &Recording, phase: &str) -> Vec<(String, String)> {
    let of_phase = recording.spans().filter(|span| recording.phase(span) == phase);
    let names = of_phase.filter(|span| recording.operation(span).is_some());
    names.map(|s| (recording.name(&s).to_owned(), recording.module(&s).to_owned())).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect()
}

fn record_step(checkpointed: bool) -> Recording {
    let (gain, weight) = (tensor(&[8]).tracked(), tensor(&[8, 4]).tracked());
    let x = tensor(&[3, 8]).tracked();
    let recorder = Recorder::new();
    recorder.record(|| {
        let forward = phase("forward");
        let y = if checkpointed {
            let (gain, weight) = (gain.clone(), weight.clone());
            checkpoint(&[&x], move |x| block(&x[0], &gain, &weight)).unwrap()
        } else {
            block(&x, &gain, &weight).unwrap()
        };
        let loss = {
            let _module = module("loss");
            y.mul(&y).unwrap().sum(&[0, 1]).unwrap()
        };
        drop(forward);
        let _phase = phase("backward");
        let gradients = loss.backward().unwrap();
        assert_eq!(gradients.len(), 3);
    });
    recorder.take()
}

const FORWARD: [(&str, &str); 4] = [
    ("rms_norm", "model.layers.0.norm"),
    ("matmul", "model.layers.0.proj"),
    ("binary", "loss"),
    ("reduce", "loss"),
];

#[test]
fn operations_know_module_and_phase() {
    let recording = record_step(false);
    assert_eq!(operations(&recording, "forward"), pairs(&FORWARD));
    assert!(recording.dropped == 0 && recording.end > recording.start);
}

#[test]
fn the_backward_pass_is_in_the_modules_of_the_forward_pass() {
    for checkpointed in [false, true] {
        let recording = record_step(checkpointed);
        let paths = |phase| -> BTreeSet<String> {
            operations(&recording, phase).into_iter().map(|(_, path)| path).collect()
        };
        let forward: BTreeSet<_> = FORWARD.iter().map(|&(_, path)| path.to_owned()).collect();
        let mut backward = paths("backward");
        // The gradient that the pass begins with is outside of any module.
        backward.remove("");
        assert_eq!(paths("forward"), forward);
        assert_eq!(backward, forward, "checkpointed: {checkpointed}");
        let gradients = operations(&recording, "backward");
        assert!(gradients.contains(&("rms_norm_grad".into(), "model.layers.0.norm".into())));
        let products = |list: &[(String, String)]| list.iter().filter(|(name, _)| name == "matmul").count();
        // Two gradients, and the product itself once more where it was not kept.
        assert_eq!(products(&gradients), 2 + usize::from(checkpointed));
    }
}

#[test]
fn spans_nest_and_stand_in_order() {
    let recording = record_step(false);
    for thread in &recording.threads {
        let mut open: Vec<u64> = Vec::new();
        let mut last = 0;
        for span in &thread.spans {
            assert!(span.start >= last && span.end >= span.start);
            last = span.start;
            while open.last().is_some_and(|&end| end <= span.start) {
                open.pop();
            }
            assert!(open.last().is_none_or(|&end| span.end <= end), "{span:?} ends after the one around it");
            open.push(span.end);
        }
    }
}

#[test]
fn phases_nest_and_open_ones_are_there() {
    let recorder = Recorder::new();
    let (first, second) = recorder.record(|| {
        let _outer = phase("forward");
        let _inner = phase("vision");
        tensor(&[4]).affine(2.0, 0.0).unwrap();
        let first = recorder.take();
        tensor(&[4]).affine(2.0, 0.0).unwrap();
        (first, recorder.take())
    });
    for recording in [&first, &second] {
        assert_eq!(operations(recording, "forward/vision"), pairs(&[("affine", "")]));
        let phases: Vec<_> = recording.spans().filter(|s| matches!(s.what, What::Phase(_))).collect();
        assert_eq!(phases.iter().map(|s| recording.name(s)).collect::<Vec<_>>(), ["forward", "vision"]);
        let within = |s: &profile::SpanRecord| s.start >= recording.start && s.end == recording.end;
        assert!(phases.iter().all(within), "{phases:?}");
    }
    assert_eq!(first.end, second.start);
}

#[test]
fn cost_and_shapes_are_what_the_operation_declares() {
    let (a, b) = (tensor(&[5, 6]), tensor(&[6, 7]));
    let target = tensor(&[5, 7]);
    let recorder = Recorder::new();
    recorder.record(|| {
        let product = a.matmul(&b).unwrap();
        target.write(&product).unwrap();
    });
    let recording = recorder.take();
    let [product, write] = &recording.operations[..] else { panic!("{:?}", recording.operations) };
    assert_eq!((&*product.name, &*product.device, &*product.dtype), ("matmul", "cpu", "f32"));
    assert_eq!(product.cost.flops, 2 * 5 * 6 * 7);
    assert_eq!((product.cost.read, product.cost.written), (4 * (30 + 42), 4 * 35));
    assert_eq!(product.shapes, "f32[5,6] f32[6,7] -> f32[5,7]");
    assert_eq!(write.shapes, "f32[5,7] f32[5,7] -> f32[5,7]");
}

#[test]
fn changes_of_memory_balance() {
    let recorder = Recorder::new();
    let kept = recorder.record(|| {
        let kept = engine::memory::tagged("kept", || Tensor::zeros(&[100], DType::F32, &Device::cpu()));
        drop(Tensor::zeros(&[50], DType::F32, &Device::cpu()).unwrap());
        kept.unwrap()
    });
    let recording = recorder.take();
    let changes: Vec<_> = recording
        .memory()
        .iter()
        .map(|c| {
            (recording.names[c.device as usize].clone(), recording.names[c.tag as usize].clone(), c.bytes)
        })
        .collect();
    let change = |tag: &str, bytes| ("cpu".to_owned(), tag.to_owned(), bytes);
    assert_eq!(changes, [change("kept", 400), change("other", 200), change("other", -200)]);
    drop(kept);
    assert!(recorder.take().memory().is_empty(), "nobody listens any more");
}

#[test]
fn nothing_is_recorded_when_off() {
    let recorder = Recorder::new();
    let run = || {
        let _phase = phase("forward");
        let _module = module("model");
        tensor(&[4, 4]).tracked().affine(2.0, 0.0).unwrap().sum(&[0, 1]).unwrap().backward().unwrap();
    };
    run();
    let recording = recorder.take();
    assert!(recording.threads.is_empty() && recording.operations.is_empty());
    recorder.record(run);
    assert!(recorder.take().spans().count() > 3);
    run();
    assert_eq!(recorder.take().spans().count(), 0);
}

#[test]
fn what_does_not_fit_is_counted() {
    let recorder = Recorder::with_room(3);
    recorder.record(|| {
        let x = tensor(&[4]);
        (0..5).for_each(|_| drop(x.affine(1.0, 1.0).unwrap()));
    });
    let recording = recorder.take();
    assert_eq!(recording.spans().count(), 3);
    assert_eq!(recording.memory().len(), 3);
    // x came and went; five results came and went.
    assert_eq!(recording.dropped, 2 + (2 + 10 - 3));
}

#[test]
fn threads_are_kept_apart() {
    let recorder = Recorder::new();
    let work = |recorder: &Recorder| recorder.record(|| drop(tensor(&[4]).affine(1.0, 1.0).unwrap()));
    work(&recorder);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("second".into());
        thread.spawn_scoped(scope, || work(&recorder)).unwrap();
    });
    let recording = recorder.take();
    assert_eq!(recording.threads.len(), 2);
    assert_eq!(recording.threads[1].name, "second");
    assert!(recording.threads.iter().all(|thread| thread.spans.len() == 1));
    assert_eq!(recording.operations.len(), 1, "both did the same");
}

/// A device that answers late: its times belong to the operation that was submitted, wherever the host is by then.
#[test]
fn a_device_gives_its_own_times() {
    let recorder = Recorder::new();
    recorder.record(|| {
        let submitted = {
            let _phase = phase("forward");
            let _module = module("model.layers.3");
            let span = tracing::trace_span!(
                target: profile::OP, "op", key = 1u64, name = "matmul", device = "gpu", flops = 10u64
            );
            span.in_scope(tracing::Span::current)
        };
        profile::device_time(&submitted, 100, 250);
    });
    let recording = recorder.take();
    let spans: Vec<_> = recording.spans().filter(|s| recording.operation(s).is_some()).collect();
    let clocks: BTreeSet<_> = spans.iter().map(|s| s.clock == Clock::Device).collect();
    assert_eq!((spans.len(), clocks.len()), (2, 2), "the call, and the kernel");
    let kernel = spans.iter().find(|s| s.clock == Clock::Device).unwrap();
    assert_eq!((kernel.start, kernel.end), (100, 250));
    assert_eq!((recording.name(kernel), recording.module(kernel)), ("matmul", "model.layers.3"));
    assert_eq!(recording.phase(kernel), "forward");
}

/// Keeps the messages of events and the names of spans.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl tracing::field::Visit for Lines {
    fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.lock().unwrap().push(format!("{value:?}"));
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.level() <= &tracing::Level::INFO
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::Id {
        self.0.lock().unwrap().push(span.metadata().name().to_owned());
        // As large as an id of the recorder's own.
        tracing::Id::from_u64(u64::MAX)
    }
    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }
    fn enter(&self, id: &tracing::Id) {
        self.0.lock().unwrap().push(format!("enter {:x}", id.into_u64()));
    }
    fn exit(&self, _: &tracing::Id) {}
}

#[test]
fn another_subscriber_gets_the_rest() {
    let lines = Lines::default();
    let recorder = Recorder::in_front_of(lines.clone(), 1000);
    recorder.record(|| {
        let outer = tracing::info_span!("outer");
        let _outer = outer.enter();
        tracing::info!("a line");
        tracing::debug!("too quiet");
        drop(tensor(&[4]).affine(1.0, 1.0).unwrap());
        assert_eq!(tracing::Span::current().metadata().map(tracing::Metadata::name), Some("outer"));
    });
    assert_eq!(*lines.0.lock().unwrap(), ["outer", "enter ffffffffffffffff", "a line"]);
    assert_eq!(operations(&recorder.take(), ""), pairs(&[("affine", "")]));
}
