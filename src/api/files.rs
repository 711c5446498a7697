//! `/files`: input images and masks, uploaded once and named by id in requests.

use std::time::Duration;

use axum::body::Body;
use axum::extract::multipart::Multipart;
use axum::extract::{DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue, LOCATION};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::json::{StrictQuery, content_length};
use super::picture::{Access, Sent, send};
use super::problem::{ApiError, Common};
use crate::blobs::{BlobError, MAX_BYTES, Saved};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::file::StoredFile;
use crate::domain::id::FileId;
use crate::domain::image::MediaType;
use crate::domain::link::file_path;
use crate::engine::Caller;
use crate::net::guarded::FetchError;

/// An upload must have arrived within this time.
const UPLOAD_WITHIN: Duration = Duration::from_mins(2);

/// The longest form with an image in it, in bytes: its boundaries and headers come on top.
const MAX_FORM: u64 = MAX_BYTES + 64 * 1024;

/// An input image in custody.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FileView {
    /// Its id, for `file_id` in requests.
    id: FileId,
    /// `file`
    #[schema(example = "file")]
    object: &'static str,
    /// Its type, read from the bytes.
    media_type: MediaType,
    /// Pixels across.
    width: u32,
    /// Pixels down.
    height: u32,
    /// Its length.
    bytes: u64,
    /// SHA-256 of its bytes, in hex.
    sha256: String,
    /// When it came.
    created_at: Millis,
}

impl From<StoredFile> for FileView {
    fn from(file: StoredFile) -> Self {
        Self {
            id: file.id,
            object: "file",
            media_type: file.header.media_type,
            width: file.header.width,
            height: file.header.height,
            bytes: file.bytes,
            sha256: file.sha256,
            created_at: file.created_at,
        }
    }
}

/// Upload an image
///
/// Either the image itself as the body, or a form with the image in the field `file`. PNG, JPEG, WebP, GIF and AVIF up to
/// 32 MiB, streamed; what it is is read from its bytes, not from its name or content type.
#[utoipa::path(
    post, path = "/files", tag = "Files",
    request_body(content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"), (UploadForm = "multipart/form-data"))),
    responses((status = 201, description = "The file", body = FileView), Common)
)]
pub(super) async fn upload_file(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, ApiError> {
    api.engine.has_room()?;
    let form = request
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/form-data"));
    if content_length(request.headers()).is_some_and(|length| length > MAX_FORM) {
        return Err(too_large());
    }
    let saving = async {
        if form {
            save_form(&api, request).await
        } else {
            save(&api, request.into_body().into_data_stream()).await
        }
    };
    let saved = tokio::time::timeout(UPLOAD_WITHIN, saving).await;
    let saved =
        saved.map_err(|_| ApiError::new(Code::RequestTimeout, "the upload did not arrive in time"))??;
    let file = api.enter_file(&caller, saved).await?;
    let location =
        HeaderValue::from_str(&format!("/files/{}", file.id)).unwrap_or(HeaderValue::from_static("/files"));
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(FileView::from(file))).into_response())
}

/// A form with an image in it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the documentation alone")]
struct UploadForm {
    /// The image.
    #[schema(content_media_type = "application/octet-stream")]
    file: Vec<u8>,
}

async fn save_form(api: &Api, mut request: Request) -> Result<Saved, ApiError> {
    // Without a limit of our own axum's holds, which is 2 MB.
    DefaultBodyLimit::max(usize::try_from(MAX_FORM).unwrap_or(usize::MAX)).apply(&mut request);
    let bad = |detail: String| ApiError::new(Code::InvalidRequest, detail);
    let mut form = Multipart::from_request(request, api).await.map_err(|e| bad(e.body_text()))?;
    while let Some(field) = form.next_field().await.map_err(|e| bad(e.body_text()))? {
        if field.name() == Some("file") {
            return save(api, field).await;
        }
    }
    Err(bad("the form has no field named \"file\"".into()))
}

async fn save<S, E>(api: &Api, pieces: S) -> Result<Saved, ApiError>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let mut total = 0;
    let pieces = pieces.map(|piece| match piece {
        Ok(piece) => {
            total += piece.len() as u64;
            if total > MAX_BYTES { Err(FetchError::TooLarge(MAX_BYTES)) } else { Ok(piece) }
        }
        Err(_) => Err(FetchError::Broken("the upload broke off".into())),
    });
    api.blobs.put_stream(pieces).await.map_err(|error| match error {
        BlobError::Fetch(FetchError::TooLarge(_)) => too_large(),
        BlobError::Fetch(error) => ApiError::new(Code::InvalidRequest, error.to_string()),
        error @ (BlobError::NotAPicture(_) | BlobError::Truncated) => {
            ApiError::new(Code::UnsupportedMediaType, error.to_string())
        }
        error => error.into(),
    })
}

fn too_large() -> ApiError {
    ApiError::new(Code::PayloadTooLarge, format!("at most {MAX_BYTES} bytes"))
}

/// Read a file's description
#[utoipa::path(
    get, path = "/files/{id}", tag = "Files",
    params(("id" = String, Path, description = "The file's id")),
    responses((status = 200, description = "The file", body = FileView), Common)
)]
pub(super) async fn get_file(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<FileView>, ApiError> {
    let id: FileId = id.parse().map_err(|_| ApiError::not_found())?;
    let file = api.store.file(id).await?.filter(|file| file.tenant == caller.tenant);
    file.map(|file| Json(file.into())).ok_or_else(ApiError::not_found)
}

/// Fetch a file's bytes
///
/// With a key, or by the signed address that providers are given.
#[utoipa::path(
    get, path = "/files/{id}/content", tag = "Files",
    params(("id" = String, Path, description = "The file's id"), Access),
    responses((status = 200, description = "The image", content((Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/webp"))), Common)
)]
pub(super) async fn get_content(
    State(api): State<Api>,
    caller: Option<Extension<Caller>>,
    Path(id): Path<String>,
    StrictQuery(access): StrictQuery<Access>,
    headers: axum::http::HeaderMap,
) -> Result<Response<Body>, ApiError> {
    let id: FileId = id.parse().map_err(|_| ApiError::not_found())?;
    let signed = access.check(&api, &file_path(id))?;
    let tenant = caller.map(|Extension(caller)| caller.tenant);
    let file = api.store.file(id).await?.filter(|file| signed || Some(&file.tenant) == tenant.as_ref());
    let file = file.ok_or_else(ApiError::not_found)?;
    let sent = Sent {
        sha256: &file.sha256,
        bytes: file.bytes,
        header: file.header,
        name: id.to_string(),
        // Not every provider follows one.
        redirect: false,
    };
    send(&api, sent, &access, &headers).await
}

/// Remove a file
///
/// Tasks that were already sent keep what they need.
#[utoipa::path(
    delete, path = "/files/{id}", tag = "Files",
    params(("id" = String, Path, description = "The file's id")),
    responses((status = 204, description = "It is gone"), Common)
)]
pub(super) async fn delete_file(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id: FileId = id.parse().map_err(|_| ApiError::not_found())?;
    if api.store.delete_file(caller.tenant, id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::not_found())
    }
}

impl Api {
    /// Writes down an image that is durable, as a file of the caller's tenant.
    pub(super) async fn enter_file(&self, caller: &Caller, saved: Saved) -> Result<StoredFile, ApiError> {
        let file = StoredFile {
            id: FileId::mint(self.clock.as_ref()),
            tenant: caller.tenant.clone(),
            sha256: saved.sha256,
            header: saved.header,
            bytes: saved.bytes,
            created_at: self.clock.now(),
        };
        self.store.put_file(file.clone(), None).await?;
        Ok(file)
    }
}
