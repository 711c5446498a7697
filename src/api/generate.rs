//! `POST /generate`: takes a request in and answers with its task, at once or when it has ended. `POST /generate/dry-run`
//! says what would become of the same body.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, HeaderValue, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::json::StrictJson;
use super::problem::{ApiError, Common, WithBody};
use super::{Api, events, wait};
use crate::blobs::BlobError;
use crate::domain::code::Code;
use crate::domain::fit::{Adjustment, effective};
use crate::domain::id::FileId;
use crate::domain::image::{StoredImage, decode_base64};
use crate::domain::money::Usd;
use crate::domain::request::{GenerateRequest, Operation};
use crate::domain::task::{RouteTaken, Task};
use crate::domain::validate::{FieldCode, FieldError};
use crate::domain::view::{QueueView, TaskView, view};
use crate::engine::{Acceptance, Caller, Refusal};
use crate::providers::Shown;
use crate::store::StoreError;

/// Create a task
///
/// Answers 202 once the task is stored durably; from then on it reaches exactly one end, whatever becomes of this
/// connection. With `Prefer: wait=N` the answer waits up to N seconds (1 to 60) and is 200 when the task has ended.
/// With `Accept: text/event-stream` the answer is the task's event stream, as of `GET /tasks/{id}/events`.
/// Send an `Idempotency-Key` to be able to ask again safely: the same key with the same body is the same task.
#[utoipa::path(
    post, path = "/generate", tag = "Generate",
    request_body = GenerateRequest,
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, unique within the tenant"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: wait up to N seconds for the end", example = "wait=30"),
    ),
    responses(
        (status = 200, description = "The task has ended within the wait, or was there already and has ended; or its events, as they come",
            content((TaskView = "application/json"), (String = "text/event-stream"))),
        (status = 202, description = "The task is stored", body = TaskView),
        (status = 403, description = "The key may not ask for this model", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        WithBody, Common,
    )
)]
pub(super) async fn generate(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    StrictJson(request): StrictJson<GenerateRequest>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    check(&api, &request)?;
    api.shed_by_priority(request.priority)?;
    let accepted = api.accept(caller, request, key).await?;
    let mut task = accepted.task;
    if events::wanted(&headers) {
        return api.follow_from_start(&task, accepted.replayed);
    }
    let patience = wait::preferred(&headers);
    if let Some(seconds) = patience {
        task = api.wait(task, Duration::from_secs(seconds)).await?;
    }
    let ended = task.phase.terminal();
    let status = if ended { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/tasks/{}", task.id);
    let mut response = api.whole(&task).await?;
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(LOCATION, location);
    }
    if !ended {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
    }
    if accepted.replayed {
        headers.insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
    if let Some(applied) = patience.and_then(|seconds| HeaderValue::from_str(&format!("wait={seconds}")).ok())
    {
        headers.insert("preference-applied", applied);
    }
    Ok(response)
}

/// What would become of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DryRun {
    /// The model that would serve it.
    model: String,
    /// The kind of work it is.
    operation: Operation,
    /// The route it would take.
    route: RouteTaken,
    /// The parameters as that route honours them.
    #[schema(value_type = Object)]
    effective: Value,
    /// What would not be honoured as asked.
    adjustments: Vec<Adjustment>,
    /// How many upstream calls it takes.
    calls: u32,
    /// What would be sent, call by call; keys are redacted, input images are not fetched.
    upstream: Vec<Shown>,
    /// What it would cost; `null` when no price is known.
    estimated_usd: Option<Usd>,
    /// Routes that would be tried next.
    fallbacks: Vec<RouteTaken>,
    /// Routes that cannot serve it, with their reasons.
    rejected: Vec<RejectedRoute>,
}

/// A route that cannot serve a request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RejectedRoute {
    /// Provider id.
    provider: String,
    /// The model's name there.
    provider_model: String,
    /// The code that fits.
    code: Code,
    /// Every reason.
    reasons: Vec<FieldError>,
}

/// Try a request without sending it
///
/// Validates, routes and prices the body of `POST /generate`. Nothing is stored, nothing is sent.
#[utoipa::path(
    post, path = "/generate/dry-run", tag = "Generate",
    request_body = GenerateRequest,
    responses(
        (status = 200, description = "What would become of it", body = DryRun),
        (status = 403, description = "The key may not ask for this model", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        WithBody, Common,
    )
)]
pub(super) async fn dry_run(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    StrictJson(request): StrictJson<GenerateRequest>,
) -> Result<Json<DryRun>, ApiError> {
    check(&api, &request)?;
    let plan = api.engine.plan(&caller, &request).map_err(Refusal::NoRoute)?;
    let upstream = api.engine.preview(&plan);
    let mut planned = plan.planned.into_iter();
    let Some(first) = planned.next() else { return Err(ApiError::not_found()) };
    Ok(Json(DryRun {
        model: first.model,
        operation: first.offer.operation,
        route: first.taken,
        effective: effective(&first.request),
        adjustments: first.adjustments,
        calls: first.calls,
        upstream,
        estimated_usd: first.price,
        fallbacks: planned.map(|one| one.taken).collect(),
        rejected: plan
            .rejected
            .into_iter()
            .map(|route| RejectedRoute {
                provider: route.provider,
                provider_model: route.provider_model,
                code: route.code,
                reasons: route.reasons,
            })
            .collect(),
    }))
}

/// Whether the request is well-formed for anybody, and names no address that is closed to us.
fn check(api: &Api, request: &GenerateRequest) -> Result<(), ApiError> {
    let mut faults = request.validate();
    faults.extend(api.engine.keeping().fault(request.retention));
    if !faults.is_empty() {
        return Err(ApiError::fields(Code::ValidationFailed, faults));
    }
    if let Some(refused) = request.webhook.as_ref().and_then(|own| api.engine.vet_webhook(&own.url).err()) {
        let fault = FieldError::new("/webhook/url", FieldCode::InvalidValue, refused);
        return Err(ApiError::fields(Code::UrlNotAllowed, vec![fault]));
    }
    let inputs = request.inputs();
    let closed = inputs.iter().filter_map(|(pointer, input)| {
        let error = api.engine.vet(input.url.as_deref()?).err()?;
        Some(FieldError::new(format!("{pointer}/url"), FieldCode::InvalidValue, error))
    });
    let closed: Vec<_> = closed.collect();
    if closed.is_empty() { Ok(()) } else { Err(ApiError::fields(Code::UrlNotAllowed, closed)) }
}

/// The request's one idempotency key, if it has one.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all("idempotency-key").iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let text = key
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()));
    match (text, keys.next()) {
        (Some(key), None) => Ok(Some(key.to_owned())),
        _ => Err(ApiError::new(
            Code::InvalidRequest,
            "Idempotency-Key: one header of 1 to 255 visible ASCII characters",
        )),
    }
}

impl Api {
    /// Takes the request in, its inline images first: they are durable before the task is, and never part of its row.
    async fn accept(
        &self,
        caller: Caller,
        mut request: GenerateRequest,
        key: Option<String>,
    ) -> Result<Acceptance, ApiError> {
        let fingerprint = request.fingerprint();
        let inline = request.inputs().iter().any(|(_, input)| input.b64_json.is_some());
        let mut kept = Vec::new();
        if inline {
            if let Some(key) = &key
                && let Some(earlier) = self.engine.replay(&caller.tenant, key, &fingerprint).await?
            {
                return Ok(earlier);
            }
            // A request that no route can serve leaves nothing behind.
            self.engine.plan(&caller, &request).map_err(Refusal::NoRoute)?;
            self.engine.has_room()?;
            kept = self.keep_inline(&caller, &mut request).await?;
        }
        Ok(self.engine.accept(caller, request, kept, key, fingerprint).await?)
    }

    /// Replaces every inline image by a file in custody.
    async fn keep_inline(
        &self,
        caller: &Caller,
        request: &mut GenerateRequest,
    ) -> Result<Vec<FileId>, ApiError> {
        let mut kept = Vec::new();
        for (pointer, input) in request.inputs_mut() {
            let Some(text) = input.b64_json.take() else { continue };
            let pointer = format!("{pointer}/b64_json");
            let refuse = |detail: String| {
                ApiError::fields(
                    Code::ValidationFailed,
                    vec![FieldError::new(&pointer, FieldCode::InvalidValue, detail)],
                )
            };
            let bytes = decode_base64(&text).ok_or_else(|| refuse("not base64".into()))?;
            let saved = match self.blobs.put(bytes).await {
                Err(error @ (BlobError::NotAPicture(_) | BlobError::Truncated)) => {
                    return Err(refuse(error.to_string()));
                }
                saved => saved?,
            };
            let file = self.enter_file(caller, saved).await?.id;
            input.file_id = Some(file);
            kept.push(file);
        }
        Ok(kept)
    }

    /// The task with its pictures, as callers see it.
    pub(super) async fn view(&self, task: &Task) -> Result<TaskView, StoreError> {
        Ok(self.view_with(task, &self.pictures(task).await?).await)
    }

    /// The task's pictures. They are written with its end: before it there are none to look for.
    pub(super) async fn pictures(&self, task: &Task) -> Result<Vec<StoredImage>, StoreError> {
        Ok(if task.phase.terminal() { self.store.images(task.id).await? } else { Vec::new() })
    }

    /// The task with these pictures, as callers see it.
    pub(super) async fn view_with(&self, task: &Task, images: &[StoredImage]) -> TaskView {
        let mut view = view(task, images, &self.links, self.clock.now());
        if !task.phase.terminal() {
            // A pleasantry: the answer does not fail for want of it.
            let outlook = self.engine.outlook(task).await.ok();
            view.queue = outlook.map(|(position, eta_s)| QueueView { position, eta_s });
        }
        view
    }
}
