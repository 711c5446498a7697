//! The simulator's own endpoints, under `/_sim`: its health, its books, its rules. No upstream has them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::faults::Rule;
use super::world::World;

/// `GET /_sim/health`.
pub async fn health(State(world): State<Arc<World>>) -> Json<Value> {
    Json(json!({"status": "ok", "now": world.now(), "seed": world.seed, "time_scale": world.time_scale}))
}

/// Which receptions to list.
#[derive(Debug, Default, Deserialize)]
pub struct Since {
    /// Those that came after this one.
    #[serde(default)]
    after: u64,
}

/// `GET /_sim/ledger`, `GET /_sim/ledger?after=<seq>`.
pub async fn ledger(State(world): State<Arc<World>>, Query(since): Query<Since>) -> Json<Value> {
    world.settle();
    let mut receptions = world.ledger.receptions();
    receptions.retain(|reception| reception.seq > since.after);
    Json(json!({"billed_nanos": world.ledger.billed().total_nanos, "receptions": receptions}))
}

/// `GET /_sim/rules`.
pub async fn rules(State(world): State<Arc<World>>) -> Json<Value> {
    let mut rules = json!(world.rules.list());
    // What was not said need not be read.
    for rule in rules.as_array_mut().into_iter().flatten() {
        if let Some(faults) = rule.get_mut("do").and_then(Value::as_object_mut) {
            faults.retain(|_, value| !value.is_null() && *value != json!(false));
        }
    }
    Json(rules)
}

/// `POST /_sim/rules`: one rule, or an array of them.
pub async fn add_rules(State(world): State<Arc<World>>, body: Bytes) -> Response {
    let read = match serde_json::from_slice::<Value>(&body) {
        Ok(many @ Value::Array(_)) => serde_json::from_value::<Vec<Rule>>(many),
        Ok(one) => serde_json::from_value::<Rule>(one).map(|rule| vec![rule]),
        Err(error) => Err(error),
    };
    match read {
        Ok(rules) => {
            for rule in rules {
                world.rules.add(rule);
            }
            StatusCode::CREATED.into_response()
        }
        Err(error) => {
            (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({"error": error.to_string()}))).into_response()
        }
    }
}

/// `DELETE /_sim/rules`.
pub async fn clear_rules(State(world): State<Arc<World>>) -> StatusCode {
    world.rules.clear();
    StatusCode::NO_CONTENT
}

/// `GET /_sim/polls`.
pub async fn polls(State(world): State<Arc<World>>) -> Json<Value> {
    Json(json!(world.jobs.polls()))
}
