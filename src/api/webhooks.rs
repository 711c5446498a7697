//! `/webhooks`: the endpoints a tenant has registered, their secrets, and the secret of addresses that requests name.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::Api;
use super::deliveries::DeliveryView;
use super::json::StrictJson;
use super::problem::{ApiError, Common, WithBody};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::delivery::{Delivery, DeliveryState, TEST_EVENT, letter, tenant_signer};
use crate::domain::id::{EventId, WebhookId};
use crate::domain::key::Key;
use crate::domain::validate::{FieldCode, FieldError};
use crate::domain::webhook::{EventName, MAX_ENDPOINTS, Rotation, Secret, WebhookTarget};
use crate::engine::Caller;
use crate::store::Endpoint;

/// A registered endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WebhookView {
    /// Its id.
    id: WebhookId,
    /// Where letters go.
    #[schema(example = "https://svc.example.com/hook")]
    url: String,
    /// Which events it hears of.
    events: Vec<EventName>,
    /// When it was registered.
    created_at: Millis,
    /// Since when it is switched off: nothing is written for it. A test that it takes switches it on again.
    disabled_at: Option<Millis>,
    /// Why.
    disabled_reason: Option<String>,
    /// The secret its letters are signed with: in the answer that registers it, and nowhere else.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: Option<String>,
}

impl WebhookView {
    fn of(endpoint: Endpoint) -> Self {
        let (disabled_at, disabled_reason) = endpoint.disabled.unzip();
        let events = if endpoint.events.is_empty() { EventName::DEFAULT.to_vec() } else { endpoint.events };
        let Endpoint { id, url, created_at, .. } = endpoint;
        Self { id, url, events, created_at, disabled_at, disabled_reason, secret: None }
    }
}

/// All of a tenant's endpoints.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Webhooks {
    /// The endpoints, oldest first.
    data: Vec<WebhookView>,
    /// Never: there are at most 20.
    has_more: bool,
    /// None.
    next_cursor: Option<String>,
}

/// A signing secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SecretView {
    /// What receivers check signatures with.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
    /// Until when letters carry a signature by the secret before, too.
    previous_until: Option<Millis>,
}

impl SecretView {
    fn of((rotation, secrets): (Rotation, Vec<Secret>)) -> Self {
        let previous_until = rotation.overlap_until.filter(|_| secrets.len() > 1);
        Self { secret: secrets.first().map(Secret::reveal).unwrap_or_default(), previous_until }
    }
}

/// List webhook endpoints
#[utoipa::path(
    get, path = "/webhooks", tag = "Webhooks",
    responses((status = 200, description = "The tenant's endpoints", body = Webhooks), Common)
)]
pub(super) async fn list_webhooks(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Webhooks>, ApiError> {
    let endpoints = api.store.endpoints(&caller.tenant).await?;
    let data = endpoints.into_iter().map(WebhookView::of).collect();
    Ok(Json(Webhooks { data, has_more: false, next_cursor: None }))
}

/// Register a webhook endpoint
///
/// It hears of every task of this tenant that ends (or of the events it names), signed by the
/// [Standard Webhooks](https://www.standardwebhooks.com) specification: at least once, and in order for each task. The
/// answer carries the secret, this once. At most 20 endpoints.
#[utoipa::path(
    post, path = "/webhooks", tag = "Webhooks",
    request_body = WebhookTarget,
    responses((status = 201, description = "The endpoint, with its secret", body = WebhookView), WithBody, Common)
)]
pub(super) async fn register_webhook(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    StrictJson(target): StrictJson<WebhookTarget>,
) -> Result<(StatusCode, Json<WebhookView>), ApiError> {
    if let Some(fault) = target.fault("") {
        return Err(ApiError::fields(Code::ValidationFailed, vec![fault]));
    }
    if let Err(refused) = api.engine.vet_endpoint(&target.url).await {
        let fault = FieldError::new("/url", FieldCode::InvalidValue, refused);
        return Err(ApiError::fields(Code::UrlNotAllowed, vec![fault]));
    }
    let endpoint = Endpoint {
        id: WebhookId::mint(api.clock.as_ref()),
        tenant: caller.tenant,
        url: target.url,
        events: target.events,
        created_at: api.clock.now(),
        disabled: None,
    };
    if !api.store.register(endpoint.clone(), MAX_ENDPOINTS).await? {
        let detail = format!("at most {MAX_ENDPOINTS} endpoints; remove one first");
        return Err(ApiError::new(Code::ValidationFailed, detail));
    }
    let secrets = api.engine.webhook_secrets(&endpoint.id.to_string()).await?;
    let secret = Some(SecretView::of(secrets).secret);
    Ok((StatusCode::CREATED, Json(WebhookView { secret, ..WebhookView::of(endpoint) })))
}

/// Read a webhook endpoint
#[utoipa::path(
    get, path = "/webhooks/{id}", tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id")),
    responses((status = 200, description = "The endpoint", body = WebhookView), Common)
)]
pub(super) async fn get_webhook(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<WebhookView>, ApiError> {
    Ok(Json(WebhookView::of(api.endpoint_of(&caller, &id).await?)))
}

/// Remove a webhook endpoint
///
/// What is still owed to it is not sent any more.
#[utoipa::path(
    delete, path = "/webhooks/{id}", tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id")),
    responses((status = 204, description = "It is removed"), Common)
)]
pub(super) async fn delete_webhook(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(by): Extension<Key>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let endpoint = api.endpoint_of(&caller, &id).await?;
    api.store.remove_endpoint(&endpoint, api.done(&by, "webhook.remove", id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Test a webhook endpoint
///
/// Sends it one `webhook.test`, signed like any other and tried once; the delivery tells what came of it. An endpoint that
/// was switched off and takes the test is switched on again.
#[utoipa::path(
    post, path = "/webhooks/{id}/test", tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id")),
    responses((status = 202, description = "The test is on its way", body = DeliveryView), Common)
)]
pub(super) async fn test_webhook(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<DeliveryView>), ApiError> {
    let endpoint = api.endpoint_of(&caller, &id).await?;
    let now = api.clock.now();
    let said = json!({"webhook_id": endpoint.id});
    let test = Delivery {
        id: EventId::mint(api.clock.as_ref()),
        tenant: caller.tenant,
        task: None,
        webhook: Some(endpoint.id),
        url: endpoint.url,
        event: TEST_EVENT.to_owned(),
        seq: 1,
        body: letter(TEST_EVENT, now, None, &said),
        state: DeliveryState::Pending,
        tries: 0,
        wake_at: Some(now),
        created_at: now,
        finished_at: None,
        log: Vec::new(),
    };
    api.store.owe(test.clone()).await?;
    Ok((StatusCode::ACCEPTED, Json(DeliveryView::of(test))))
}

/// Exchange an endpoint's secret
///
/// The answer carries the new secret, this once. For 72 hours letters carry two signatures, by the new secret and by the
/// one before.
#[utoipa::path(
    post, path = "/webhooks/{id}/rotate", tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id")),
    responses((status = 200, description = "The new secret", body = SecretView), Common)
)]
pub(super) async fn rotate_webhook(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(by): Extension<Key>,
    Path(id): Path<String>,
) -> Result<Json<SecretView>, ApiError> {
    let endpoint = api.endpoint_of(&caller, &id).await?;
    let entry = api.done(&by, "webhook.rotate", id);
    Ok(Json(SecretView::of(api.engine.rotate_webhook_secret(&endpoint.id.to_string(), entry).await?)))
}

/// Read the secret of addresses that requests name
///
/// Letters to a request's own `webhook.url` are signed with this one secret of the tenant.
#[utoipa::path(
    get, path = "/webhooks/secret", tag = "Webhooks",
    responses((status = 200, description = "The secret", body = SecretView), Common)
)]
pub(super) async fn get_secret(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<SecretView>, ApiError> {
    Ok(Json(SecretView::of(api.engine.webhook_secrets(&tenant_signer(&caller.tenant)).await?)))
}

/// Exchange the secret of addresses that requests name
///
/// For 72 hours letters carry two signatures, by the new secret and by the one before.
#[utoipa::path(
    post, path = "/webhooks/secret/rotate", tag = "Webhooks",
    responses((status = 200, description = "The new secret", body = SecretView), Common)
)]
pub(super) async fn rotate_secret(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(by): Extension<Key>,
) -> Result<Json<SecretView>, ApiError> {
    let entry = api.done(&by, "webhook_secret.rotate", &caller.tenant);
    let signer = tenant_signer(&caller.tenant);
    Ok(Json(SecretView::of(api.engine.rotate_webhook_secret(&signer, entry).await?)))
}

impl Api {
    /// An endpoint of the caller's tenant; what is malformed, unknown or another's is not found, all alike.
    pub(super) async fn endpoint_of(&self, caller: &Caller, id: &str) -> Result<Endpoint, ApiError> {
        let id = id.parse().map_err(|_| ApiError::not_found())?;
        let endpoint = self.store.endpoint(id).await?.filter(|one| one.tenant == caller.tenant);
        endpoint.ok_or_else(ApiError::not_found)
    }
}
