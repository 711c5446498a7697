//! Receivers that fail, vanish, mislead, dawdle or never end, and gateways that stop in the middle: nobody else waits for
//! them, and nothing is lost.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use easel::domain::clock::Clock;
use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway};
use crate::process::refusing;
use crate::sink::{Act, Letter, Sink};

const ALL: &[&str] = &["task.queued", "task.attempt", "task.saving", "task.succeeded"];

async fn generate(gateway: &Gateway, url: &str, events: &[&str]) -> String {
    let body = json!({"prompt": "a little cat", "model": "flux-schnell", "size": "64x64",
        "webhook": {"url": url, "events": events}});
    gateway.generate(&body.to_string()).await["id"].as_str().unwrap().to_owned()
}

async fn delivery(gateway: &Gateway, task: &str) -> Value {
    gateway.get(&format!("/webhooks/deliveries?task_id={task}")).await.json()["data"][0].clone()
}

/// O3: gone is gone: nothing more is written for the endpoint until a test shows that it is back.
#[rstest]
#[tokio::test]
async fn a_receiver_that_is_gone_is_switched_off(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::saying(Act::Status(410)).await;
    let endpoint =
        gateway.post("/webhooks", &json!({"url": sink.url, "events": ALL}).to_string()).await.json();
    let path = format!("/webhooks/{}", endpoint["id"].as_str().unwrap());
    let body = r#"{"prompt":"x","model":"flux-schnell","size":"64x64"}"#;
    let task = gateway.run(body).await;
    assert_eq!((task["status"].as_str(), sink.events()), (Some("succeeded"), vec!["task.queued".to_owned()]));
    let seen = gateway.get(&path).await.json();
    assert!(
        seen["disabled_at"].is_string() && seen["disabled_reason"].as_str().unwrap().contains("410"),
        "{seen}"
    );
    let log = gateway.get(&format!("{path}/deliveries")).await.json();
    let states: Vec<_> =
        log["data"].as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states.iter().filter(|state| **state == "dead").count(), 1, "{log}");
    assert!(states.iter().all(|state| matches!(*state, "dead" | "disabled")), "{log}");
    gateway.run(body).await;
    assert_eq!(sink.letters().len(), 1);

    gateway.post(&format!("{path}/test"), "").await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert!(gateway.get(&path).await.json()["disabled_at"].is_string(), "it still says 410");
    sink.say(Act::Status(200));
    gateway.post(&format!("{path}/test"), "").await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert!(gateway.get(&path).await.json()["disabled_at"].is_null());
    gateway.run(body).await;
    assert_eq!(sink.events()[3..], ALL.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    gateway.stop().await;
}

/// A 410 to an address that a request named ends that task's letters alone.
#[rstest]
#[tokio::test]
async fn a_request_s_own_receiver_that_is_gone_hears_no_more_of_the_task(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::saying(Act::Status(410)).await;
    let id = generate(&gateway, &sink.url, ALL).await;
    gateway.settle(&id).await;
    assert_eq!(gateway.app.store.next_delivery().await.unwrap(), None);
    let heard: Vec<_> = sink.ids().into_iter().collect();
    let dead = gateway.get("/webhooks/deliveries?state=dead").await.json();
    assert_eq!(dead["data"].as_array().unwrap().len(), heard.len());
    let before = sink.letters().len();
    generate(&gateway, &sink.url, &["task.queued"]).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(sink.letters().len(), before + 1, "another task is another matter");
    gateway.stop().await;
}

/// O4: a redirect is a failure, wherever it leads.
#[rstest]
#[tokio::test]
async fn redirects_are_not_followed(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(301, 302, 307, 308)] status: u16,
) {
    let gateway = Gateway::start(db).await;
    let inner = Sink::saying(Act::Status(200)).await;
    let sink = Sink::saying(Act::With(status, "location", inner.url.clone())).await;
    let id = generate(&gateway, &sink.url, &[]).await;
    gateway.settle(&id).await;
    assert_eq!((sink.letters().len(), inner.letters().len()), (1, 0));
    let log = delivery(&gateway, &id).await;
    assert_eq!(
        (log["state"].as_str(), log["log"][0]["status"].as_u64()),
        (Some("pending"), Some(status.into()))
    );
    gateway.stop().await;
}

/// O5: what a receiver says beyond its status is read for 4 KiB and no more.
#[rstest]
#[tokio::test]
async fn an_answer_without_end_is_cut(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::saying(Act::Endless).await;
    let id = generate(&gateway, &sink.url, &[]).await;
    gateway.settle(&id).await;
    let log = delivery(&gateway, &id).await;
    assert_eq!(log["state"], "delivered", "{log}");
    assert!(log["log"][0]["duration_ms"].as_u64().unwrap() < 5_000);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up_on_and_asked_again(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::configured(db, "[webhooks]\ntimeout_s = 4\n").await;
    let sink = Sink::start(|_, before| if before == 0 { Act::Hang } else { Act::Status(200) }).await;
    let id = generate(&gateway, &sink.url, &[]).await;
    gateway.settle(&id).await;
    let log = delivery(&gateway, &id).await;
    assert_eq!(
        (log["state"].as_str(), log["log"][0]["error"].as_str()),
        (Some("pending"), Some("no answer in time"))
    );
    gateway.next_letters().await;
    assert_eq!(delivery(&gateway, &id).await["state"], "delivered");
    gateway.stop().await;
}

/// A receiver that says when to come back is obeyed.
#[rstest]
#[tokio::test]
async fn retry_after_is_honoured(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::start(|_, before| match before {
        0 => Act::With(503, "retry-after", "3600".into()),
        _ => Act::Status(200),
    })
    .await;
    let id = generate(&gateway, &sink.url, &[]).await;
    gateway.settle(&id).await;
    let tried = gateway.clock.now();
    let next = gateway.app.store.next_delivery().await.unwrap().unwrap();
    assert_eq!(next.since(tried), Duration::from_hours(1));
    gateway.next_letters().await;
    assert_eq!(delivery(&gateway, &id).await["state"], "delivered");
    gateway.stop().await;
}

/// O6: while one letter of a task waits for its next try, those behind it wait too; other tasks' letters flow.
#[rstest]
#[tokio::test]
async fn the_letters_of_a_task_keep_their_order(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::start(|letter: &Letter, _| {
        // The first task's second letter fails four times.
        let first = letter.path == "/hook" && letter.event() == "task.attempt";
        let tried = letter.headers["webhook-timestamp"].to_str().unwrap().parse::<i64>().unwrap();
        Act::Status(if first && tried < 1_790_000_000 + 3_600 { 500 } else { 200 })
    })
    .await;
    let (slow, quick) = (
        generate(&gateway, &sink.url, ALL).await,
        generate(&gateway, &format!("{}/quick", sink.url), ALL).await,
    );
    gateway.settle(&slow).await;
    gateway.settle(&quick).await;
    let told = |path: &str| -> Vec<String> {
        sink.letters().iter().filter(|letter| letter.path == path).map(Letter::event).collect()
    };
    assert_eq!(told("/hook/quick"), ALL, "the other task does not wait");
    let so_far = told("/hook");
    assert_eq!(so_far[0], "task.queued");
    assert!(so_far[1..].iter().all(|event| event == "task.attempt"), "{so_far:?}");
    for _ in 0..10 {
        if gateway.app.store.next_delivery().await.unwrap().is_some() {
            gateway.next_letters().await;
        }
    }
    let mut order = told("/hook");
    order.dedup();
    let log = gateway.get(&format!("/webhooks/deliveries?task_id={slow}")).await.json();
    assert_eq!(order, ALL, "{log:#}");
    gateway.stop().await;
}

/// O8: a letter stays below 20 KB whatever the prompt, and its bytes are what was signed.
#[rstest]
#[tokio::test]
async fn a_long_prompt_makes_a_thin_letter(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::saying(Act::Status(200)).await;
    let body = json!({"prompt": "Katze 猫 🐈 \"…\"\u{1}".repeat(1_500), "model": "flux-schnell", "size": "64x64",
        "metadata": {"größe": "\u{2}ü"}, "webhook": {"url": sink.url}});
    let task = gateway.run(&body.to_string()).await;
    let letter = sink.letters().pop().unwrap();
    let secret = gateway.get("/webhooks/secret").await.json();
    assert!(letter.verifies(secret["secret"].as_str().unwrap(), gateway.clock.now()));
    assert!(letter.body.len() <= 20_000, "{}", letter.body.len());
    let told = letter.json();
    assert_eq!(told["data"]["truncated"], json!(["prompt"]));
    assert_eq!(told["data"]["task"]["metadata"], task["metadata"]);
    assert_eq!(told["data"]["task"]["urls"]["self"], task["urls"]["self"]);
    gateway.stop().await;
}

/// So many letters came to a receiver that never answers, all at once. After the minute that `timeout_s` gives each of them
/// others follow.
fn counted(dead: &Sink, begun: Instant, expected: usize) {
    if begun.elapsed() < Duration::from_mins(1) {
        assert_eq!((dead.most_at_once(), dead.letters().len()), (expected, expected));
    } else {
        eprintln!("the machine is too slow to count letters: the first ones were given up meanwhile");
    }
}

/// O10: a host that never answers has eight connections and no more, and nobody waits for it.
#[rstest]
#[tokio::test]
async fn a_dead_receiver_delays_nobody(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::live_configured(db, "[webhooks]\ntimeout_s = 60\n").await;
    let (dead, well) = (Sink::saying(Act::Hang).await, Sink::saying(Act::Status(200)).await);
    let begun = Instant::now();
    for _ in 0..30 {
        generate(&gateway, &dead.url, &["task.queued"]).await;
    }
    dead.wait_for(8).await;
    for n in 1..=20 {
        generate(&gateway, &well.url, &["task.queued"]).await;
        well.wait_for(n).await;
    }
    counted(&dead, begun, 8);
    // It is not waited for at the end, either: what it was owed is in the table.
    let Gateway { app, .. } = gateway;
    drop(app);
}

/// O10: a hundred thousand hosts that never answer, have failed before and are all due: they have half of the connections
/// and no more, and those that are well are told as ever.
#[rstest]
#[tokio::test]
async fn a_hundred_thousand_dead_receivers_delay_nobody(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    const COPY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000) \
         INSERT INTO deliveries (id, tenant, task_id, webhook_id, url, host, line, seq, event, body, state, troubled, \
         tries, version, wake_at, leased, created_at, log) \
         SELECT substr(d.id, 1, 24) || CAST(100000 + i AS TEXT), d.tenant, d.task_id, d.webhook_id, d.url, 'dead-' || CAST(i AS TEXT), \
         'line-' || CAST(i AS TEXT), 1, d.event, d.body, 'pending', TRUE, 1, 1, d.created_at, FALSE, d.created_at, '[]' \
         FROM deliveries d, n";
    let gateway = Gateway::live_configured(db, "[webhooks]\ntimeout_s = 60\nconcurrency = 16\n").await;
    let (dead, well) = (Sink::saying(Act::Hang).await, Sink::saying(Act::Status(200)).await);
    let begun = Instant::now();
    generate(&gateway, &dead.url, &["task.queued"]).await;
    dead.wait_for(1).await;
    gateway.sql(COPY).await;
    dead.wait_for(9).await;
    for n in 1..=20 {
        generate(&gateway, &well.url, &["task.queued"]).await;
        well.wait_for(n).await;
    }
    // The first, and half of sixteen.
    counted(&dead, begun, 9);
    let Gateway { app, .. } = gateway;
    drop(app);
}

/// A receiver that is away for a while, and a gateway that is started again meanwhile.
#[rstest]
#[tokio::test]
async fn what_is_owed_outlives_a_restart(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (held, place) = refusing();
    let ids = [
        generate(&gateway, &format!("http://{place}/a"), ALL).await,
        generate(&gateway, &format!("http://{place}/b"), ALL).await,
    ];
    for id in &ids {
        gateway.settle(id).await;
    }
    let log = delivery(&gateway, &ids[0]).await;
    assert_eq!(log["state"], "pending", "{log}");
    let gateway = gateway.restart().await;
    let sink = Sink::on(held.listen(64).unwrap(), |_, _| Act::Status(200));
    gateway.clock.advance(Duration::from_mins(1));
    gateway.app.engine.run_until_idle().await.unwrap();
    let mut told: HashMap<String, Vec<String>> = HashMap::new();
    for letter in sink.letters() {
        told.entry(letter.path.clone()).or_default().push(letter.event());
    }
    assert_eq!(told.len(), 2);
    assert!(told.values().all(|events| events == ALL), "{told:?}");
    // The secret is the one from before.
    let secret = gateway.get("/webhooks/secret").await.json();
    assert!(sink.letters()[0].verifies(secret["secret"].as_str().unwrap(), gateway.clock.now()));
    assert_eq!(gateway.get("/webhooks").await.status, StatusCode::OK);
    gateway.stop().await;
}
