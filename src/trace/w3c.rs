//! Places in traces by the W3C recommendation: read from headers, written down, read again. The library reads and writes;
//! what is stricter or shorter than it would have it is here.

use http::HeaderMap;
use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use crate::domain::trace::Trace;

/// The header that names a trace, a span, and whether they are recorded.
pub const PARENT: &str = "traceparent";
/// The header in which other systems talk to each other.
pub const STATE: &str = "tracestate";
/// The length of the first header in the one version there is.
const PARENT_BYTES: usize = 55;
/// More of the second is kept by nobody who has to keep it with every task.
const STATE_BYTES: usize = 512;

/// The place a request's headers name; `None` when they name none, or not by the rules.
pub(super) fn received(headers: &HeaderMap) -> Option<SpanContext> {
    // Hardly any request has one.
    let mut parents = headers.get_all(PARENT).iter();
    let parent = parents.next()?.to_str().ok()?;
    if parents.next().is_some() || !well_formed(parent) {
        return None;
    }
    let states: Vec<_> = headers.get_all(STATE).iter().filter_map(|state| state.to_str().ok()).collect();
    let state = Some(states.join(",")).filter(|state| state.len() <= STATE_BYTES).unwrap_or_default();
    read(&Trace { parent: parent.to_owned(), state })
}

/// A later version may add fields behind those that are known.
fn well_formed(parent: &str) -> bool {
    let known = parent.get(..PARENT_BYTES).unwrap_or_default();
    let dashes = |(at, byte): (usize, u8)| (byte == b'-') == matches!(at, 2 | 35 | 52);
    known.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
        && known.bytes().enumerate().all(dashes)
        && (parent.len() == PARENT_BYTES || (parent.len() > PARENT_BYTES && !parent.starts_with("00")))
        && !known.is_empty()
}

/// The place as a task keeps it.
pub(super) fn write(place: &SpanContext) -> Option<Trace> {
    let context = Context::new().with_remote_span_context(place.clone());
    let mut written = Written(Trace { parent: String::new(), state: String::new() });
    TraceContextPropagator::new().inject_context(&context, &mut written);
    Some(written.0).filter(|trace| !trace.parent.is_empty())
}

/// The place that was kept.
pub(super) fn read(kept: &Trace) -> Option<SpanContext> {
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Kept(kept));
    let place = context.span().span_context().clone();
    place.is_valid().then_some(place)
}

struct Kept<'a>(&'a Trace);

impl Extractor for Kept<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            PARENT => Some(&self.0.parent),
            STATE => Some(&self.0.state),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![PARENT, STATE]
    }
}

struct Written(Trace);

impl Injector for Written {
    fn set(&mut self, key: &str, value: String) {
        match key {
            PARENT => self.0.parent = value,
            STATE => self.0.state = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(given: &[(&'static str, &str)]) -> HeaderMap {
        given.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn taken(given: &[(&'static str, &str)]) -> Option<Trace> {
        let mut all = HeaderMap::new();
        for (name, value) in given {
            all.append(*name, value.parse().unwrap());
        }
        received(&all).and_then(|place| write(&place))
    }

    #[test]
    fn a_place_is_handed_on_as_it_came() {
        let trace = taken(&[(PARENT, PLACE), (STATE, "rojo=00f067,congo=t61rc")]).unwrap();
        assert_eq!((trace.parent.as_str(), trace.state.as_str()), (PLACE, "rojo=00f067,congo=t61rc"));
        let trace = taken(&[(PARENT, PLACE), (STATE, "a=1"), (STATE, "b=2")]).unwrap();
        assert_eq!(trace.state, "a=1,b=2");
        let unsampled = PLACE.replace("-01", "-00");
        assert_eq!(taken(&[(PARENT, &unsampled)]).unwrap().parent, unsampled);
        let json = serde_json::to_string(&Trace { parent: PLACE.into(), state: String::new() }).unwrap();
        assert_eq!(json, format!("{{\"parent\":\"{PLACE}\"}}"));
    }

    #[test]
    fn what_is_not_by_the_rules_is_no_place() {
        for wrong in [
            "",
            "x",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-3600f067aa0ba902b7-01",
        ] {
            assert_eq!(taken(&[(PARENT, wrong)]), None, "{wrong}");
        }
        assert_eq!(taken(&[(PARENT, PLACE), (PARENT, PLACE)]), None, "two of them");
        let later = PLACE.replacen("00", "01", 1) + "-more";
        assert_eq!(taken(&[(PARENT, &later)]).unwrap().parent, PLACE, "what is known of a later version");
        assert_eq!(received(&headers(&[(STATE, "a=1")])), None);
        let long = format!("a={}", "x".repeat(STATE_BYTES));
        for state in [long.as_str(), "a", "a=1=2", "A=1"] {
            assert_eq!(taken(&[(PARENT, PLACE), (STATE, state)]).unwrap().state, "", "{state}");
        }
    }

    proptest! {
        /// Whatever a caller sends: what is kept of it is short, reads as itself, and can be a header.
        #[test]
        fn what_is_kept_can_be_sent(parent in "[ -~]{0,80}|0[0-9a-f]-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", state in "[ -~\t]{0,700}") {
            if let Some(trace) = taken(&[(PARENT, &parent), (STATE, &state)]) {
                prop_assert_eq!(trace.parent.len(), PARENT_BYTES);
                prop_assert!(trace.state.len() <= STATE_BYTES);
                prop_assert!(http::HeaderValue::from_str(&trace.state).is_ok());
                prop_assert_eq!(read(&trace).and_then(|place| write(&place)), Some(trace));
            }
        }
    }
}
