//! The outermost layer: names every request, echoes the name, writes error bodies, and logs one line per request.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;

use super::problem;
use crate::domain::secret::random_bytes;

const REQUEST_ID: &str = "x-request-id";
const TRACE_PARENT: &str = "traceparent";

pub(super) async fn identify(request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(|id| plain(id));
    let id = given.map_or_else(|| format!("req_{}", hex::encode(random_bytes::<12>())), str::to_owned);
    let trace = request.headers().get(TRACE_PARENT).cloned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let began = Instant::now();
    let mut response = problem::finish(next.run(request).await, &id);
    super::metrics::answered(route.as_deref(), response.status(), began.elapsed());
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    let trace_id = trace.as_ref().and_then(|it| it.to_str().ok()?.split('-').nth(1).filter(|id| plain(id)));
    tracing::debug!(
        request.id = id, trace.id = trace_id, http.method = %method, http.route = route, http.status = response.status().as_u16(),
        duration_ms = began.elapsed().as_millis(), "answered"
    );
    if let Some(trace) = trace {
        response.headers_mut().insert(TRACE_PARENT, trace);
    }
    response
}

/// Ids of others are taken over when they can be logged as they are.
fn plain(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
}
