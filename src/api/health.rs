//! `GET /healthz` and `GET /readyz`: whether the process lives, and whether it can keep its promises at the moment.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;

/// A dependency that does not answer for so long is not there.
const PATIENCE: Duration = Duration::from_secs(3);

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
    /// Whether all of `checks` are `ok`.
    ready: bool,
    /// What the gateway cannot do without, `ok` or what is wrong with it: `process` (not shutting down), `store` (the database
    /// answers), `migrations` (its schema is this program's), `blobs` (a picture can be written), `disk`
    /// (there is room for new ones).
    #[schema(value_type = Object, example = json!({"process": "ok", "store": "ok", "migrations": "ok", "blobs": "ok", "disk": "ok"}))]
    checks: BTreeMap<&'static str, String>,
    /// What keeps new tasks from being done while all else goes on, so that it is no reason to send callers elsewhere:
    /// `providers` (at least one account takes tasks), `submissions` (not held).
    #[schema(value_type = Object, example = json!({"providers": "ok", "submissions": "ok"}))]
    notes: BTreeMap<&'static str, String>,
}

/// Readiness
///
/// 200 when requests can be taken in and kept; 503 with a reason per dependency otherwise, and while shutting down.
#[utoipa::path(get, path = "/readyz", tag = "Operation", security(()),
    responses((status = 200, description = "Ready", body = Readiness), (status = 503, description = "Not ready", body = Readiness)))]
pub(super) async fn readyz(State(api): State<Api>) -> (StatusCode, Json<Readiness>) {
    let process = if api.closing.is_cancelled() { Err("shutting down".to_owned()) } else { Ok(()) };
    let blobs = async { api.blobs.probe().await.map_err(|e| e.to_string()) };
    let (store, blobs) = tokio::join!(in_time(api.store()), in_time(blobs));
    let (store, migrations) = match store {
        Ok(found) => found,
        Err(silent) => (Err(silent.clone()), Err(silent)),
    };
    let checks = [
        ("process", process),
        ("store", store),
        ("migrations", migrations),
        ("blobs", blobs.and_then(|found| found)),
        ("disk", api.engine.tight().map_or(Ok(()), Err)),
    ];
    let providers = in_time(api.providers()).await.and_then(|found| found);
    let held = if api.engine.holds_submissions() {
        Err("held by engine.hold_submissions".to_owned())
    } else if api.engine.spool_full() {
        Err("held while the spool is full (blobs.spool_mib): the answers in it are being kept".to_owned())
    } else {
        Ok(())
    };
    let notes = told([("providers", providers), ("submissions", held), ("downloads", api.downloads())]);
    let checks = told(checks);
    let ready = checks.values().all(|check| check == "ok");
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, checks, notes }))
}

type Check = Result<(), String>;

fn told<const N: usize>(found: [(&'static str, Check); N]) -> BTreeMap<&'static str, String> {
    found.map(|(name, check)| (name, check.err().unwrap_or_else(|| "ok".to_owned()))).into()
}

async fn in_time<T>(check: impl Future<Output = T>) -> Result<T, String> {
    let silent = |_| format!("no answer within {} s", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, check).await.map_err(silent)
}

impl Api {
    /// Whether the database answers, and whether its schema is ours.
    async fn store(&self) -> (Check, Check) {
        match self.store.migrations_apart().await {
            Err(error) => (Err(error.to_string()), Err("not known".to_owned())),
            Ok((0, _)) => (Ok(()), Ok(())),
            Ok((lacking, _)) => {
                (Ok(()), Err(format!("the database lacks {lacking} migration(s): run `easel migrate`")))
            }
        }
    }

    /// Whether all hosts of results answer.
    fn downloads(&self) -> Check {
        let hosts = self.engine.hosts();
        let hang: Vec<&str> =
            hosts.iter().filter(|one| one.rests_until.is_some()).map(|one| one.host.as_str()).collect();
        match hang.as_slice() {
            [] => Ok(()),
            [first, ..] => Err(format!("{} host(s) of results hang, {first} among them", hang.len())),
        }
    }

    /// Whether any account takes tasks.
    async fn providers(&self) -> Check {
        let lanes = self.engine.lanes().await.map_err(|e| e.to_string())?;
        if lanes.iter().any(|lane| !matches!(lane.health, "open" | "paused")) {
            return Ok(());
        }
        let each = lanes.iter().map(|lane| {
            let trouble = lane.last_error.map_or_else(String::new, |kind| format!(" ({kind:?})"));
            format!("{} is {}{trouble}", lane.id, lane.health)
        });
        Err(each.collect::<Vec<_>>().join(", "))
    }
}
