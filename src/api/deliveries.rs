//! The delivery log: every webhook that was owed, what became of it, and how to have it sent once more.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::json::StrictQuery;
use super::page::{cursor, limit, page, read_cursor};
use super::problem::{ApiError, Common};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::delivery::{Delivery, DeliveryState, Try};
use crate::domain::id::{EventId, TaskId, WebhookId};
use crate::domain::key::Key;
use crate::engine::Caller;
use crate::store::DeliveryFilter;

/// One webhook owed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryView {
    /// Its id, and the `webhook-id` of every try.
    id: EventId,
    /// The task it tells of; `null` for a test.
    task_id: Option<TaskId>,
    /// The registered endpoint; `null` when the task's own request named the address.
    webhook_id: Option<WebhookId>,
    /// Where it goes.
    url: String,
    /// What it tells.
    #[schema(example = "task.succeeded")]
    event: String,
    /// What became of it.
    state: DeliveryState,
    /// How often it was tried since it was last asked for.
    tries: u32,
    /// When it is due next.
    next_try_at: Option<Millis>,
    /// When it was written, with what it tells.
    created_at: Millis,
    /// When it was closed.
    finished_at: Option<Millis>,
    /// Its last tries.
    log: Vec<Try>,
}

impl DeliveryView {
    pub(super) fn of(one: Delivery) -> Self {
        Self {
            id: one.id,
            task_id: one.task,
            webhook_id: one.webhook,
            url: one.url,
            event: one.event,
            state: one.state,
            tries: one.tries,
            next_try_at: one.wake_at,
            created_at: one.created_at,
            finished_at: one.finished_at,
            log: one.log,
        }
    }
}

/// Which deliveries, and how many.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListDeliveries {
    /// Only those in this state: `dead` lists what no receiver took.
    state: Option<DeliveryState>,
    /// Only those about this task.
    task_id: Option<String>,
    /// How many, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of deliveries.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryPage {
    /// The deliveries, newest first.
    data: Vec<DeliveryView>,
    /// Whether there are older ones.
    has_more: bool,
    /// Where the next page begins.
    next_cursor: Option<String>,
}

/// List deliveries
///
/// Of all endpoints, and of the addresses that requests name. Newest first.
#[utoipa::path(
    get, path = "/webhooks/deliveries", tag = "Webhooks", params(ListDeliveries),
    responses((status = 200, description = "A page of deliveries", body = DeliveryPage), Common)
)]
pub(super) async fn list_all_deliveries(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    uri: axum::http::Uri,
    StrictQuery(query): StrictQuery<ListDeliveries>,
) -> Result<Response, ApiError> {
    list(&api, caller, None, query, &uri).await
}

/// List an endpoint's deliveries
///
/// Newest first.
#[utoipa::path(
    get, path = "/webhooks/{id}/deliveries", tag = "Webhooks",
    params(("id" = String, Path, description = "The endpoint's id"), ListDeliveries),
    responses((status = 200, description = "A page of deliveries", body = DeliveryPage), Common)
)]
pub(super) async fn list_deliveries(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    uri: axum::http::Uri,
    StrictQuery(query): StrictQuery<ListDeliveries>,
) -> Result<Response, ApiError> {
    let endpoint = api.endpoint_of(&caller, &id).await?;
    list(&api, caller, Some(endpoint.id), query, &uri).await
}

async fn list(
    api: &Api,
    caller: Caller,
    webhook: Option<WebhookId>,
    query: ListDeliveries,
    uri: &axum::http::Uri,
) -> Result<Response, ApiError> {
    let limit = limit(query.limit)?;
    let bad = |_| ApiError::new(Code::InvalidRequest, "task_id: not a task's id");
    let filter = DeliveryFilter {
        tenant: caller.tenant,
        webhook,
        task: query.task_id.as_deref().map(str::parse).transpose().map_err(bad)?,
        state: query.state,
        cursor: query.cursor.as_deref().map(read_cursor).transpose()?,
    };
    let listed = api.store.deliveries(filter, limit).await?;
    let next_cursor = listed.next.map(cursor);
    let data = listed.items.into_iter().map(DeliveryView::of).collect();
    let body = DeliveryPage { data, has_more: next_cursor.is_some(), next_cursor };
    Ok(page(&body, uri, body.next_cursor.as_deref()))
}

/// Send a delivery once more
///
/// Word for word and under the same `webhook-id`, at once and then by the whole schedule.
#[utoipa::path(
    post, path = "/webhooks/deliveries/{id}/redeliver", tag = "Webhooks",
    params(("id" = String, Path, description = "The delivery's id")),
    responses((status = 202, description = "The delivery, owed again", body = DeliveryView), Common)
)]
pub(super) async fn redeliver(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(by): Extension<Key>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<DeliveryView>), ApiError> {
    let id: EventId = id.parse().map_err(|_| ApiError::not_found())?;
    if !api.store.redeliver(caller.tenant, id, api.done(&by, "delivery.redeliver", id.to_string())).await? {
        return Err(ApiError::not_found());
    }
    let delivery = api.store.delivery(id).await?.ok_or_else(ApiError::not_found)?;
    Ok((StatusCode::ACCEPTED, Json(DeliveryView::of(delivery))))
}
