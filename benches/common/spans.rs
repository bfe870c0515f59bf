//! The engine's operation spans, summed by name.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Sums the time of the engine's operation spans by name. One thread applies operations here.
#[derive(Default)]
struct Spans {
    next: AtomicU64,
    names: Mutex<BTreeMap<u64, (String, Instant)>>,
    totals: Mutex<BTreeMap<String, (usize, Duration)>>,
}

struct NameField<'a>(&'a mut String);

impl tracing::field::Visit for NameField<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn Debug) {
        if field.name() == "name" {
            *self.0 = format!("{value:?}");
        }
    }
}

impl tracing::Subscriber for &'static Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "roentgen::op"
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut name = String::new();
        span.record(&mut NameField(&mut name));
        self.names.lock().unwrap().insert(id, (name, Instant::now()));
        tracing::Id::from_u64(id)
    }
    fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::Id) {}
    fn exit(&self, id: &tracing::Id) {
        if let Some((name, since)) = self.names.lock().unwrap().remove(&id.into_u64()) {
            let mut totals = self.totals.lock().unwrap();
            let total = totals.entry(name).or_default();
            total.0 += 1;
            total.1 += since.elapsed();
        }
    }
}

static SPANS: std::sync::LazyLock<Spans> = std::sync::LazyLock::new(Spans::default);

/// Runs `f` and prints the time of each operation in it. [`install`] comes first.
pub(crate) fn profile(name: &str, f: &mut dyn FnMut()) {
    SPANS.totals.lock().unwrap().clear();
    let start = Instant::now();
    f();
    let whole = start.elapsed();
    let mut rows: Vec<_> = SPANS.totals.lock().unwrap().clone().into_iter().collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.1.1));
    let inside: Duration = rows.iter().map(|row| row.1.1).sum();
    println!(
        "{name}: {:.1} ms, {:.1} ms outside operations",
        whole.as_secs_f64() * 1e3,
        whole.saturating_sub(inside).as_secs_f64() * 1e3
    );
    for (op, (count, time)) in rows {
        let (ms, share) = (time.as_secs_f64() * 1e3, time.as_secs_f64() / whole.as_secs_f64() * 100.0);
        println!("  {op:20} {count:6} calls {ms:9.2} ms {share:5.1} %");
    }
}

/// Starts listening; once per process.
pub(crate) fn install() {
    tracing::subscriber::set_global_default(&*SPANS).expect("no other subscriber");
}
