//! `POST /hooks/{provider}/{token}`: where providers ring. What they say is a hint; it changes nothing by itself.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};

use super::Api;
use super::json::Capped;
use super::problem::{ApiError, Common};

/// The most a callback may say.
const MAX_BODY: usize = 1024 * 1024;

/// Callback of a provider
///
/// Each attempt has its own address here, with a token that cannot be guessed. The body makes the gateway ask the provider
/// at once; it is not believed. 200 once that is stored.
#[utoipa::path(
    post, path = "/hooks/{provider}/{token}", tag = "Providers",
    params(("provider" = String, Path, description = "Provider id"), ("token" = String, Path, description = "The attempt's token")),
    request_body(content = Object, description = "Whatever the provider says; at most 1 MiB"),
    responses((status = 200, description = "Noted"), Common),
    security(())
)]
pub(super) async fn ring(
    State(api): State<Api>,
    Path((provider, token)): Path<(String, String)>,
    headers: HeaderMap,
    Capped(body): Capped<MAX_BODY>,
) -> Result<StatusCode, ApiError> {
    let header = |name: &str| headers.get(name).map(axum::http::HeaderValue::as_bytes);
    if api.engine.ring(&provider, &token, header, &body).await? {
        Ok(StatusCode::OK)
    } else {
        Err(ApiError::not_found())
    }
}
