//! `/admin/quarantine`: what was paid for and could not be turned into an image, and its recovery.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::http::header::{
    CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::audit::actor;
use super::json::{StrictJson, StrictQuery};
use super::page::{cursor, limit, page, read_cursor};
use super::problem::{AdminOnly, ApiError, Common, WithBody};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::id::{AttemptId, FileId, QuarantineId, TaskId};
use crate::domain::image::decode_base64;
use crate::domain::key::Key;
use crate::domain::quarantine::{QuarantineItem, QuarantineKind, QuarantineState};
use crate::domain::task::{Output, Source};
use crate::domain::validate::{FieldCode, FieldError};
use crate::engine::{Refusal, Supplied};
use crate::store::{QuarantineFilter, StoreError};

/// Items that are recovered in one request unless it says otherwise, and at most.
const USUAL: usize = 10;
const MOST: usize = 50;

/// Which items, and how many.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuarantine {
    /// Only in this state.
    #[param(inline)]
    state: Option<QuarantineState>,
    /// Only of this task.
    task_id: Option<TaskId>,
    /// How many, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Something kept in quarantine; its bytes are at `/admin/quarantine/{id}/content`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QuarantineItemView {
    /// Its id.
    id: QuarantineId,
    /// The task it was bought for.
    task_id: TaskId,
    /// The attempt that paid for it.
    attempt_id: AttemptId,
    /// Whose task.
    #[schema(example = "default")]
    tenant: String,
    /// Provider id.
    #[schema(example = "piapi_flux")]
    provider: String,
    /// Where it came from.
    kind: QuarantineKind,
    /// What became of it.
    state: QuarantineState,
    /// Why it could not be turned into an image.
    #[schema(example = "Silent: the answer was cut before a picture came")]
    reason: String,
    /// HTTP status it came with; 0 when nothing came.
    http_status: u16,
    /// Headers it came with, of those that are kept.
    headers: Vec<(String, String)>,
    /// Bytes that are kept, after transfer and content decoding; 0 when nothing came at all.
    bytes: u64,
    /// SHA-256 of them, in hex.
    sha256: String,
    /// Whether all of it came.
    whole: bool,
    /// How often secrets of the gateway were overwritten in it.
    redacted: u64,
    /// The result links that are not resolved, without credentials.
    result_links: Vec<String>,
    /// When it was kept.
    created_at: Millis,
    /// When it goes.
    expires_at: Millis,
}

/// A page of items.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QuarantineList {
    /// Newest first.
    data: Vec<QuarantineItemView>,
    /// Whether there are older ones.
    has_more: bool,
    /// Where the next page begins.
    next_cursor: Option<String>,
}

/// What helps: at most one of these. With none the item is read again as it is.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://img.example.com/result.png"}))]
pub(super) struct RecoverRequest {
    /// A link to the image; it goes through the policy for providers' result links.
    url: Option<String>,
    /// The image, uploaded with `POST /files` by a key of the same tenant as this one.
    file_id: Option<FileId>,
    /// The image, in base64.
    b64_json: Option<String>,
}

/// What came of an item.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecoveredItem {
    /// The item.
    id: QuarantineId,
    /// The task.
    task_id: TaskId,
    /// Whether it gave images.
    recovered: bool,
    /// How many images it gave; they are the task's `late_result`, or end it.
    images: u32,
    /// Why it gave none.
    detail: Option<String>,
}

/// What came of several items.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecoveredItems {
    /// The items, newest first.
    data: Vec<RecoveredItem>,
    /// Whether there are older ones that were not read.
    has_more: bool,
    /// Where to go on.
    next_cursor: Option<String>,
}

/// List what is in quarantine
///
/// Answers to paid calls and downloaded results that could not be turned into an image, of all tenants, newest first. They are
/// kept for `retention.quarantine_ttl_s`. For admin keys.
#[utoipa::path(
    get, path = "/admin/quarantine", tag = "Admin", params(ListQuarantine),
    responses((status = 200, description = "A page of items", body = QuarantineList), AdminOnly, Common)
)]
pub(super) async fn list_quarantine(
    State(api): State<Api>,
    uri: Uri,
    StrictQuery(query): StrictQuery<ListQuarantine>,
) -> Result<Response, ApiError> {
    let filter = QuarantineFilter {
        state: query.state,
        task: query.task_id,
        cursor: query.cursor.as_deref().map(read_cursor).transpose()?,
    };
    let listed = api.store.quarantine(filter, limit(query.limit)?).await?;
    let next_cursor = listed.next.map(cursor);
    let mut data = Vec::with_capacity(listed.items.len());
    for item in listed.items {
        data.push(api.quarantine_view(item).await?);
    }
    let body = QuarantineList { data, has_more: next_cursor.is_some(), next_cursor };
    Ok(page(&body, &uri, body.next_cursor.as_deref()))
}

/// Show something in quarantine
///
/// What is known of it; not its bytes. For admin keys.
#[utoipa::path(
    get, path = "/admin/quarantine/{id}", tag = "Admin",
    params(("id" = String, Path, description = "The item's id")),
    responses((status = 200, description = "The item", body = QuarantineItemView), AdminOnly, Common)
)]
pub(super) async fn get_quarantined(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<QuarantineItemView>, ApiError> {
    let item = api.item(&id).await?;
    Ok(Json(api.quarantine_view(item).await?))
}

/// Download the bytes of something in quarantine
///
/// As they came, after transfer and content decoding, with secrets of the gateway overwritten; always as an attachment. Written
/// into the audit. For admin keys.
#[utoipa::path(
    get, path = "/admin/quarantine/{id}/content", tag = "Admin",
    params(("id" = String, Path, description = "The item's id")),
    responses(
        (status = 200, description = "The bytes", content_type = "application/octet-stream"),
        AdminOnly,
        Common
    )
)]
pub(super) async fn get_quarantined_content(
    State(api): State<Api>,
    Extension(key): Extension<Key>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let item = api.item(&id).await?;
    let body = api.engine.quarantined(&item).await?;
    // Before the first byte goes out.
    let entry = api.done(&key, "quarantine.read", item.id.to_string()).with("task", item.task.to_string());
    api.store.audit(entry).await?;
    let name = HeaderValue::from_str(&format!("attachment; filename=\"{}.bin\"", item.id));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CONTENT_DISPOSITION, name.unwrap_or(HeaderValue::from_static("attachment"))),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'")),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Recover an image from quarantine
///
/// Reads the item again, or takes what is supplied in its place: a link, a file. What it yields becomes the task's
/// `late_result` (or ends the task, when it has not ended); cost and ledger are set right and the caller is told. Written
/// into the audit. For admin keys.
#[utoipa::path(
    post, path = "/admin/quarantine/{id}/recover", tag = "Admin",
    params(("id" = String, Path, description = "The item's id")),
    request_body = RecoverRequest,
    responses(
        (status = 200, description = "It gave images", body = RecoveredItem),
        (status = 422, description = "It gives no image that the task does not have", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        AdminOnly, WithBody, Common
    )
)]
pub(super) async fn recover_quarantined(
    State(api): State<Api>,
    Extension(key): Extension<Key>,
    Path(id): Path<String>,
    StrictJson(asked): StrictJson<RecoverRequest>,
) -> Result<Json<RecoveredItem>, ApiError> {
    let item = api.item(&id).await?;
    let supplied = api.supplied(&key, asked).await?;
    let recovered = api.engine.recover(item.id, supplied, actor(&key)).await?;
    Ok(Json(RecoveredItem {
        id: item.id,
        task_id: recovered.task,
        recovered: true,
        images: recovered.images,
        detail: None,
    }))
}

/// Which items are read again.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RecoverMany {
    /// How many, 1 to 50.
    #[param(minimum = 1, maximum = 50, default = 10)]
    limit: Option<usize>,
    /// `next_cursor` of the answer before.
    cursor: Option<String>,
}

/// Read what is in quarantine again
///
/// After an upgrade, say: every open item as it is, newest first, some at a time. For admin keys.
#[utoipa::path(
    post, path = "/admin/quarantine/recover", tag = "Admin", params(RecoverMany),
    responses((status = 200, description = "What came of each", body = RecoveredItems), AdminOnly, Common)
)]
pub(super) async fn recover_all_quarantined(
    State(api): State<Api>,
    Extension(key): Extension<Key>,
    StrictQuery(asked): StrictQuery<RecoverMany>,
) -> Result<Json<RecoveredItems>, ApiError> {
    let most = limit(asked.limit.or(Some(USUAL)))?.min(MOST);
    let cursor_in = asked.cursor.as_deref().map(read_cursor).transpose()?;
    let filter = QuarantineFilter { state: Some(QuarantineState::Open), task: None, cursor: cursor_in };
    let listed = api.store.quarantine(filter, most).await?;
    let next_cursor = listed.next.map(cursor);
    let mut data = Vec::with_capacity(listed.items.len());
    for item in listed.items {
        let (recovered, images, detail) =
            match api.engine.recover(item.id, Supplied::Nothing, actor(&key)).await {
                Ok(recovered) => (true, recovered.images, None),
                // A row that cannot be read holds up no other item.
                Err(Refusal::Store(error)) if !matches!(error, StoreError::Unreadable(_)) => {
                    return Err(error.into());
                }
                Err(refusal) => (false, 0, Some(refusal.to_string())),
            };
        data.push(RecoveredItem { id: item.id, task_id: item.task, recovered, images, detail });
    }
    Ok(Json(RecoveredItems { data, has_more: next_cursor.is_some(), next_cursor }))
}

impl Api {
    async fn item(&self, id: &str) -> Result<QuarantineItem, ApiError> {
        let id = id.parse().map_err(|_| ApiError::not_found())?;
        self.store.quarantined(id).await?.ok_or_else(ApiError::not_found)
    }

    async fn quarantine_view(&self, item: QuarantineItem) -> Result<QuarantineItemView, ApiError> {
        let attempt = match self.store.attempt(item.attempt).await {
            // What it says of the item is worth knowing; the item is there without it.
            Err(StoreError::Unreadable(_)) => None,
            attempt => attempt?,
        };
        Ok(QuarantineItemView {
            id: item.id,
            task_id: item.task,
            attempt_id: item.attempt,
            tenant: item.tenant,
            provider: item.provider,
            kind: item.kind,
            state: item.state,
            reason: item.detail.reason,
            http_status: item.detail.http_status,
            headers: item.detail.headers,
            bytes: item.bytes,
            sha256: item.sha256,
            whole: item.detail.whole,
            redacted: item.detail.redacted,
            result_links: attempt.map(|attempt| links(&attempt.made)).unwrap_or_default(),
            created_at: item.created_at,
            expires_at: item.expires_at,
        })
    }

    async fn supplied(&self, key: &Key, asked: RecoverRequest) -> Result<Supplied, ApiError> {
        let wrong = |pointer: &str, detail: &str| {
            let fault = FieldError::new(pointer, FieldCode::InvalidValue, detail);
            ApiError::fields(Code::ValidationFailed, vec![fault])
        };
        Ok(match (asked.url, asked.file_id, asked.b64_json) {
            (None, None, None) => Supplied::Nothing,
            (Some(url), None, None) => Supplied::Link(url),
            (None, Some(id), None) => {
                let file = self.store.file(id).await?.filter(|file| file.tenant == key.tenant);
                let file = file.ok_or_else(|| wrong("/file_id", "there is no such file"))?;
                Supplied::File(self.blobs.read(&file.sha256).await?)
            }
            (None, None, Some(text)) => {
                Supplied::File(decode_base64(&text).ok_or_else(|| wrong("/b64_json", "not base64"))?)
            }
            _ => return Err(wrong("", "at most one of url, file_id and b64_json")),
        })
    }
}

/// The links among outputs, without the credentials that they may carry.
pub(super) fn links(outputs: &[Output]) -> Vec<String> {
    let links = outputs.iter().filter_map(|output| match &output.source {
        Source::Url(link) => Some(link),
        Source::Blob(_) => None,
    });
    let plain = |link: &String| match url::Url::parse(link.trim()) {
        Ok(mut url) if !url.username().is_empty() || url.password().is_some() => {
            // A link that can carry credentials can do without.
            _ = url.set_username("");
            _ = url.set_password(None);
            url.to_string()
        }
        _ => link.clone(),
    };
    links.map(plain).collect()
}
