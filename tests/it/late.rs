//! Late results some of whose links are dead: the others are delivered, and what it cost is known in any case.

use std::time::Duration;

use easel::domain::clock::Clock;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway};

/// A task that has run out of time while its two pictures were being made.
async fn out_of_time(gateway: &Gateway) -> String {
    let body = json!({"prompt": "two cats [[sim: time=300]]", "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64",
        "n": 2, "deadline_s": 60});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!(task["error"]["code"], "deadline_exceeded", "{task}");
    task["id"].as_str().unwrap().to_owned()
}

/// Looks until the attempt's end is known; for how long its late pictures were waited for, and the task.
async fn look(gateway: &Gateway, id: &str) -> (Duration, Value) {
    let start = gateway.clock.now() + Duration::from_mins(4);
    for _ in 0..3_000 {
        gateway.app.engine.run_until_idle().await.unwrap();
        if gateway.attempts(id).await[0]["state"] != "lost" {
            return (gateway.clock.now().since(start), gateway.task(id).await);
        }
        gateway.advance_to_next().await;
    }
    panic!("it is looked for without end: {}", gateway.task(id).await);
}

fn pictures(task: &Value) -> usize {
    task["late_result"]["images"].as_array().map_or(0, Vec::len)
}

#[rstest]
#[tokio::test]
async fn one_dead_link_does_not_hold_the_others_back(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let id = out_of_time(&gateway).await;
    gateway.rule(&json!({"on": "files", "times": 1, "do": {"file_http": 404}})).await;
    let (waited, task) = look(&gateway, &id).await;
    assert_eq!(pictures(&task), 2, "a link that heals soon is waited for: {task}");
    assert!(waited < Duration::from_mins(5), "{waited:?}");

    let id = out_of_time(&gateway).await;
    // Of each look's two links, the second.
    for _ in 0..30 {
        gateway.rule(&json!({"on": "files", "after": 1, "times": 1, "do": {"file_http": 404}})).await;
    }
    let (waited, task) = look(&gateway, &id).await;
    assert_eq!(pictures(&task), 1, "{task}");
    assert!(waited >= Duration::from_mins(9) && waited < Duration::from_mins(20), "{waited:?}");
    assert_eq!((&task["status"], &task["cost"]["billed"]), (&json!("failed"), &json!("yes")));
    assert_eq!(gateway.receptions(), 2);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn with_every_link_dead_what_it_cost_is_known_all_the_same(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let id = out_of_time(&gateway).await;
    gateway.rule(&json!({"on": "files", "times": 1_000_000, "do": {"file_http": 404}})).await;
    for _ in 0..10 {
        gateway.advance_to_next().await;
        gateway.app.engine.run_until_idle().await.unwrap();
    }
    assert_eq!(gateway.attempts(&id).await[0]["state"], "lost", "links may heal");
    // Every minute for a day; most of it is passed over.
    gateway.clock.advance(Duration::from_hours(23));
    let (waited, task) = look(&gateway, &id).await;
    assert!(waited < Duration::from_hours(25), "{waited:?}");
    assert_eq!((pictures(&task), &task["cost"]["billed"]), (0, &json!("yes")), "{task}");
    let attempt = &gateway.attempts(&id).await[0];
    assert_eq!((&attempt["state"], &attempt["billed"]), (&json!("succeeded"), &json!("yes")), "{attempt}");
    assert_eq!(gateway.app.store.owing().await.unwrap().next(), None, "nothing is looked for any more");
    gateway.stop().await;
}
