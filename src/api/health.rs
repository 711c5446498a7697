//! `GET /healthz` and `GET /readyz`: whether the process lives, and whether it can keep its promises at the moment.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;

/// The process lives.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`
    #[schema(example = "ok")]
    status: &'static str,
    /// The gateway's version.
    version: &'static str,
}

/// Liveness
///
/// Looks at nothing but the process itself.
#[utoipa::path(get, path = "/healthz", tag = "Operation", security(()),
    responses((status = 200, description = "The process lives", body = Health)))]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// Whether the gateway can keep its promises.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// Whether everything below is `ok`.
    ready: bool,
    /// Each dependency, `ok` or what is wrong with it.
    #[schema(value_type = Object, example = json!({"store": "ok", "blobs": "ok", "disk": "ok"}))]
    checks: BTreeMap<&'static str, String>,
}

/// Readiness
///
/// 200 when requests can be taken in and kept; 503 with a reason per dependency otherwise, and while shutting down.
#[utoipa::path(get, path = "/readyz", tag = "Operation", security(()),
    responses((status = 200, description = "Ready", body = Readiness), (status = 503, description = "Not ready", body = Readiness)))]
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, Json<Readiness>) {
    let told = |outcome: Result<(), String>| outcome.err().unwrap_or_else(|| "ok".to_owned());
    let process = if api.closing.is_cancelled() { Err("shutting down".to_owned()) } else { Ok(()) };
    let checks: BTreeMap<_, _> = [
        ("process", told(process)),
        ("store", told(api.store.ping().await.map_err(|e| e.to_string()))),
        ("blobs", told(api.blobs.probe().await.map_err(|e| e.to_string()))),
        ("disk", told(api.engine.tight().map_or(Ok(()), Err))),
    ]
    .into();
    let ready = checks.values().all(|check| check == "ok");
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks }))
}
