//! `GET /metrics`: figures for Prometheus. Most are counted as things happen; those that hold over all replicas are read from
//! small indexes when they are asked for, and not more often than every other second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use metrics::{counter, gauge, histogram};

use super::Api;
use super::problem::{ApiError, Common};
use crate::domain::clock::Millis;
use crate::domain::code::Code;
use crate::domain::key::{Key, Role};
use crate::domain::meter;
use crate::engine::LaneView;
use crate::store::{Backlog, StoreError};

/// Figures of the database are this old at most.
const FRESH: Duration = Duration::from_secs(2);
/// The states of a provider account.
const STATES: [&str; 4] = ["healthy", "paused", "open", "probing"];

/// Where figures are shown.
#[derive(Clone)]
pub struct Scrape {
    render: fn() -> String,
    apart: bool,
    gathered: Arc<Mutex<Option<Millis>>>,
}

impl Scrape {
    /// Figures made by `render`; `apart` when they have a listener of their own and callers' has none.
    pub fn new(render: fn() -> String, apart: bool) -> Self {
        Self { render, apart, gathered: Arc::default() }
    }

    /// Whether the database is to be asked again.
    fn stale(&self, now: Millis) -> bool {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        if gathered.is_some_and(|at| now >= at && now.since(at) < FRESH) {
            return false;
        }
        *gathered = Some(now);
        true
    }
}

/// Figures
///
/// Prometheus' text format; the figures are explained in the documentation. An admin key is asked for. Where figures have an
/// address of their own (`metrics.listen`) they are not found here.
#[utoipa::path(
    get, path = "/metrics", tag = "Operation",
    responses((status = 200, description = "The figures", body = String, content_type = "text/plain",
        example = "# HELP easel_tasks_accepted_total Tasks stored durably.\n# TYPE easel_tasks_accepted_total counter\neasel_tasks_accepted_total 12\n"),
        (status = 403, description = "The key is not an admin's", body = crate::domain::view::Problem, content_type = "application/problem+json"),
        Common)
)]
pub(super) async fn get_metrics(
    State(api): State<Api>,
    Extension(key): Extension<Key>,
) -> Result<Response, ApiError> {
    if api.scrape.apart {
        return Err(ApiError::not_found());
    }
    if key.role != Role::Admin {
        return Err(ApiError::new(Code::Forbidden, "figures are shown to admin keys"));
    }
    Ok(show(&api).await)
}

/// The figures alone, for a listener of their own: no key is asked for.
pub fn router(api: Api) -> Router {
    let page = async |State(api): State<Api>| show(&api).await;
    Router::new()
        .route("/metrics", axum::routing::get(page))
        .fallback(async || StatusCode::NOT_FOUND)
        .with_state(api)
}

async fn show(api: &Api) -> Response {
    if api.scrape.stale(api.clock.now()) {
        api.gather().await;
    }
    let text = (api.scrape.render)();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], text).into_response()
}

impl Api {
    /// Reads the figures that lie in the database. One that does not answer is a figure, too.
    async fn gather(&self) {
        let asked = async {
            let lanes = self.engine.lanes().await?;
            gauge!(meter::QUARANTINE_OPEN).set(number(self.store.quarantine_open().await?));
            Ok::<_, StoreError>((lanes, self.store.backlog().await?))
        };
        let found = match tokio::time::timeout(Duration::from_secs(5), asked).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the database's figures cannot be read");
                None
            }
            Err(_) => {
                tracing::warn!("the database's figures were not read in 5 s");
                None
            }
        };
        gauge!(meter::STORE_UP).set(if found.is_some() { 1.0 } else { 0.0 });
        gauge!(meter::SPOOL_BYTES).set(self.engine.spooled());
        gauge!(meter::STORE_PRESSURE).set(number(self.store.load().under_way()));
        if let Some(free) = self.engine.free_for_pictures() {
            gauge!(meter::BLOB_FREE).set(free);
        }
        if let Some((lanes, backlog)) = found {
            set_lanes(&lanes, &backlog);
            set_backlog(&backlog, self.clock.now());
        }
    }
}

fn set_lanes(lanes: &[LaneView], backlog: &Backlog) {
    let (mut queued, mut at_provider) = (0, 0);
    for lane in lanes {
        let provider = || lane.id.clone();
        gauge!(meter::LANE_IN_FLIGHT, "provider" => provider()).set(number(lane.in_flight));
        gauge!(meter::LANE_LIMIT, "provider" => provider()).set(f64::from(lane.in_flight_limit));
        gauge!(meter::LANE_QUEUED, "provider" => provider()).set(number(lane.queued));
        for state in STATES {
            let here = if state == lane.health { 1.0 } else { 0.0 };
            gauge!(meter::LANE_STATE, "provider" => provider(), "state" => state).set(here);
        }
        queued += lane.queued;
        at_provider += lane.in_flight;
    }
    let phases = [
        ("queued", queued),
        ("at_provider", (at_provider - backlog.reconciling.0).max(0)),
        ("reconciling", backlog.reconciling.0),
        ("saving", backlog.saving.0),
    ];
    for (phase, count) in phases {
        gauge!(meter::TASKS_OPEN, "phase" => phase).set(number(count));
    }
}

fn set_backlog(backlog: &Backlog, now: Millis) {
    let age = |since: Option<Millis>| since.map_or(0.0, |at| now.since(at).as_secs_f64());
    gauge!(meter::SAVING_OLDEST).set(age(backlog.saving.1));
    gauge!(meter::RECONCILING_OLDEST).set(age(backlog.reconciling.1));
    gauge!(meter::STRAGGLERS).set(number(backlog.stragglers));
    for (line, (count, first)) in [("fresh", backlog.letters), ("retry", backlog.retries)] {
        gauge!(meter::OUTBOX, "line" => line).set(number(count));
        gauge!(meter::OUTBOX_OVERDUE, "line" => line).set(age(first));
    }
}

fn number<N: TryInto<u32>>(count: N) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}

/// A request was answered.
pub(super) fn answered(route: Option<&str>, status: StatusCode, took: Duration) {
    let route = route.unwrap_or("none").to_owned();
    let class = match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    };
    counter!(meter::HTTP_REQUESTS, "route" => route.clone(), "status" => class).increment(1);
    histogram!(meter::HTTP_SECONDS, "route" => route).record(took);
}
