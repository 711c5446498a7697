//! `GET /providers`: how every configured provider account is doing.

use axum::extract::{Path, State};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::audit::actor;
use super::problem::{AdminOnly, ApiError, Common};
use crate::domain::key::Key;
use crate::engine::LaneView;

/// The provider accounts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Providers {
    /// By id.
    data: Vec<LaneView>,
}

/// Open a provider account again
///
/// Forgets what is held against it: a rest, open circuits, a limit that was learned. By itself each of these ends within minutes;
/// this is for who knows better. For admin keys.
#[utoipa::path(
    post, path = "/admin/providers/{id}/reset", tag = "Admin",
    params(("id" = String, Path, description = "The provider's id", example = "piapi_flux")),
    responses((status = 200, description = "The account as it is now", body = LaneView), AdminOnly, Common)
)]
pub(super) async fn reset_provider(
    State(api): State<Api>,
    Extension(key): Extension<Key>,
    Path(id): Path<String>,
) -> Result<Json<LaneView>, ApiError> {
    if !api.engine.reset_lane(&id, actor(&key)).await? {
        return Err(ApiError::not_found());
    }
    let lane = api.engine.lanes().await?.into_iter().find(|lane| lane.id == id);
    lane.map(Json).ok_or_else(ApiError::not_found)
}

/// List providers
#[utoipa::path(
    get, path = "/providers", tag = "Catalogue",
    responses((status = 200, description = "The provider accounts", body = Providers), Common)
)]
pub(super) async fn list_providers(State(api): State<Api>) -> Result<Json<Providers>, ApiError> {
    Ok(Json(Providers { data: api.engine.lanes().await? }))
}
