//! How each upstream says no: its error shape, its header for the key, and its refusal of a bad key.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::ledger::KeyCheck;

/// One manner of speaking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// PiAPI's `{code, data, message}`.
    Envelope,
    /// OpenAI's `{error: {message, type, param, code}}`.
    OpenAi,
    /// imagepipeline v3's `{detail}`.
    Detail,
    /// imagepipeline v1's `{error, error_code, message}`.
    Jobs,
}

/// A JSON answer.
pub fn json_answer(status: StatusCode, body: &Value) -> Response {
    (status, Json(body)).into_response()
}

/// PiAPI's envelope around nothing. The HTTP statuses and codes of its refusals are not published, only
/// some messages; a code equal to the status is our choice.
pub fn envelope(status: StatusCode, message: &str) -> Response {
    json_answer(status, &json!({"code": status.as_u16(), "data": null, "message": message}))
}

/// OpenAI's error object.
pub fn openai(
    status: StatusCode,
    message: &str,
    kind: &str,
    param: Option<&str>,
    code: Option<&str>,
) -> Response {
    let error = json!({"message": message, "type": kind, "param": param, "code": code});
    json_answer(status, &json!({"error": error}))
}

/// imagepipeline v1's error object.
fn jobs(status: StatusCode, code: &str, message: &str) -> Response {
    let name = status.canonical_reason().unwrap_or("Error");
    json_answer(status, &json!({"error": name, "error_code": code, "message": message}))
}

/// What Cloudflare says to a request without a User-Agent.
pub fn cloudflare_blocked() -> Response {
    (StatusCode::FORBIDDEN, [(header::SERVER, "cloudflare")], "error code: 1010").into_response()
}

impl Dialect {
    /// The API key, where this upstream looks for it.
    pub fn key(self, headers: &HeaderMap) -> Option<&str> {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let key = match self {
            Self::Envelope | Self::Jobs => text("x-api-key"),
            Self::OpenAi => text("authorization").and_then(|value| value.strip_prefix("Bearer ")),
            Self::Detail => text("api-key"),
        };
        key.map(str::trim).filter(|key| !key.is_empty())
    }

    /// An error with this status and message.
    pub fn error(self, status: StatusCode, message: &str) -> Response {
        match self {
            Self::Envelope => envelope(status, message),
            Self::OpenAi => {
                let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
                openai(status, message, kind, None, None)
            }
            Self::Detail => json_answer(status, &json!({"detail": message})),
            Self::Jobs => jobs(status, "INTERNAL_ERROR", message),
        }
    }

    /// The refusal of a key that is not good.
    pub fn refuse_key(self, check: KeyCheck) -> Option<Response> {
        let (status, message) = match check {
            KeyCheck::Ok => return None,
            KeyCheck::Missing | KeyCheck::Bad => (StatusCode::UNAUTHORIZED, "Unauthorized"),
            KeyCheck::Poor if self == Self::Envelope => (StatusCode::BAD_REQUEST, "insufficient credits"),
            KeyCheck::Poor => (StatusCode::PAYMENT_REQUIRED, "insufficient credits"),
            KeyCheck::Full => {
                (StatusCode::TOO_MANY_REQUESTS, "active task count 2 has reached the plan limit")
            }
        };
        Some(match (self, check) {
            (Self::OpenAi, KeyCheck::Missing | KeyCheck::Bad) => {
                let error = json!({"message": "Invalid signature", "type": "401"});
                json_answer(status, &json!({"error": error}))
            }
            (Self::OpenAi, KeyCheck::Poor) => {
                let (message, code) = ("You exceeded your current quota.", "insufficient_quota");
                openai(StatusCode::TOO_MANY_REQUESTS, message, code, None, Some(code))
            }
            (Self::OpenAi, _) => {
                openai(status, "Rate limit reached.", "requests", None, Some("rate_limit_exceeded"))
            }
            // The only recorded 401 of v1 speaks v3's dialect.
            (Self::Jobs, KeyCheck::Missing | KeyCheck::Bad) => Self::Detail.error(status, message),
            (Self::Jobs, KeyCheck::Poor) => jobs(status, "INSUFFICIENT_CREDITS", message),
            (Self::Jobs, _) => {
                let mut answer = jobs(status, "CONCURRENT_JOBS_EXCEEDED", "Too many concurrent jobs.");
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
                answer
            }
            _ => self.error(status, message),
        })
    }
}

/// Tells the four spelled-out keys from all others.
pub fn check_key(key: Option<&str>) -> KeyCheck {
    match key {
        None => KeyCheck::Missing,
        Some("bad-key") => KeyCheck::Bad,
        Some("poor-key") => KeyCheck::Poor,
        Some("full-key") => KeyCheck::Full,
        Some(_) => KeyCheck::Ok,
    }
}
