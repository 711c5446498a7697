//! `POST /tasks/{id}/cancel`: calls a task off.

use axum::extract::{Path, State};
use axum::{Extension, Json};

use super::Api;
use super::problem::{ApiError, Common};
use crate::domain::view::TaskView;
use crate::engine::Caller;

/// Cancel a task
///
/// A queued task is canceled at no cost. One that a provider is already paid for cannot be taken back and answers 409.
#[utoipa::path(
    post, path = "/tasks/{id}/cancel", tag = "Tasks",
    params(("id" = String, Path, description = "The task's id")),
    responses(
        (status = 200, description = "The task, canceled", body = TaskView),
        (status = 409, description = "It has ended, or is at a provider that offers no way back", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        Common,
    )
)]
pub(super) async fn cancel_task(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<TaskView>, ApiError> {
    let id = id.parse().map_err(|_| ApiError::not_found())?;
    let task = Box::pin(api.engine.cancel(&caller.tenant, id)).await?;
    Ok(Json(api.view(&task).await?))
}
