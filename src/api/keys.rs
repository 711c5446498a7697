//! `/admin/keys`: the keys the gateway manages itself. A key's text is in the answer that makes it, and nowhere else.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderName, LOCATION};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::audit::actor;
use super::json::{StrictJson, StrictQuery};
use super::page::{cursor, limit, page, read_cursor};
use super::problem::{AdminOnly, ApiError, Common, WithBody};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::id::KeyId;
use crate::domain::key::{Key, LONGEST_OVERLAP_S, ManagedKey, Role};
use crate::domain::key_text::KeyText;
use crate::domain::money::Usd;
use crate::domain::new_key::NewKey;
use crate::domain::validate::{FieldCode, FieldError};

/// A key, without its text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyView {
    /// Its id, a part of its text.
    id: KeyId,
    #[serde(flatten)]
    facts: KeyFacts,
    /// When it was made.
    created_at: Millis,
    /// When it was last given a new secret.
    rotated_at: Option<Millis>,
    /// Until when the secret before opens, too.
    previous_until: Option<Millis>,
    /// Since when it opens nothing.
    revoked_at: Option<Millis>,
    /// Its text: in the answers that make one, and nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(
        example = "easel_01k9zq5s4m8v2c6x0b3n7d1f5g_5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef0badcafe"
    )]
    key: Option<String>,
}

/// What a key opens, and how much of it; `null` does not limit.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyFacts {
    /// Its name.
    #[schema(example = "web-shop")]
    name: String,
    /// Whose tasks it works on.
    #[schema(example = "shop")]
    tenant: String,
    /// What it may do.
    role: Role,
    /// The models it may ask for; empty: all.
    models: Vec<String>,
    /// Requests a minute.
    rpm: Option<u32>,
    /// Tasks that are not over yet.
    concurrent_tasks: Option<u32>,
    /// What may be spent on one day, UTC.
    daily_budget_usd: Option<Usd>,
    /// What may be spent at all.
    budget_usd: Option<Usd>,
    /// From when it opens nothing.
    expires_at: Option<Millis>,
}

impl From<&Key> for KeyFacts {
    fn from(key: &Key) -> Self {
        let limits = &key.limits;
        Self {
            name: key.name.clone(),
            tenant: key.tenant.clone(),
            role: key.role,
            models: limits.models.clone(),
            rpm: limits.rpm,
            concurrent_tasks: limits.concurrent_tasks,
            daily_budget_usd: limits.daily_budget,
            budget_usd: limits.budget,
            expires_at: limits.expires_at,
        }
    }
}

impl KeyView {
    fn of(key: &ManagedKey, text: Option<String>) -> Self {
        Self {
            id: key.id,
            facts: KeyFacts::from(&key.key),
            created_at: key.created_at,
            rotated_at: key.rotated_at,
            previous_until: key.previous.as_ref().map(|(_, until)| *until),
            revoked_at: key.revoked_at,
            key: text,
        }
    }
}

/// A page of keys.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct KeyPage {
    /// The managed keys, newest first, revoked ones too.
    data: Vec<KeyView>,
    /// The keys of the configuration. They have no id; the configuration is where they are changed.
    configured: Vec<KeyFacts>,
    /// Whether there are older ones.
    has_more: bool,
    /// Where the next page begins.
    next_cursor: Option<String>,
}

/// How many keys.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListKeys {
    /// How many, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// How to exchange a secret.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    /// For how many seconds the secret before still opens, 0 to 2592000; `auth.rotate_overlap_s` (a day) unless said otherwise.
    #[param(minimum = 0, maximum = 2_592_000)]
    overlap_s: Option<u32>,
}

/// Create a key
///
/// The answer carries the key's text, this once: what is kept is an HMAC of it. It opens at once here, and on every other
/// replica within seconds.
#[utoipa::path(
    post, path = "/admin/keys", tag = "Admin",
    request_body = NewKey,
    responses((status = 201, description = "The key, with its text", body = KeyView), AdminOnly, WithBody, Common)
)]
pub(super) async fn create_key(
    State(api): State<Api>,
    Extension(by): Extension<Key>,
    StrictJson(wanted): StrictJson<NewKey>,
) -> Result<Response, ApiError> {
    let mut faults = wanted.faults(api.clock.now());
    let catalog = api.engine.catalog();
    let unknown = wanted.models.iter().enumerate().filter(|(_, model)| !catalog.knows(model));
    faults.extend(unknown.map(|(at, model)| {
        let detail = format!("unknown model {model:?}; GET /models lists them");
        FieldError::new(format!("/models/{at}"), FieldCode::InvalidValue, detail)
    }));
    let taken = || FieldError::new("/name", FieldCode::Conflict, "another key has this name, or had it");
    if api.keys.configured().iter().any(|key| key.name == wanted.name) {
        faults.push(taken());
    }
    if !faults.is_empty() {
        return Err(ApiError::fields(Code::ValidationFailed, faults));
    }
    let (key, text) = wanted.mint(api.clock.as_ref(), api.keys.pepper());
    let entry = key.created(api.clock.as_ref(), actor(&by));
    if !api.store.create_key(key.clone(), entry).await? {
        return Err(ApiError::fields(Code::ValidationFailed, vec![taken()]));
    }
    api.keys.changed().await;
    let location = format!("/admin/keys/{}", key.id);
    Ok((StatusCode::CREATED, secret([(LOCATION, location)], KeyView::of(&key, Some(text.text))))
        .into_response())
}

/// List keys
///
/// Newest first, revoked ones too; and the keys of the configuration.
#[utoipa::path(
    get, path = "/admin/keys", tag = "Admin", params(ListKeys),
    responses((status = 200, description = "A page of keys", body = KeyPage), AdminOnly, Common)
)]
pub(super) async fn list_keys(
    State(api): State<Api>,
    uri: axum::http::Uri,
    StrictQuery(query): StrictQuery<ListKeys>,
) -> Result<Response, ApiError> {
    let limit = limit(query.limit)?;
    let below: Option<KeyId> = query.cursor.as_deref().map(read_cursor).transpose()?;
    let mut keys = api.store.keys().await?;
    keys.retain(|key| below.is_none_or(|below| key.id < below));
    keys.reverse();
    let has_more = keys.len() > limit;
    keys.truncate(limit);
    let next_cursor = keys.last().filter(|_| has_more).map(|last| cursor(last.id));
    let data = keys.iter().map(|key| KeyView::of(key, None)).collect();
    let configured = api.keys.configured().iter().map(KeyFacts::from).collect();
    let next = next_cursor.clone();
    Ok(page(&KeyPage { data, configured, has_more, next_cursor }, &uri, next.as_deref()))
}

/// Exchange a key's secret
///
/// The answer carries the new text, this once. The text before opens for the overlap, too; the one before that no more.
#[utoipa::path(
    post, path = "/admin/keys/{id}/rotate", tag = "Admin",
    params(("id" = String, Path, description = "The key's id"), Rotate),
    responses((status = 200, description = "The key, with its new text", body = KeyView), AdminOnly, Common)
)]
pub(super) async fn rotate_key(
    State(api): State<Api>,
    Extension(by): Extension<Key>,
    Path(id): Path<String>,
    StrictQuery(query): StrictQuery<Rotate>,
) -> Result<Response, ApiError> {
    let id: KeyId = id.parse().map_err(|_| ApiError::not_found())?;
    let overlap_s = query.overlap_s.map_or(api.key_overlap, |seconds| Duration::from_secs(seconds.into()));
    if query.overlap_s.is_some_and(|seconds| seconds > LONGEST_OVERLAP_S) {
        let detail = format!("overlap_s: must be from 0 to {LONGEST_OVERLAP_S}");
        return Err(ApiError::new(Code::InvalidRequest, detail));
    }
    let text = KeyText::fresh_for(id);
    let until = api.clock.now() + overlap_s;
    let entry = api.done(&by, "key.rotate", id.to_string()).with("previous_until", until.to_string());
    let rotated = api.store.rotate_key(id, text.hash(api.keys.pepper()), until, entry).await?;
    let key = rotated.ok_or_else(ApiError::not_found)?;
    api.keys.changed().await;
    Ok(secret([], KeyView::of(&key, Some(text.text))).into_response())
}

/// Revoke a key
///
/// It opens nothing any more: here at once, on every other replica within 5 seconds. Its tasks go on. Its name stays taken,
/// because tasks and the ledger know it by it.
#[utoipa::path(
    delete, path = "/admin/keys/{id}", tag = "Admin",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 204, description = "It is revoked"), AdminOnly, Common)
)]
pub(super) async fn revoke_key(
    State(api): State<Api>,
    Extension(by): Extension<Key>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id: KeyId = id.parse().map_err(|_| ApiError::not_found())?;
    let revoked = api.store.revoke_key(id, api.done(&by, "key.revoke", id.to_string())).await?;
    api.keys.changed().await;
    let there = revoked.is_some() || api.store.keys().await?.iter().any(|key| key.id == id);
    if there { Ok(StatusCode::NO_CONTENT) } else { Err(ApiError::not_found()) }
}

/// An answer that no cache may keep.
fn secret<const N: usize>(headers: [(HeaderName, String); N], body: KeyView) -> Response {
    (headers, [(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
