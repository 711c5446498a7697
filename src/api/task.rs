//! `GET /tasks/{id}`: one task, now or once it has ended.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Api;
use super::json::StrictQuery;
use super::problem::{ApiError, Common};
use super::wait::MAX_WAIT_S;
use crate::chaos::planted;
use crate::domain::code::Code;
use crate::domain::task::Task;
use crate::domain::view::TaskView;
use crate::engine::Caller;
use crate::store::Look;

/// How long to wait for the end.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    /// Seconds, 1 to 60: answer when the task has ended, or after this time.
    #[param(minimum = 1, maximum = 60)]
    wait: Option<u64>,
}

/// Read a task
///
/// Answers 200 for every task of this tenant, whatever became of it: the HTTP status speaks of this request, `status` of
/// the generation. Picture URLs are signed anew with every answer.
#[utoipa::path(
    get, path = "/tasks/{id}", tag = "Tasks",
    params(("id" = String, Path, description = "The task's id"), Wait),
    responses((status = 200, description = "The task", body = TaskView), Common)
)]
pub(super) async fn get_task(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    StrictQuery(query): StrictQuery<Wait>,
) -> Result<Response, ApiError> {
    let mut look = api.look_of(&caller, &id).await?;
    let patience = query.wait.map(|seconds| match seconds {
        1..=MAX_WAIT_S => Ok(Duration::from_secs(seconds)),
        _ => Err(ApiError::new(Code::InvalidRequest, format!("wait: must be from 1 to {MAX_WAIT_S}"))),
    });
    if let Some(patience) = patience.transpose()?.filter(|_| !look.task.phase.terminal()) {
        // Boxed: most looks wait for nothing.
        let task = Box::pin(api.wait(look.task.clone(), patience)).await?;
        let images = api.pictures(&task).await?;
        look = Arc::new(Look { task, images });
    }
    let mut response = Box::pin(api.rendered(&look.task, &look.images)).await?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !look.task.phase.terminal() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("2"));
    }
    Ok(response)
}

impl Api {
    /// A task of the caller's tenant; what is malformed, unknown or another's is not found, all alike.
    pub(super) async fn task_of(&self, caller: &Caller, id: &str) -> Result<Task, ApiError> {
        let id = id.parse().map_err(|_| ApiError::not_found())?;
        let task = self.store.task(id).await?.filter(|task| shown(task, caller));
        task.ok_or_else(ApiError::not_found)
    }

    /// The same with its pictures, for those who look again and again.
    async fn look_of(&self, caller: &Caller, id: &str) -> Result<Arc<Look>, ApiError> {
        let id = id.parse().map_err(|_| ApiError::not_found())?;
        let look = self.store.look(id, |task| shown(task, caller)).await?;
        look.ok_or_else(ApiError::not_found)
    }
}

/// Whether that caller may see the task.
fn shown(task: &Task, caller: &Caller) -> bool {
    (task.tenant == caller.tenant || planted("unscoped_get")) && task.parent.is_none()
}
