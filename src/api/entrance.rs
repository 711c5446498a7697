//! What every request passes before its handler, in this order. One layer and not one for each: a layer costs every request
//! a copy of all that lies behind it.

use std::panic::AssertUnwindSafe;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;

use super::{Api, auth, loops, problem, request_id, shed};

pub(super) async fn enter(State(api): State<Api>, request: Request, next: Next) -> Response {
    request_id::identify(&api.traces, request, async |request| {
        let answering = AssertUnwindSafe(answer(&api, request, next)).catch_unwind();
        answering.await.unwrap_or_else(problem::panicked)
    })
    .await
}

async fn answer(api: &Api, request: Request, next: Next) -> Response {
    if let Some(refusal) = api.guard.turn_away(&request).or_else(|| loops::turn_away(&api.links, &request)) {
        return refusal;
    }
    shed::carry(api, request, async |request| auth::authenticate(&api.keys, request, next).await).await
}
