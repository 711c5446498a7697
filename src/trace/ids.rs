//! Ids of spans. Most are random; that of a span that is told of when it is over follows from whose it is, so that whatever
//! happens meanwhile, in whichever process, is beneath it.

use std::cell::Cell;

use opentelemetry::trace::{SpanContext, SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

use crate::domain::secret::sha256_hex;

thread_local! {
    /// The id of the next span of this thread, where it is not left to chance. Set and taken in one call.
    static NEXT: Cell<Option<SpanId>> = const { Cell::new(None) };
}

/// Where ids come from.
#[derive(Debug, Default)]
pub struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        self.0.new_trace_id()
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.take().unwrap_or_else(|| self.0.new_span_id())
    }
}

/// Makes one span whose id is that of `whose`.
pub(super) fn with<T>(whose: &str, make: impl FnOnce() -> T) -> T {
    NEXT.set(Some(id(whose)));
    let span = make();
    NEXT.set(None);
    span
}

/// The place of the span of `whose`, in the trace of `place`.
pub(super) fn beneath(place: &SpanContext, whose: &str) -> SpanContext {
    SpanContext::new(place.trace_id(), id(whose), place.trace_flags(), false, place.trace_state().clone())
}

fn id(whose: &str) -> SpanId {
    SpanId::from_hex(&sha256_hex(whose.as_bytes())[..16]).unwrap_or(SpanId::INVALID)
}
