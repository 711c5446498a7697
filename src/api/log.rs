//! `POST /admin/log`: another log level while the gateway runs.

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::json::StrictJson;
use super::problem::{ApiError, Common, WithBody};
use crate::domain::code::Code;
use crate::domain::key::{Key, Role};
use crate::domain::validate::{FieldCode, FieldError};

/// How much is logged.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevel {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter by module.
    #[schema(example = "easel::engine=debug,info")]
    level: String,
}

/// Change the log level
///
/// Until the next change or start; on this replica alone. An admin key is asked for.
#[utoipa::path(
    post, path = "/admin/log", tag = "Operation",
    request_body = LogLevel,
    responses((status = 200, description = "What is logged from now on", body = LogLevel),
        (status = 403, description = "The key is not an admin's", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        WithBody, Common)
)]
pub(super) async fn set_log_level(
    State(api): State<Api>,
    Extension(key): Extension<Key>,
    StrictJson(wanted): StrictJson<LogLevel>,
) -> Result<Json<LogLevel>, ApiError> {
    if key.role != Role::Admin {
        return Err(ApiError::new(Code::Forbidden, "the log level is set by admin keys"));
    }
    (api.set_level)(&wanted.level).map_err(|wrong| {
        let fault = FieldError::new("/level", FieldCode::InvalidValue, wrong);
        ApiError::fields(Code::ValidationFailed, vec![fault])
    })?;
    tracing::warn!(key.name, level = wanted.level, "the log level was changed");
    Ok(Json(wanted))
}
