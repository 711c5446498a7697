//! Provider accounts: fair lines, caps, circuits, rests and fallbacks, as callers meet them.

use std::time::Duration;

use easel::domain::clock::Clock;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, OTHER_KEY};

const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";

fn body(prompt: &str, model: &str) -> String {
    json!({"prompt": prompt, "model": model, "size": "64x64"}).to_string()
}

async fn lane(gateway: &Gateway, id: &str) -> Value {
    let lanes = gateway.get("/providers").await.json();
    lanes["data"].as_array().unwrap().iter().find(|lane| lane["id"] == id).unwrap().clone()
}

/// One account with room for so many, and perhaps another.
fn narrow(in_flight: u32, second: bool) -> String {
    let block = |id: &str, kind: &str| {
        format!(
            "[providers.{id}]\nkind = \"{kind}\"\nbase_url = \"{{upstream}}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\nin_flight = {in_flight}\npoll_after_s = 0.05\n"
        )
    };
    let more = if second { block("imagepipeline", "imagepipeline") } else { String::new() };
    block("piapi_flux", "piapi_flux") + &more
}

#[rstest]
#[tokio::test]
async fn a_backlog_of_one_tenant_does_not_delay_another(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::only(db, &narrow(1, false)).await;
    let mut mine = Vec::new();
    for number in 0..6 {
        let task = gateway.generate(&body(&format!("mine {number} [[sim: time=10]]"), FLUX)).await;
        mine.push(task["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(gateway.task(&mine[5]).await["queue"]["position"], 6);
    let other = [("authorization", &*format!("Bearer {OTHER_KEY}"))];
    let theirs = gateway.send(Method::POST, "/generate", &other, Some(&body("theirs", FLUX))).await.json();
    let urgent = json!({"prompt": "urgent", "model": FLUX, "size": "64x64", "priority": "high"}).to_string();
    let urgent = gateway.generate(&urgent).await["id"].as_str().unwrap().to_owned();
    let low = json!({"prompt": "low", "model": FLUX, "size": "64x64", "priority": "low"}).to_string();
    let low = gateway.generate(&low).await["id"].as_str().unwrap().to_owned();
    for id in &mine {
        gateway.settle(id).await;
    }
    gateway.settle(&urgent).await;
    gateway.settle(&low).await;
    gateway.settle_for(&other, theirs["id"].as_str().unwrap()).await;
    let order: Vec<String> = gateway.simulator.ledger().into_iter().map(|line| line.prompt_head).collect();
    let place = |prompt: &str| order.iter().position(|head| head.starts_with(prompt)).unwrap();
    assert!(place("theirs") <= 2, "{order:?}");
    assert!(place("urgent") <= 1, "{order:?}");
    assert!(place("low") < order.len(), "{order:?}");
    assert!(place("mine 0") < place("mine 5"), "{order:?}");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn no_more_tasks_are_at_a_provider_than_may_be(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::only(db, &narrow(2, false)).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let task = gateway.generate(&body(&format!("{number} [[sim: time=10]]"), FLUX)).await;
        ids.push(task["id"].as_str().unwrap().to_owned());
    }
    gateway.app.engine.run_until_idle().await.unwrap();
    let seen = lane(&gateway, "piapi_flux").await;
    assert_eq!(
        (seen["in_flight"].as_i64(), seen["queued"].as_i64(), gateway.receptions()),
        (Some(2), Some(3), 2),
        "{seen}"
    );
    for id in &ids {
        assert_eq!(gateway.settle(id).await["status"], "succeeded");
    }
    gateway.stop().await;
}

/// While every place is taken nothing is claimed; what may not wait any longer ends all the same.
#[rstest]
#[tokio::test]
async fn who_waits_behind_a_full_account_does_not_wait_for_ever(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::only(db, &narrow(1, false)).await;
    gateway.generate(&body("long [[sim: time=600]]", FLUX)).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    let hasty = json!({"prompt": "hasty", "model": FLUX, "size": "64x64", "start_within_s": 30});
    let hasty = gateway.generate(&hasty.to_string()).await["id"].as_str().unwrap().to_owned();
    let owing = gateway.app.store.owing().await.unwrap();
    let now = gateway.clock.now();
    assert!(owing.queued && owing.next().is_some_and(|next| next > now), "nothing is due: {owing:?}");
    gateway.clock.advance(Duration::from_secs(29));
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.task(&hasty).await["status"], "queued");
    gateway.clock.advance(Duration::from_secs(1));
    gateway.app.engine.run_until_idle().await.unwrap();
    let ended = gateway.task(&hasty).await;
    assert_eq!(
        (ended["error"]["code"].as_str(), ended["cost"]["billed"].as_str(), gateway.receptions()),
        (Some("deadline_exceeded"), Some("no"), 1)
    );
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_failing_account_is_left_alone_until_one_task_finds_it_well(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::only(db, &narrow(1, false)).await;
    gateway.rule(&json!({"on": "flux.submit", "times": 6, "do": {"http": 521}})).await;
    let first = gateway.run(&body("one", FLUX)).await;
    assert_eq!((first["error"]["code"].as_str(), gateway.receptions()), (Some("provider_unreachable"), 3));
    let second = gateway.generate(&body("two", FLUX)).await["id"].as_str().unwrap().to_owned();
    for _ in 0..6 {
        gateway.app.engine.run_until_idle().await.unwrap();
        if gateway.receptions() == 5 {
            break;
        }
        gateway.advance_to_next().await;
    }
    gateway.app.engine.run_until_idle().await.unwrap();
    let seen = lane(&gateway, "piapi_flux").await;
    assert_eq!((seen["health"].as_str(), gateway.receptions()), (Some("open"), 5), "{seen}");
    let refused = gateway.post("/generate", &body("three", FLUX)).await;
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, Some("no_provider_available"))
    );
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    // The task in line is the probe: it fails once more, and the circuit stays open twice as long.
    let ended = gateway.settle(&second).await;
    assert_eq!((ended["status"].as_str(), gateway.receptions()), (Some("failed"), 6), "{ended}");
    gateway.clock.advance(Duration::from_secs(61));
    let third = gateway.run(&body("four", FLUX)).await;
    assert_eq!(third["status"], "succeeded", "{third}");
    assert_eq!(lane(&gateway, "piapi_flux").await["health"], "healthy");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_proven_unbilled_failure_goes_to_the_next_route_and_says_why(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::only(db, &narrow(4, true)).await;
    gateway.rule(&json!({"on": "flux.submit", "times": 1, "do": {"http": 401}})).await;
    let task = gateway.run(&body("a cat", "flux-schnell")).await;
    assert_eq!(
        (task["status"].as_str(), task["route"]["provider"].as_str()),
        (Some("succeeded"), Some("imagepipeline"))
    );
    assert_eq!(task["route"]["reason"], "next in order after provider_auth_failed at piapi_flux");
    let attempts = gateway.attempts(task["id"].as_str().unwrap()).await;
    assert_eq!(
        (attempts[0]["billed"].as_str(), attempts[0]["state"].as_str()),
        (Some("no"), Some("rejected"))
    );
    // The refused account's circuit is open: the next task does not go there at all.
    let next = gateway.run(&body("a dog", "flux-schnell")).await;
    assert_eq!(gateway.attempts(next["id"].as_str().unwrap()).await.len(), 1);
    assert_eq!(next["route"]["provider"], "imagepipeline");
    // A content refusal is not offered around, and an unknown outcome neither.
    gateway.clock.advance(Duration::from_secs(31));
    for (fault, code) in [("http=451", "content_rejected"), ("reset", "outcome_unknown")] {
        let before = gateway.receptions();
        let task = gateway.run(&body(&format!("x [[sim: {fault}]]"), "flux-schnell")).await;
        assert_eq!(
            (task["error"]["code"].as_str(), gateway.receptions() - before),
            (Some(code), 1),
            "{task}"
        );
    }
    // Nor is anything when the caller does not want it.
    let strict = json!({"prompt": "x [[sim: http=404]]", "model": "flux-schnell", "size": "64x64", "routing": {"allow_fallback": false}});
    let before = gateway.receptions();
    assert_eq!(gateway.run(&strict.to_string()).await["error"]["code"], "provider_rejected");
    assert_eq!(gateway.receptions() - before, 1);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_long_rest_sends_tasks_elsewhere_and_a_short_one_does_not(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::only(db, &narrow(4, true)).await;
    let routed = async |fault: &str| {
        let task = gateway.run(&body(&format!("x [[sim: {fault}]]"), "flux-schnell")).await;
        task["route"]["provider"].as_str().unwrap().to_owned()
    };
    assert_eq!(routed("http=429 retry_after=10 times=1").await, "piapi_flux");
    assert_eq!(routed("http=429 retry_after=600 times=1").await, "imagepipeline");
    assert_eq!(lane(&gateway, "piapi_flux").await["health"], "paused");
    assert_eq!(routed("at_once").await, "imagepipeline");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_crowded_account_takes_fewer_and_recovers(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::only(db, &narrow(8, false)).await;
    let limit = async || lane(&gateway, "piapi_flux").await["in_flight_limit"].as_u64().unwrap();
    gateway.run(&body("x [[sim: http=429 times=1]]", FLUX)).await;
    assert_eq!(limit().await, 4);
    let words = "x [[sim: http=400 message=\"active task count 3 has reached the plan limit\" times=1]]";
    gateway.run(&body(words, FLUX)).await;
    assert_eq!(limit().await, 2);
    for number in 0..6 {
        gateway.run(&body(&format!("{number}"), FLUX)).await;
    }
    assert_eq!(limit().await, 3, "the limit the provider named");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn the_line_has_an_end(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, "[engine]\nopen_per_tenant = 3\nopen_in_all = 4\n").await;
    let key = [("idempotency-key", "first")];
    let first = gateway.send(Method::POST, "/generate", &key, Some(&body("0", FLUX))).await.json();
    for number in 1..3 {
        gateway.generate(&body(&number.to_string(), FLUX)).await;
    }
    let full = gateway.post("/generate", &body("4", FLUX)).await;
    assert_eq!(
        (full.status, full.json()["code"].as_str()),
        (StatusCode::TOO_MANY_REQUESTS, Some("queue_full"))
    );
    assert!(full.header("retry-after").is_some());
    // What was taken in is answered all the same.
    let replay = gateway.send(Method::POST, "/generate", &key, Some(&body("0", FLUX))).await;
    assert_eq!((replay.status, replay.json()["id"].as_str()), (StatusCode::ACCEPTED, first["id"].as_str()));
    let other = [("authorization", &*format!("Bearer {OTHER_KEY}"))];
    let theirs = gateway.send(Method::POST, "/generate", &other, Some(&body("5", FLUX))).await;
    assert_eq!(theirs.status, StatusCode::ACCEPTED, "{}", theirs.json());
    let over = gateway.send(Method::POST, "/generate", &other, Some(&body("6", FLUX))).await;
    assert_eq!(over.status, StatusCode::TOO_MANY_REQUESTS);
    gateway.settle(first["id"].as_str().unwrap()).await;
    gateway.generate(&body("7", FLUX)).await;
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn the_fastest_route_goes_first_once_times_are_known(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::only(db, &narrow(4, true)).await;
    gateway.run(&body("x [[sim: time=20]]", FLUX)).await;
    gateway.run(&body("x [[sim: time=3]]", "imagepipeline/flux-schnell")).await;
    let fastest =
        json!({"prompt": "x", "model": "flux-schnell", "size": "64x64", "routing": {"strategy": "fastest"}})
            .to_string();
    let dry = gateway.post("/generate/dry-run", &fastest).await.json();
    assert_eq!(dry["route"]["provider"], "imagepipeline", "{dry}");
    assert!(
        dry["route"]["reason"].as_str().unwrap().starts_with("first in order of time taken; healthy"),
        "{dry}"
    );
    assert_eq!(gateway.run(&fastest).await["route"]["provider"], "imagepipeline");
    gateway.stop().await;
}

/// Near the front a place is exact; far behind it is known as of a moment ago, to within a stride of 64.
#[rstest]
#[tokio::test]
async fn a_place_in_a_long_line_is_about_right(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::only(db, &narrow(1, false)).await;
    let mut ids = Vec::new();
    for number in 0..500 {
        let task = gateway.generate(&body(&format!("{number}"), FLUX)).await;
        ids.push(task["id"].as_str().unwrap().to_owned());
    }
    for (number, id) in ids.iter().enumerate().step_by(99) {
        let is = u64::try_from(number).unwrap() + 1;
        // What is known of the line's end may be a second old, so the last may be told too good a place at first.
        loop {
            let place = gateway.task(id).await["queue"]["position"].as_u64().unwrap();
            assert!(if is <= 200 { place == is } else { (200..=is + 65).contains(&place) }, "{is}: {place}");
            if place.abs_diff(is) <= 65 {
                break;
            }
        }
    }
    gateway.stop().await;
}
