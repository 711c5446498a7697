//! `GET /tasks/{id}/images/{index}`: a picture's bytes, with a key or by a signed address.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;

use super::Api;
use super::json::StrictQuery;
use super::picture::{Access, send};
use super::problem::{ApiError, Common};
use crate::domain::id::TaskId;
use crate::domain::link::image_path;
use crate::domain::view::Problem;
use crate::engine::Caller;

/// Fetch a picture
///
/// The bytes, exactly as they are kept: `ETag` is their SHA-256, `Range` is honoured.
#[utoipa::path(
    get, path = "/tasks/{id}/images/{index}", tag = "Tasks",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("index" = u32, Path, description = "The picture's place, from 0"),
        Access,
    ),
    responses(
        (status = 200, description = "The picture", content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"))),
        (status = 206, description = "The part of it that was asked for"),
        (status = 304, description = "The caller has it already"),
        (status = 410, description = "Its time is over, or its task was erased", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The signature does not hold", body = Problem, content_type = "application/problem+json"),
        Common,
    )
)]
pub(super) async fn get_image(
    State(api): State<Api>,
    caller: Option<Extension<Caller>>,
    Path((id, index)): Path<(String, String)>,
    StrictQuery(access): StrictQuery<Access>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let index: u32 = index.parse().map_err(|_| ApiError::not_found())?;
    let task: TaskId = match (id.parse(), caller) {
        (Ok(id), _) if access.check(&api, &image_path(id, index))? => id,
        (_, Some(Extension(caller))) => api.task_of(&caller, &id).await?.id,
        _ => return Err(ApiError::not_found()),
    };
    let images = api.store.images(task).await?;
    let Some(image) = images.into_iter().find(|image| image.index == index) else {
        let erased = api.store.task(task).await?.is_some_and(|task| task.state.erased_at.is_some());
        return Err(if erased { ApiError::gone("the task was erased") } else { ApiError::not_found() });
    };
    if image.gone {
        return Err(ApiError::gone("the picture's time is over"));
    }
    let name = format!("{task}-{index}");
    send(&api, &image.sha256, image.bytes, image.media_type, &name, &access, &headers).await
}
