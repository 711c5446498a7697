//! `GET /providers`: how every configured provider account is doing.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use super::problem::{ApiError, Common};
use crate::engine::LaneView;

/// The provider accounts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Providers {
    /// By id.
    data: Vec<LaneView>,
}

/// List providers
#[utoipa::path(
    get, path = "/providers", tag = "Catalogue",
    responses((status = 200, description = "The provider accounts", body = Providers), Common)
)]
pub(super) async fn list_providers(State(api): State<Api>) -> Result<Json<Providers>, ApiError> {
    Ok(Json(Providers { data: api.engine.lanes().await? }))
}
