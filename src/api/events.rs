//! `GET /tasks/{id}/events`: what happens to a task, as server-sent events. What was missed is replayed from the events
//! table by any replica; a restart tells followers to come back, and they miss nothing.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, LOCATION};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::Api;
use super::feed::Follower;
use super::problem::{ApiError, Common};
use crate::domain::code::Code;
use crate::domain::task::Task;
use crate::engine::Caller;
use crate::store::StoreError;

/// Sent when nothing happens, so that nobody takes the silence for a dead connection.
const HEARTBEAT: &[u8] = b":\n\n";
/// Sent before the stream is ended for another reason than the task's end: come back in a second.
const COME_BACK: &[u8] = b"retry: 1000\n\n";

/// Follow a task
///
/// Server-sent events: `task.queued`, `task.attempt`, `task.progress`, `task.partial_image`, `task.saving`, and
/// `task.succeeded`, `task.failed` or `task.canceled` with the whole task, after which the stream ends. `id` is the event's
/// number in the task: `Last-Event-ID` replays what came after it. A comment every 15 s keeps the connection alive.
/// With nothing left to tell the answer is 204, which tells an `EventSource` not to come back.
#[utoipa::path(
    get, path = "/tasks/{id}/events", tag = "Tasks",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that was seen", example = "3"),
    ),
    responses(
        (status = 200, description = "The events, as they come", body = String, content_type = "text/event-stream",
            example = "id: 2\nevent: task.attempt\ndata: {\"attempt\":1,\"provider\":\"piapi_flux\"}\n\n"),
        (status = 204, description = "The task has ended, and all of it was seen"),
        (status = 410, description = "The task was erased", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        (status = 429, description = "This tenant follows as many tasks as it may", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        Common,
    )
)]
pub(super) async fn follow_task(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let task = api.task_of(&caller, &id).await?;
    let seen = last_seen(&headers)?;
    if task.state.erased_at.is_some() {
        return Err(ApiError::gone("the task was erased"));
    }
    if task.phase.terminal() && seen >= task.state.events {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    api.follow(&task, seen)
}

/// Whether the caller asks for events rather than for one answer.
pub(super) fn wanted(headers: &HeaderMap) -> bool {
    let kinds = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut kinds =
        kinds.flat_map(|value| value.split(',')).map(|kind| kind.split(';').next().unwrap_or(kind));
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
}

fn last_seen(headers: &HeaderMap) -> Result<i64, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(0) };
    let number = value.to_str().ok().filter(|text| text.len() < 19).and_then(|text| match text.trim() {
        "" => Some(0),
        text => text.parse().ok().filter(|seen| *seen >= 0),
    });
    number.ok_or_else(|| ApiError::new(Code::InvalidRequest, "Last-Event-ID: not the id of an event"))
}

impl Api {
    fn follow(&self, task: &Task, seen: i64) -> Result<Response, ApiError> {
        let follower = self.feeds.follow(task).ok_or_else(|| {
            ApiError::new(
                Code::RateLimited,
                "this tenant follows as many tasks as it may; end a stream first",
            )
        })?;
        let following =
            Following { follower, seen, heartbeat: self.heartbeat, closing: self.closing.clone() };
        let mut response = Body::from_stream(following.stream()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Proxies that gather answers before they pass them on would hold the events back.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }

    /// A new task's events, as the answer to the request that made it.
    pub(super) fn follow_from_start(&self, task: &Task, replayed: bool) -> Result<Response, ApiError> {
        let mut response = self.follow(task, 0)?;
        if let Ok(location) = HeaderValue::from_str(&format!("/tasks/{}", task.id)) {
            response.headers_mut().insert(LOCATION, location);
        }
        if replayed {
            response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        Ok(response)
    }
}

/// One follower's place in a task's events: all that an idle connection holds.
struct Following {
    follower: Follower,
    seen: i64,
    heartbeat: Duration,
    closing: CancellationToken,
}

impl Following {
    fn stream(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
        let pieces = stream::unfold(Some(self), |following| async move {
            let mut following = following?;
            let (bytes, goes_on) = following.next().await;
            Some((stream::iter(bytes), goes_on.then_some(following)))
        });
        pieces.flatten().map(Ok)
    }

    /// What is to be sent next, and whether anything comes after it.
    async fn next(&mut self) -> (Vec<Bytes>, bool) {
        loop {
            // Armed before looking: a change between the two is not missed.
            let changed = self.follower.armed();
            match self.look().await {
                Ok((bytes, ended)) if ended || !bytes.is_empty() => return (bytes, !ended),
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot read a task's events; its follower is told to come back");
                    return (vec![Bytes::from_static(COME_BACK)], false);
                }
            }
            tokio::select! {
                () = changed => {}
                () = tokio::time::sleep(self.heartbeat) => return (vec![Bytes::from_static(HEARTBEAT)], true),
                () = self.closing.cancelled() => return (vec![Bytes::from_static(COME_BACK)], false),
            }
        }
    }

    async fn look(&mut self) -> Result<(Vec<Bytes>, bool), StoreError> {
        let more = self.follower.after(self.seen).await?;
        self.seen = more.last;
        Ok((more.bytes, more.ended))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_wanted_when_it_is_asked_for() {
        let asks = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, value.parse().unwrap());
            wanted(&headers)
        };
        assert!(asks("text/event-stream") && asks("application/json, Text/Event-Stream; q=0.9"));
        assert!(!asks("application/json") && !asks("*/*") && !wanted(&HeaderMap::new()));
    }
}
