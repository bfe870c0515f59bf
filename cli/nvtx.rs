//! Operations, modules and phases as NVTX ranges, for Nsight Systems.

use std::ffi::CString;
use std::fmt;

use engine::profile::{MODULE, Nvtx, OP, PHASE};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// Tells a tool of each span while it is entered.
pub(crate) struct Ranges(pub(crate) Nvtx);

/// What a span is called in the tool.
struct Name(CString);

/// Finds the field that names a span.
#[derive(Default)]
struct Read(String);

impl Visit for Read {
    fn record_str(&mut self, field: &Field, value: &str) {
        if matches!(field.name(), "name" | "path") {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// Whether a span becomes a range. Who asks without a span in hand (a device that times its launches) is answered likewise.
pub(crate) fn is_range(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::TRACE && [OP, MODULE, PHASE].contains(&metadata.target())
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Ranges {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut read = Read::default();
        attributes.record(&mut read);
        // A name with a zero in it ends there.
        let mut name = read.0.into_bytes();
        name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
        if let (Some(span), Ok(name)) = (context.span(id), CString::new(name)) {
            span.extensions_mut().insert(Name(name));
        }
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        let span = context.span(id);
        let extensions = span.as_ref().map(|span| span.extensions());
        let name = extensions.as_ref().and_then(|e| e.get::<Name>());
        // Every entry has its exit: it must have a range, even without a name.
        self.0.push(name.map_or(c"", |name| &name.0));
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        self.0.pop();
    }
}
