//! `POST /admin/log`: another log level while the gateway runs.

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::json::StrictJson;
use super::problem::{AdminOnly, ApiError, Common, WithBody};
use crate::domain::code::Code;
use crate::domain::key::Key;
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
        AdminOnly, WithBody, Common)
)]
pub(super) async fn set_log_level(
    State(api): State<Api>,
    Extension(key): Extension<Key>,
    StrictJson(wanted): StrictJson<LogLevel>,
) -> Result<Json<LogLevel>, ApiError> {
    (api.set_level)(&wanted.level).map_err(|wrong| {
        let fault = FieldError::new("/level", FieldCode::InvalidValue, wrong);
        ApiError::fields(Code::ValidationFailed, vec![fault])
    })?;
    tracing::warn!(key.name, level = wanted.level, "the log level was changed");
    // Afterwards: whoever looks for a fault in a store that does not answer needs the level all the same.
    let entry = api.done(&key, "log.level", "log").with("level", wanted.level.as_str());
    api.keys.ring.tries.record(entry).await;
    Ok(Json(wanted))
}
