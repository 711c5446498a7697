//! The outermost of what a request passes: names it, echoes the name, writes error bodies, logs a line and tells of it as a
//! span.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::response::Response;

use super::problem;
use crate::domain::secret::random_bytes;
use crate::trace::{self, Span, Traces};

const REQUEST_ID: &str = "x-request-id";
/// Asked every few seconds by machines: nobody follows them.
const UNTRACED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

pub(super) async fn identify(
    traces: &Traces,
    request: Request,
    onward: impl AsyncFnOnce(Request) -> Response,
) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| plain(id));
    let id = given.map_or_else(|| format!("req_{}", hex::encode(random_bytes::<12>())), str::to_owned);
    let trace = request.headers().get(trace::PARENT).cloned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let began = Instant::now();
    let span = begin(traces, request.headers(), &method, route.as_deref());
    span.set_with("request.id", || Some(id.clone()));
    let mut response = problem::finish(span.around(onward(request)).await, &id);
    end(&span, &response);
    super::metrics::answered(route.as_deref(), response.status(), began.elapsed());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    tracing::debug!(
        request.id = id, trace.id = span.trace_id(), http.method = %method, http.route = route, http.status = response.status().as_u16(),
        duration_ms = began.elapsed().as_millis(), "answered"
    );
    if let Some(trace) = trace {
        response.headers_mut().insert(trace::PARENT, trace);
    }
    response
}

/// The request's span. Nothing of its path but the route: paths hold tokens, and queries signatures.
fn begin(traces: &Traces, headers: &HeaderMap, method: &Method, route: Option<&str>) -> Span {
    if route.is_some_and(|route| UNTRACED.contains(&route)) {
        return trace::here();
    }
    let method = known(method);
    let span = traces.serve(headers, || match route {
        Some(route) => format!("{method} {route}").into(),
        None => method.into(),
    });
    span.set("http.request.method", method);
    span.set_with("http.route", || route.map(str::to_owned));
    span
}

fn end(span: &Span, response: &Response) {
    let status = response.status();
    span.set("http.response.status_code", i64::from(status.as_u16()));
    // What is the caller's fault has gone well on this side.
    if status.is_server_error() {
        span.fail(status.as_str().to_owned());
    }
}

/// Callers can make up methods; spans are not called so.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

/// Ids of others are taken over when they can be logged as they are.
fn plain(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}
