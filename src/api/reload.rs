//! `POST /admin/reload`: reads the configuration again. What that means is the composition root's matter; here it is asked
//! for and told.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use futures_util::future::BoxFuture;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::audit::actor;
use super::problem::{AdminOnly, ApiError, Common};
use crate::domain::audit::Actor;
use crate::domain::code::Code;
use crate::domain::key::Key;
use crate::domain::validate::{FieldCode, FieldError};

/// Reads the configuration again on somebody's behalf; every problem at once when it cannot be used.
pub type Reload = Arc<dyn Fn(Actor) -> BoxFuture<'static, Result<Reloaded, Vec<String>>> + Send + Sync>;

/// What came of reading the configuration again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Reloaded {
    /// Values that have changed and hold from now on.
    #[schema(example = json!(["auth.keys", "log.level"]))]
    pub applied: Vec<String>,
    /// Values that have changed and will hold after a restart.
    #[schema(example = json!(["server.listen"]))]
    pub needs_restart: Vec<String>,
}

/// Read the configuration again
///
/// The same as SIGHUP. Keys of the configuration, `auth.rpm`, the providers' `api_key` and `prices`, `models`,
/// `routing.default_models` and `log.level` take effect at once; whatever else has changed is named in `needs_restart`.
/// A configuration with a problem changes nothing, and the answer lists every problem. Calls to providers that are under way
/// keep the key they began with. On several replicas each one is to be told.
#[utoipa::path(
    post, path = "/admin/reload", tag = "Admin",
    responses(
        (status = 200, description = "What has changed", body = Reloaded),
        (status = 422, description = "The configuration has problems; nothing has changed", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        AdminOnly, Common,
    )
)]
pub(super) async fn reload(
    State(api): State<Api>,
    Extension(by): Extension<Key>,
) -> Result<Json<Reloaded>, ApiError> {
    (api.reload)(actor(&by)).await.map(Json).map_err(|problems| {
        let fault = |problem: String| FieldError::new("", FieldCode::InvalidValue, problem);
        ApiError::fields(Code::ValidationFailed, problems.into_iter().map(fault).collect())
    })
}
