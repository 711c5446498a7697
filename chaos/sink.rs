//! A caller's webhook: takes every delivery, checks its signature (Standard Webhooks) against the bytes that came, and is
//! judged afterwards by V7. Half of the deliveries can be refused, so that they come again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::checker::Finding;
use crate::rows::Db;
use crate::world::World;

/// One delivery, in the order of arrival.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    /// `webhook-id`: the event's, equal over retries.
    pub event: String,
    /// The task it tells of.
    pub task: String,
    /// `task.succeeded`…
    pub name: String,
    /// Whether the signature holds for these bytes.
    pub signed: bool,
    /// The task's phase in the database at the moment of arrival.
    pub phase_then: Option<String>,
    /// Whether it was answered with 204.
    pub taken: bool,
}

/// What a signature is checked by.
#[derive(Debug, Clone)]
struct Sealed {
    timestamp: String,
    signatures: String,
    body: Bytes,
}

struct Inner {
    deliveries: Mutex<Vec<(Delivery, Sealed)>>,
    db: Option<Db>,
    refuse_half: bool,
}

/// A sink that listens.
pub struct Sink {
    url: String,
    inner: Arc<Inner>,
    _server: JoinSet<()>,
}

impl Sink {
    /// Listens on a free port. With `db`, each delivery is compared with what the database says at that moment.
    pub async fn start(db: Option<Db>, refuse_half: bool) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/hook", listener.local_addr()?);
        let inner = Arc::new(Inner { deliveries: Mutex::default(), db, refuse_half });
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&inner));
        let mut server = JoinSet::new();
        server.spawn(async move {
            axum::serve(listener, router).await.expect("the sink serves");
        });
        Ok(Self { url, inner, _server: server })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What has come so far, its signatures checked against the tenant's secret.
    pub fn deliveries(&self, secret: &str) -> Vec<Delivery> {
        let all = self.inner.deliveries.lock().unwrap_or_else(PoisonError::into_inner);
        let checked = all.iter().map(|(one, sealed)| Delivery {
            signed: verifies(secret, &one.event, &sealed.timestamp, &sealed.signatures, &sealed.body),
            ..one.clone()
        });
        checked.collect()
    }
}

async fn take(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let json: Value = serde_json::from_slice(&body).unwrap_or_default();
    let task = json["data"]["task"]["id"].as_str().unwrap_or_default().to_owned();
    let phase_then = match &inner.db {
        Some(db) => db.phase(&task).await.ok().flatten(),
        None => None,
    };
    let taken = !inner.refuse_half || fastrand::bool();
    let delivery = Delivery {
        event: header("webhook-id").to_owned(),
        name: json["type"].as_str().unwrap_or_default().to_owned(),
        signed: false,
        task,
        phase_then,
        taken,
    };
    let sealed = Sealed {
        timestamp: header("webhook-timestamp").to_owned(),
        signatures: header("webhook-signature").to_owned(),
        body,
    };
    inner.deliveries.lock().unwrap_or_else(PoisonError::into_inner).push((delivery, sealed));
    if taken { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// Whether one of the signatures is the HMAC-SHA256 of `id.timestamp.body` under the secret.
pub fn verifies(secret: &str, id: &str, timestamp: &str, signatures: &str, body: &[u8]) -> bool {
    let Ok(key) = STANDARD.decode(secret.trim_start_matches("whsec_")) else { return false };
    signatures.split(' ').filter_map(|one| one.strip_prefix("v1,")).any(|signature| {
        let Ok(expected) = STANDARD.decode(signature) else { return false };
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&key) else { return false };
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        mac.verify_slice(&expected).is_ok()
    })
}

/// V7: each end announced or dead-lettered, first deliveries in order per task, signatures good, nothing announced that
/// was not committed.
pub fn delivered(world: &World) -> Finding {
    let mut finding =
        Finding::new("V7", "each end announced, in order, signed, and never before it was committed");
    let Some(deliveries) = &world.deliveries else { return finding };
    let mut first: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    for one in deliveries {
        finding.check(one.signed, || format!("{} of {} is not signed", one.event, one.task));
        let known = *names.entry(&one.event).or_insert(&one.name);
        finding.check(known == one.name, || format!("{} was {known} and then {}", one.event, one.name));
        let order = first.entry(&one.task).or_default();
        if !order.contains(&one.name.as_str()) {
            order.push(&one.name);
        }
        if let Some(phase) = &one.phase_then {
            let end = one.name.trim_start_matches("task.");
            let ends = matches!(end, "succeeded" | "failed" | "canceled");
            finding.check(!ends || phase == end, || {
                format!("{} was announced for {} while it was {phase}", one.name, one.task)
            });
        }
    }
    for task in world.rows.tasks.iter().filter(|task| task.parent_id.is_none() && task.terminal()) {
        let asked = task.request.contains("\"webhook\":{");
        if !asked {
            continue;
        }
        let name = format!("task.{}", task.phase);
        let told = first.get(task.id.as_str());
        let at = told.and_then(|names| names.iter().position(|one| *one == name));
        finding.check(at.is_some(), || format!("nobody was told that {} is {}", task.id, task.phase));
        let late = told.and_then(|names| names.iter().position(|one| *one == "task.late_result"));
        finding.check(late.is_none_or(|late| at.is_some_and(|at| at < late)), || {
            format!("{}: a late result was announced before the end", task.id)
        });
    }
    finding
}
