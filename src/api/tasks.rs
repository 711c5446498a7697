//! `GET /tasks`: the tenant's tasks, newest first, page by page.

use axum::extract::State;
use axum::http::header::{HeaderValue, LINK};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::json::StrictQuery;
use super::problem::{ApiError, Common};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::id::TaskId;
use crate::domain::view::{Status, TaskView};
use crate::engine::Caller;
use crate::store::TaskFilter;

/// Which tasks, and how many.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ListTasks {
    /// Only tasks that stand so.
    status: Option<Status>,
    /// Only tasks of this model.
    model: Option<String>,
    /// Only tasks at this provider.
    provider: Option<String>,
    /// Only tasks accepted at or after this moment.
    created_after: Option<Millis>,
    /// Only tasks accepted before this moment.
    created_before: Option<Millis>,
    /// How many, 1 to 200.
    #[param(minimum = 1, maximum = 200, default = 50)]
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of tasks.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TaskPage {
    /// The tasks, newest first.
    data: Vec<TaskView>,
    /// Whether there are older ones.
    has_more: bool,
    /// Where the next page begins.
    next_cursor: Option<String>,
}

/// List tasks
///
/// Newest first. Pages stay right while tasks are added.
#[utoipa::path(
    get, path = "/tasks", tag = "Tasks", params(ListTasks),
    responses((status = 200, description = "A page of tasks", body = TaskPage), Common)
)]
pub(super) async fn list_tasks(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    StrictQuery(query): StrictQuery<ListTasks>,
) -> Result<Response, ApiError> {
    let limit = query.limit.unwrap_or(50);
    if !(1..=200).contains(&limit) {
        return Err(ApiError::new(Code::InvalidRequest, "limit: must be from 1 to 200"));
    }
    let cursor = query.cursor.as_deref().map(read_cursor).transpose()?;
    let filter = TaskFilter {
        tenant: caller.tenant,
        phases: query.status.map(|status| status.phases().to_vec()).unwrap_or_default(),
        model: query.model,
        provider: query.provider,
        created_after: query.created_after,
        created_before: query.created_before,
        cursor,
    };
    let page = api.store.tasks(filter, limit).await?;
    let last = page.tasks.last().map(|task| task.id).filter(|_| page.has_more);
    let next_cursor = last.map(|id| URL_SAFE_NO_PAD.encode(id.to_string()));
    let mut data = Vec::with_capacity(page.tasks.len());
    for task in &page.tasks {
        data.push(api.view(task).await?);
    }
    let link =
        next_cursor.as_ref().map(|cursor| format!("</tasks?cursor={cursor}&limit={limit}>; rel=\"next\""));
    let mut response = Json(TaskPage { data, has_more: page.has_more, next_cursor }).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

fn read_cursor(cursor: &str) -> Result<TaskId, ApiError> {
    let bad = || ApiError::new(Code::InvalidRequest, "cursor: not a cursor of this list");
    let text = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| bad())?;
    String::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)
}
