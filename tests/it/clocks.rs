//! Whose clock counts, and who takes what another one was handed, where several gateways share a database.

use std::sync::Arc;
use std::time::Duration;

use easel::domain::clock::{Clock, SystemClock};
use easel::store::{Exclusive, Store};
use rstest::rstest;
use serde_json::Value;

use crate::harness::{Db, Gateway, KEY, client};

/// Wherever a machine's own clock stands, its leases are by the database's.
#[rstest]
#[case::ahead(3_600_000)]
#[case::behind(-86_400_000)]
#[tokio::test]
async fn a_gateway_goes_by_the_clock_of_its_database(#[case] off: i64) {
    let gateway = Gateway::start(Db::Postgres).await;
    let (right, wrong) = (SystemClock::start(), SystemClock::start());
    let mut moved = wrong.now();
    moved.0 += off;
    wrong.follow(moved, wrong.now(), Duration::ZERO);
    assert!((wrong.now().0 - right.now().0).abs() > 3_000_000);
    let wrong: Arc<dyn Clock> = Arc::new(wrong);
    let store = Store::open(gateway.store_url(), Exclusive::No, false, Arc::clone(&wrong)).await.unwrap();
    let differs = (wrong.now().0 - right.now().0).abs();
    assert!(differs < 60_000, "{differs} ms");
    store.close().await;
    gateway.stop().await;
}

/// A task that a replica without hands took in is worked on by one that has them.
#[tokio::test]
async fn an_idle_replica_takes_what_another_was_handed() {
    let gateway = Gateway::start(Db::Postgres).await;
    let idle = gateway.replica().await;
    idle.app.engine.start();
    let task = gateway.generate(r#"{"prompt":"a cat","model":"gpt-4o-image"}"#).await;
    let id = task["id"].as_str().unwrap();
    let waiting = client().get(format!("{}/tasks/{id}?wait=60", idle.url)).bearer_auth(KEY).send();
    let ended: Value = waiting.await.unwrap().json().await.unwrap();
    assert_eq!((ended["status"].as_str(), gateway.receptions()), (Some("succeeded"), 1), "{ended}");
    idle.stop().await;
    gateway.stop().await;
}
