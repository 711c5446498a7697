//! Errors as callers see them: RFC 9457 problems. Handlers return [`ApiError`]; the entrance adds the request id
//! and writes the body, so that every error answer looks the same.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Method, Request, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;

use crate::blobs::BlobError;
use crate::domain::code::Code;
use crate::domain::validate::{FieldCode, FieldError};
use crate::domain::view::Problem;
use crate::engine::Refusal;
use crate::store::StoreError;

/// An error answer.
#[derive(Debug, Clone)]
pub struct ApiError {
    problem: Box<Problem>,
    retry_after_s: Option<u64>,
}

impl ApiError {
    /// A problem with this code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        // Whoever may try again is told when.
        let retry_after_s = matches!(code.meaning().status, 429 | 503).then_some(2);
        Self { problem: Box::new(Problem::new(code, detail)), retry_after_s }
    }

    /// A request whose fields are at fault.
    pub fn fields(code: Code, errors: Vec<FieldError>) -> Self {
        let detail =
            errors.first().map(|first| format!("{}: {}", first.pointer, first.detail)).unwrap_or_default();
        let mut error = Self::new(code, detail);
        error.problem.errors = errors;
        error
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreadable(_) => {
                tracing::error!(%error, "a row cannot be read");
                Self::new(Code::Internal, "a stored row cannot be read")
            }
            error => {
                // The store tells of its failures itself, and not for every caller.
                tracing::debug!(%error, "a caller was told that the store did not answer");
                Self::new(Code::StoreUnavailable, "the database did not answer")
            }
        }
    }
}

impl From<BlobError> for ApiError {
    fn from(error: BlobError) -> Self {
        tracing::error!(%error, "a picture cannot be read");
        Self::new(Code::StorageFailed, "the picture cannot be read at the moment")
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoRoute(none) => {
                let mut error = Self::fields(none.code, none.errors);
                error.problem.detail = none.detail;
                error
            }
            Refusal::KeyReused(task) => {
                let mut error = Self::new(Code::IdempotencyKeyReused, refusal.to_string());
                error.problem.task_id = Some(task);
                error
            }
            Refusal::NotFound => Self::not_found(),
            Refusal::TooLate(code, detail) | Refusal::NoMoney(code, detail) => Self::new(code, detail),
            Refusal::AllOpen(wait) => Self::later(Code::NoProviderAvailable, refusal.to_string(), wait),
            Refusal::Full(detail, wait) => Self::later(Code::QueueFull, detail, wait),
            Refusal::NoSpace(wait) => Self::later(Code::Overloaded, refusal.to_string(), wait),
            Refusal::Store(error) => error.into(),
        }
    }
}

impl ApiError {
    /// An error that passes by itself after about `wait`.
    pub fn later(code: Code, detail: impl Into<String>, wait: Duration) -> Self {
        let seconds = wait.as_secs().max(1);
        Self { retry_after_s: Some(seconds), ..Self::new(code, detail) }
    }

    /// What was here and is kept no longer.
    pub fn gone(detail: &str) -> Self {
        Self::new(Code::Gone, detail)
    }

    /// The same body for what is not there and for what belongs to somebody else.
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "there is no such thing here")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if self.problem.code == Code::Unauthorized {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Writes the body of an error answer, with the id of the request that met it.
pub(super) fn finish(mut response: Response, request_id: &str) -> Response {
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let mut problem = error.problem;
        problem.request_id = Some(request_id.to_owned());
        let body = Json(problem).into_response().into_body();
        *response.body_mut() = body;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    }
    response
}

pub(super) async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::new(Code::NotFound, format!("nothing is served at {}; /docs lists what is", uri.path()))
}

pub(super) async fn no_such_method(method: Method, request: Request<Body>) -> ApiError {
    ApiError::new(Code::MethodNotAllowed, format!("{} does not take {method}", request.uri().path()))
}

#[expect(clippy::needless_pass_by_value, reason = "what was caught")]
pub(super) fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let message =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    tracing::error!(panic = message.unwrap_or("?"), "a handler panicked");
    ApiError::new(Code::Internal, "unexpected failure; the request id finds the log line").into_response()
}

/// The errors any endpoint that needs a key can answer with.
pub(super) struct Common;

/// The error of an endpoint that is for admins alone, beside the common ones.
pub(super) struct AdminOnly;

/// The errors of an endpoint that takes a body, beside the common ones.
pub(super) struct WithBody;

macro_rules! responses {
    ($name:ident, $($status:literal $code:ident $text:literal;)*) => {
        impl IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
                [$(($status.to_owned(), documented(Code::$code, $text)),)*].into()
            }
        }
    };
}

/// An error answer in the documentation, with a code that belongs to it.
fn documented(code: Code, text: &str) -> utoipa::openapi::RefOr<utoipa::openapi::Response> {
    use utoipa::openapi::{ContentBuilder, Ref, ResponseBuilder};
    let mut example = Problem::new(code, "what happened this time");
    example.request_id = Some("req_6f1d0a8c2b4e9d7f5a3c1b0e".to_owned());
    if code == Code::ValidationFailed {
        example.errors = vec![FieldError::new("/n", FieldCode::OutOfRange, "must be from 1 to 10")];
    }
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .example(serde_json::to_value(example).ok());
    ResponseBuilder::new()
        .description(text)
        .content("application/problem+json", content.build())
        .build()
        .into()
}

responses! { Common,
    "401" Unauthorized "No key, or one that is not known";
    "404" NotFound "No such thing, or another tenant's";
    "429" RateLimited "As many requests this minute, open tasks or streams as may be; `Retry-After` says when to ask again";
    "500" Internal "A defect in the gateway";
    "503" StoreUnavailable "The database does not answer; `Retry-After` says when to ask again";
}

responses! { AdminOnly,
    "403" Forbidden "The key is not an admin's";
}

responses! { WithBody,
    "400" InvalidJson "The body is not JSON, or a header is malformed";
    "402" MaxCostExceeded "The price is unknown, above `max_cost_usd`, or not covered by the key's budget";
    "413" PayloadTooLarge "The body is too large";
    "415" UnsupportedMediaType "The content type is not `application/json`";
    "422" ValidationFailed "The request is not valid, no route can serve it, or the idempotency key was used for another body";
}
