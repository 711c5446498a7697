//! Floor 1: traces. Code says here what it is about, as spans; `telemetry/otlp.rs` sends them to a collector. A span holds
//! what is written into it and nothing else: no log line, no body, no address beyond its host. Without a collector nothing
//! is recorded, and the places that callers name are only handed on.

mod ids;
mod w3c;

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use opentelemetry::context::{FutureExt, WithContext};
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::SdkTracer;

pub use ids::Ids;
pub use w3c::{PARENT, STATE};

use crate::domain::clock::Millis;
use crate::domain::trace::Trace;

/// Makes spans; without a collector it makes none.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<SdkTracer>);

/// A span under way, or a place in a trace that others can be beneath. It ends when it is dropped.
#[must_use = "it ends when it is dropped"]
pub struct Span {
    /// `None`: nowhere.
    context: Option<Context>,
    /// Whether it is ours to end.
    own: bool,
}

/// A span that is told of when it is over.
pub struct Past {
    /// What it is called.
    pub name: &'static str,
    /// Whose: the span's own id follows from it, so that others could be beneath it before it was told of.
    pub of: String,
    /// When it began.
    pub from: Millis,
    /// When it ended.
    pub to: Millis,
    /// What there is to say.
    pub says: Vec<KeyValue>,
    /// Why it went wrong, if it did.
    pub failed: Option<String>,
}

impl Traces {
    /// Spans of this tracer, whose ids must be [`Ids`].
    pub fn of(tracer: SdkTracer) -> Self {
        Self(Some(tracer))
    }

    /// A request's span, beneath the place its headers name. Where none is recorded, that place itself.
    pub fn serve(&self, headers: &HeaderMap, name: impl FnOnce() -> Cow<'static, str>) -> Span {
        let given = w3c::received(headers);
        let Some(tracer) = &self.0 else { return self.at(given) };
        let above = Context::new().with_value(tracer.clone());
        let above = match given {
            Some(place) => above.with_remote_span_context(place),
            None => above,
        };
        let builder = tracer.span_builder(name()).with_kind(SpanKind::Server);
        let span = tracer.build_with_context(builder, &above);
        Span { context: Some(above.with_span(span)), own: true }
    }

    /// The place that was kept.
    pub fn kept(&self, kept: Option<&Trace>) -> Span {
        self.at(kept.and_then(w3c::read))
    }

    /// The place beneath what [`Past`] will tell of `of`, in the trace that was kept. Where none is recorded, the place that
    /// was kept.
    pub fn beneath(&self, kept: Option<&Trace>, of: &str) -> Span {
        let place = kept.and_then(w3c::read);
        self.at(match place {
            Some(place) if self.0.is_some() && place.is_sampled() => Some(ids::beneath(&place, of)),
            place => place,
        })
    }

    /// Tells of what is over, beneath `above`.
    pub fn tell(&self, above: &Span, past: Past) {
        let Some((tracer, context)) = above.recorder() else { return };
        let builder = tracer
            .span_builder(past.name)
            .with_kind(SpanKind::Internal)
            .with_start_time(moment(past.from))
            .with_attributes(past.says);
        let span = ids::with(&past.of, || tracer.build_with_context(builder, context));
        let told = Span { context: Some(context.with_span(span)), own: false };
        if let Some(why) = past.failed {
            told.fail(why);
        }
        if let Some(context) = &told.context {
            context.span().end_with_timestamp(moment(past.to));
        }
    }

    fn at(&self, place: Option<opentelemetry::trace::SpanContext>) -> Span {
        let context = place.map(|place| {
            let above = Context::new();
            let above = match &self.0 {
                Some(tracer) => above.with_value(tracer.clone()),
                None => above,
            };
            above.with_remote_span_context(place)
        });
        Span { context, own: false }
    }
}

/// The span that the code at hand runs in.
pub fn here() -> Span {
    let context = Context::map_current(|now| now.has_active_span().then(|| now.clone()));
    Span { context, own: false }
}

/// A span for a piece of work beneath the one at hand.
pub fn span(name: &'static str) -> Span {
    here().child(name, SpanKind::Internal)
}

/// A span for a call to somebody else beneath the one at hand.
pub fn call(name: &'static str) -> Span {
    here().call(name)
}

impl Span {
    /// A span for a piece of work beneath this one.
    pub fn span(&self, name: &'static str) -> Self {
        self.child(name, SpanKind::Internal)
    }

    /// A span for a call to somebody else beneath this one.
    pub fn call(&self, name: &'static str) -> Self {
        self.child(name, SpanKind::Client)
    }

    fn child(&self, name: &'static str, kind: SpanKind) -> Self {
        let Some((tracer, above)) = self.recorder() else {
            return Self { context: self.context.clone(), own: false };
        };
        let span = tracer.build_with_context(tracer.span_builder(name).with_kind(kind), above);
        Self { context: Some(above.with_span(span)), own: true }
    }

    /// Runs a future in this span: what it begins is beneath it.
    pub fn around<F: Future>(&self, work: F) -> WithContext<F> {
        // Not an async function: that would hold the work twice.
        work.with_context(self.context.clone().unwrap_or_else(Context::current))
    }

    /// Writes something down.
    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.context {
            context.span().set_attribute(KeyValue::new(name, value));
        }
    }

    /// The same for what is put into words only where it is recorded.
    pub fn set_with<V: Into<Value>>(&self, name: &'static str, value: impl FnOnce() -> Option<V>) {
        if self.recorded()
            && let Some(value) = value()
        {
            self.set(name, value);
        }
    }

    /// Says that it went wrong: `kind` is one of a few words.
    pub fn fail(&self, kind: impl Into<Value>) {
        self.set("error.type", kind);
        if let Some(context) = &self.context {
            context.span().set_status(Status::error(""));
        }
    }

    /// Whether anything is recorded here.
    pub fn recorded(&self) -> bool {
        self.recorder().is_some()
    }

    /// Its trace, as it is written.
    pub fn trace_id(&self) -> Option<String> {
        let context = self.context.as_ref()?;
        Some(context.span().span_context().trace_id().to_string())
    }

    /// The place as it is handed on and kept.
    pub fn place(&self) -> Option<Trace> {
        w3c::write(self.context.as_ref()?.span().span_context())
    }

    fn recorder(&self) -> Option<(&SdkTracer, &Context)> {
        let context = self.context.as_ref()?;
        let tracer = context.get::<SdkTracer>()?;
        context.span().span_context().is_sampled().then_some((tracer, context))
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(context) = self.context.as_ref().filter(|_| self.own) {
            context.span().end();
        }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.place()).finish()
    }
}

fn moment(at: Millis) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(at.0).unwrap_or_default())
}
