//! `GET /tasks/{id}/images/{index}`: a picture's bytes, with a key or by a signed address.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;

use super::Api;
use super::json::StrictQuery;
use super::picture::{Access, Sent, send};
use super::problem::{ApiError, Common};
use crate::domain::id::TaskId;
use crate::domain::image::Header;
use crate::domain::link::image_path;
use crate::domain::view::Problem;
use crate::engine::Caller;

/// Fetch a picture
///
/// The bytes, exactly as they are kept: `ETag` is their SHA-256, `Range` is honoured. `?width=256` is the picture made smaller,
/// also with a signed address. Where pictures lie in a bucket, the answer can be a redirect to it (`blobs.redirect`).
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
        (status = 307, description = "The picture is at `Location`, for five minutes: the bucket's own address"),
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
    method: Method,
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
    let header = Header { media_type: image.media_type, width: image.width, height: image.height };
    let sent = Sent {
        sha256: &image.sha256,
        bytes: image.bytes,
        header,
        name: format!("{task}-{index}"),
        // The bucket's address is signed for GET alone.
        redirect: method == Method::GET,
    };
    send(&api, sent, &access, &headers).await
}
