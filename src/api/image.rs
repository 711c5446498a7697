//! `GET /tasks/{id}/images/{index}`: a picture's bytes, with a key or by a signed address.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use object_store::GetRange;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::json::StrictQuery;
use super::problem::{ApiError, Common};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::id::TaskId;
use crate::domain::image::StoredImage;
use crate::engine::Caller;

/// How the picture is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct GetImage {
    /// `1`: as a file to save instead of one to show.
    download: Option<u8>,
    /// With `sig`: until when the address holds, in milliseconds since the epoch.
    expires: Option<i64>,
    /// The address's signature; with it no key is needed.
    sig: Option<String>,
}

/// Fetch a picture
///
/// The bytes, exactly as they are kept: `ETag` is their SHA-256, `Range` is honoured.
#[utoipa::path(
    get, path = "/tasks/{id}/images/{index}", tag = "Tasks",
    params(
        ("id" = String, Path, description = "The task's id"),
        ("index" = u32, Path, description = "The picture's place, from 0"),
        GetImage,
    ),
    responses(
        (status = 200, description = "The picture", content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"))),
        (status = 206, description = "The part of it that was asked for"),
        (status = 304, description = "The caller has it already"),
        (status = 403, description = "The signature does not hold", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        Common,
    )
)]
pub(super) async fn get_image(
    State(api): State<Api>,
    caller: Option<Extension<Caller>>,
    Path((id, index)): Path<(String, String)>,
    StrictQuery(query): StrictQuery<GetImage>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let index: u32 = index.parse().map_err(|_| ApiError::not_found())?;
    let task: TaskId = match (&query.sig, caller) {
        (Some(sig), _) => {
            let refused =
                || ApiError::new(Code::Forbidden, "the address's signature does not hold, or has expired");
            let (id, expires) = (id.parse().map_err(|_| refused())?, Millis(query.expires.unwrap_or(0)));
            if !api.links.holds(id, index, expires, sig, api.clock.now()) {
                return Err(refused());
            }
            id
        }
        (None, Some(Extension(caller))) => api.task_of(&caller, &id).await?.id,
        (None, None) => return Err(ApiError::not_found()),
    };
    let images = api.store.images(task).await?;
    let image = images.into_iter().find(|image| image.index == index).ok_or_else(ApiError::not_found)?;
    let etag = format!("\"{}\"", image.sha256);
    if headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value == "*" || value.contains(&etag)))
    {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag)]).into_response());
    }
    let range =
        headers.get(RANGE).and_then(|value| value.to_str().ok()).and_then(|value| range(value, image.bytes));
    if let Some(Err(())) = range {
        let mut response =
            ApiError::new(Code::RangeNotSatisfiable, format!("the picture has {} bytes", image.bytes))
                .into_response();
        response.headers_mut().insert(CONTENT_RANGE, text(&format!("bytes */{}", image.bytes)));
        return Ok(response);
    }
    let part = range.and_then(Result::ok);
    let opened = api.blobs.get(&image.sha256, part.clone()).await?;
    let mut response = Body::from_stream(opened.body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, (opened.range.end - opened.range.start).into());
    if part.is_some() {
        let (first, last) = (opened.range.start, opened.range.end.saturating_sub(1));
        headers.insert(CONTENT_RANGE, text(&format!("bytes {first}-{last}/{}", opened.length)));
    }
    describe(headers, &image, task, query.download == Some(1));
    headers.insert(ETAG, text(&etag));
    if part.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// What goes with the bytes: their sniffed type and nothing a browser could run.
fn describe(headers: &mut HeaderMap, image: &StoredImage, task: TaskId, download: bool) {
    let how = if download { "attachment" } else { "inline" };
    let name = format!("{how}; filename=\"{task}-{}.{}\"", image.index, image.media_type.extension());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(image.media_type.as_str()));
    headers.insert(CONTENT_DISPOSITION, text(&name));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static(""))
}

/// One range of bytes. `None`: not one we serve in part, so the whole is sent; `Some(Err)`: outside the picture.
fn range(value: &str, length: u64) -> Option<Result<GetRange, ()>> {
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let parsed = match (first, last) {
        ("", last) => GetRange::Suffix(last.parse().ok().filter(|count| *count > 0)?),
        (first, "") => GetRange::Offset(first.parse().ok()?),
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if last < first {
                return None;
            }
            GetRange::Bounded(first..last.saturating_add(1))
        }
    };
    let outside = match &parsed {
        GetRange::Offset(first) => *first >= length,
        GetRange::Bounded(range) => range.start >= length,
        GetRange::Suffix(_) => false,
    };
    Some(if outside { Err(()) } else { Ok(parsed) })
}
