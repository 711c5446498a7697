//! `DELETE /tasks/{id}`: erases what a task was asked for and what came of it.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::Api;
use super::problem::{ApiError, Common};
use crate::domain::code::Code;
use crate::domain::view::Problem;
use crate::engine::Caller;
use crate::store::Erasure;

/// Erase a task
///
/// Prompt, parameters, labels, pictures, the input images sent inside the request, the history and the stored webhooks are gone
/// for good; uploads of `POST /files` have a DELETE of their own. What stays is a tombstone for the books: id, model, provider,
/// times, cost and how it ended. GET answers with it (`erased_at` is set, `prompt` is empty, there are no images), its pictures
/// and its events answer 410. The idempotency key stays too, so that a retry finds the tombstone and buys nothing. Erasing it
/// again answers 204 again.
#[utoipa::path(
    delete, path = "/tasks/{id}", tag = "Tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 204, description = "It is erased"),
        (status = 409, description = "It has not ended, or a provider may still bring a result of it", body = Problem, content_type = "application/problem+json"),
        Common,
    )
)]
pub(super) async fn erase_task(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = id.parse().map_err(|_| ApiError::not_found())?;
    match api.engine.erase(&caller.tenant, id).await? {
        Erasure::Done => Ok(StatusCode::NO_CONTENT),
        Erasure::NotFound => Err(ApiError::not_found()),
        Erasure::Running => Err(ApiError::new(
            Code::NotFinished,
            format!("{id} has not ended; cancel it or wait for its end"),
        )),
        Erasure::Expecting => Err(ApiError::new(
            Code::NotFinished,
            format!(
                "{id} has ended, but a provider may still bring a result that is paid for; ask again within a day"
            ),
        )),
    }
}
