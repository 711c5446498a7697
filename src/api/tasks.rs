//! `GET /tasks`: the tenant's tasks, newest first, page by page.

use axum::Extension;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::Uri;
use axum::http::request::Parts;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::{IntoParams, ToSchema};

use super::Api;
use super::page::{cursor, limit, page, read_cursor};
use super::problem::{ApiError, Common};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::view::{Status, TaskView};
use crate::engine::Caller;
use crate::store::{StoreError, TaskFilter};

/// The most labels to filter by: as many as a task may have.
const MAX_LABELS: usize = 16;

/// Which tasks, and how many.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
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
/// Newest first. Pages stay right while tasks are added. `metadata.KEY=VALUE`, once or several times, lists only tasks with
/// these labels.
#[utoipa::path(
    get, path = "/tasks", tag = "Tasks",
    params(ListTasks, ("metadata.KEY" = Option<String>, Query, description = "Only tasks whose label KEY has this value", example = "1234")),
    responses((status = 200, description = "A page of tasks", body = TaskPage), Common)
)]
pub(super) async fn list_tasks(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    Filters { query, metadata }: Filters,
) -> Result<Response, ApiError> {
    let filter = TaskFilter {
        tenant: caller.tenant,
        phases: query.status.map(|status| status.phases().to_vec()).unwrap_or_default(),
        model: query.model,
        provider: query.provider,
        created_after: query.created_after,
        created_before: query.created_before,
        metadata,
        cursor: query.cursor.as_deref().map(read_cursor).transpose()?,
    };
    let listed = api.store.tasks(filter, limit(query.limit)?).await?;
    let next_cursor = listed.next.map(cursor);
    let mut data = Vec::with_capacity(listed.items.len());
    for task in &listed.items {
        match api.view(task).await {
            Ok(view) => data.push(view),
            Err(error @ StoreError::Unreadable(_)) => {
                tracing::error!(task.id = %task.id, %error, "a task is left out of a list");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let body = TaskPage { data, has_more: next_cursor.is_some(), next_cursor };
    Ok(page(&body, &uri, body.next_cursor.as_deref()))
}

/// The query of the list: `metadata.KEY=VALUE` apart, because the caller chooses the names, and the rest read strictly.
pub(super) struct Filters {
    query: ListTasks,
    metadata: Vec<(String, String)>,
}

impl<S: Send + Sync> FromRequestParts<S> for Filters {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let asked = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let mut rest = form_urlencoded::Serializer::new(String::new());
        let mut metadata = Vec::new();
        for (name, value) in asked {
            match name.strip_prefix("metadata.") {
                Some(label) => metadata.push((label.to_owned(), value.into_owned())),
                None => _ = rest.append_pair(&name, &value),
            }
        }
        if metadata.len() > MAX_LABELS {
            let detail = format!("at most {MAX_LABELS} metadata filters");
            return Err(ApiError::new(Code::InvalidRequest, detail));
        }
        let uri = format!("/?{}", rest.finish());
        let uri = uri.parse().map_err(|_| ApiError::new(Code::InvalidRequest, "the query is malformed"))?;
        let query = Query::<ListTasks>::try_from_uri(&uri)
            .map_err(|error| ApiError::new(Code::InvalidRequest, error.body_text()))?;
        Ok(Self { query: query.0, metadata })
    }
}
