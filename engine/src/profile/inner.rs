//! What is not for the recorder goes to another subscriber, which prints log lines for instance.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use tracing::span::{Attributes, Id};
use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Metadata};
use tracing_core::span::Current;

/// The other subscriber. Its ids could look like the recorder's, so they are replaced.
pub(super) struct Inner {
    subscriber: Box<dyn Subscriber + Send + Sync>,
    next: AtomicU64,
    ids: RwLock<HashMap<u64, Known>>,
}

#[derive(Clone)]
struct Known {
    id: Id,
    metadata: &'static Metadata<'static>,
    /// How many spans share it.
    handles: usize,
}

impl Inner {
    pub(super) fn new(subscriber: impl Subscriber + Send + Sync + 'static) -> Self {
        Self { subscriber: Box::new(subscriber), next: AtomicU64::new(1), ids: RwLock::default() }
    }

    fn known(&self, id: &Id) -> Option<Known> {
        self.ids.read().unwrap_or_else(PoisonError::into_inner).get(&id.into_u64()).cloned()
    }

    /// Its own id of a span.
    fn own(&self, id: &Id) -> Option<Id> {
        self.known(id).map(|known| known.id)
    }

    pub(super) fn registered(&self, dispatch: &tracing::Dispatch) {
        self.subscriber.on_register_dispatch(dispatch);
    }

    pub(super) fn interest(&self, metadata: &'static Metadata<'static>) -> Interest {
        self.subscriber.register_callsite(metadata)
    }

    pub(super) fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.subscriber.enabled(metadata)
    }

    pub(super) fn event(&self, event: &Event<'_>) {
        if self.subscriber.event_enabled(event) {
            self.subscriber.event(event);
        }
    }

    /// Makes a span; its number stays below 2⁶².
    pub(super) fn new_span(&self, attributes: &Attributes<'_>) -> u64 {
        let (metadata, values) = (attributes.metadata(), attributes.values());
        let id = match attributes.parent() {
            Some(parent) => match self.own(parent) {
                Some(own) => self.subscriber.new_span(&Attributes::child_of(own, metadata, values)),
                None => self.subscriber.new_span(&Attributes::new(metadata, values)),
            },
            None => self.subscriber.new_span(attributes),
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let known = Known { id, metadata, handles: 1 };
        self.ids.write().unwrap_or_else(PoisonError::into_inner).insert(number, known);
        number
    }

    pub(super) fn record(&self, id: &Id, values: &tracing::span::Record<'_>) {
        if let Some(own) = self.own(id) {
            self.subscriber.record(&own, values);
        }
    }

    pub(super) fn follows(&self, id: &Id, from: &Id) {
        if let (Some(own), Some(from)) = (self.own(id), self.own(from)) {
            self.subscriber.record_follows_from(&own, &from);
        }
    }

    pub(super) fn enter(&self, id: &Id) {
        if let Some(own) = self.own(id) {
            self.subscriber.enter(&own);
        }
    }

    pub(super) fn exit(&self, id: &Id) {
        if let Some(own) = self.own(id) {
            self.subscriber.exit(&own);
        }
    }

    pub(super) fn clone_span(&self, id: &Id) {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = ids.get_mut(&id.into_u64()) {
            known.handles += 1;
            known.id = self.subscriber.clone_span(&known.id);
        }
    }

    pub(super) fn try_close(&self, id: &Id) -> bool {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = ids.get_mut(&id.into_u64()) else { return false };
        known.handles -= 1;
        let last = known.handles == 0;
        let own = known.id.clone();
        if last {
            ids.remove(&id.into_u64());
        }
        drop(ids);
        self.subscriber.try_close(own);
        last
    }

    pub(super) fn current(&self, id: &Id) -> Current {
        self.known(id).map_or_else(Current::none, |known| Current::new(id.clone(), known.metadata))
    }
}
