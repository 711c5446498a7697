//! Webhooks to callers: signed, at least once, in order, and administered over HTTP.

use std::time::{Duration, Instant};

use easel::domain::clock::{Clock, Millis};
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, OTHER_KEY};
use crate::sink::{Act, Sink};

/// Asks for a picture and to be told at `url`.
async fn generate(gateway: &Gateway, url: &str, events: &[&str]) -> String {
    let body = json!({"prompt": "a little cat", "model": "flux-schnell", "size": "64x64",
        "webhook": {"url": url, "events": events}});
    gateway.generate(&body.to_string()).await["id"].as_str().unwrap().to_owned()
}

async fn register(gateway: &Gateway, url: &str, events: &[&str]) -> Value {
    let answer = gateway.post("/webhooks", &json!({"url": url, "events": events}).to_string()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
    answer.json()
}

async fn deliveries(gateway: &Gateway, query: &str) -> Vec<Value> {
    gateway.get(&format!("/webhooks/deliveries{query}")).await.json()["data"].as_array().unwrap().clone()
}

async fn tenant_secret(gateway: &Gateway) -> String {
    gateway.get("/webhooks/secret").await.json()["secret"].as_str().unwrap().to_owned()
}

#[rstest]
#[tokio::test]
async fn the_end_of_a_task_is_told_to_the_request_and_to_registered_endpoints(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    let (own, all, queued) = (
        Sink::saying(Act::Status(204)).await,
        Sink::saying(Act::Status(200)).await,
        Sink::saying(Act::Status(200)).await,
    );
    let endpoint = register(&gateway, &all.url, &[]).await;
    register(&gateway, &queued.url, &["task.queued"]).await;
    let id = generate(&gateway, &own.url, &[]).await;
    let task = gateway.settle(&id).await;
    assert_eq!(task["status"], "succeeded", "{task}");

    for (sink, secret) in
        [(&own, tenant_secret(&gateway).await), (&all, endpoint["secret"].as_str().unwrap().to_owned())]
    {
        assert_eq!(sink.events(), ["task.succeeded"]);
        let letter = &sink.letters()[0];
        assert!(letter.verifies(&secret, gateway.clock.now()));
        assert!(
            !letter.verifies(&secret, gateway.clock.now() + Duration::from_mins(6)),
            "a replay is too old"
        );
        assert!(!letter.id().contains('.') && letter.id().starts_with("evt_"));
        assert_eq!(letter.headers["content-type"], "application/json");
        let mut told = letter.json()["data"]["task"].clone();
        // The link is signed anew with every answer.
        let path = told["images"][0]["url"].as_str().unwrap().strip_prefix(&gateway.url).unwrap().to_owned();
        assert_eq!(gateway.send(Method::GET, &path, &[("authorization", "")], None).await.status, 200);
        let mut read = gateway.task(&id).await;
        for task in [&mut told, &mut read] {
            task["images"][0]["url"].take();
            task["images"][0]["url_expires_at"].take();
        }
        assert_eq!(told, read);
    }
    assert_eq!(queued.events(), ["task.queued"]);
    assert_eq!(queued.letters()[0].json()["data"]["task"]["status"], "queued");
    let log = deliveries(&gateway, "").await;
    assert_eq!(log.len(), 3);
    assert!(log.iter().all(|one| one["state"] == "delivered" && one["tries"] == 1), "{log:?}");
    assert_eq!(log.iter().filter(|one| one["webhook_id"] == endpoint["id"]).count(), 1);
    gateway.stop().await;
}

/// O1, O9: nine failures, then success: the same letter each time, signed anew.
#[rstest]
#[tokio::test]
async fn a_receiver_that_fails_nine_times_has_it_the_tenth(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::start(|_, before| Act::Status(if before < 9 { 500 } else { 200 })).await;
    let id = generate(&gateway, &sink.url, &[]).await;
    gateway.settle(&id).await;
    let secret = tenant_secret(&gateway).await;
    let mut moments = vec![gateway.clock.now()];
    assert!(sink.letters()[0].verifies(&secret, moments[0]));
    for n in 1..10 {
        gateway.next_letters().await;
        let now = gateway.clock.now();
        assert_eq!(sink.letters().len(), n + 1);
        assert!(sink.letters()[n].verifies(&secret, now) && now > moments[n - 1]);
        moments.push(now);
    }
    let hours = moments[9].since(moments[0]).as_secs_f64() / 3_600.0;
    assert!((67.0..84.0).contains(&hours), "75 h 35 min within 10 %: {hours}");
    let letters = sink.letters();
    assert_eq!(sink.ids().len(), 1, "one webhook-id over all tries");
    assert!(letters.iter().all(|letter| letter.body == letters[0].body), "the exact bytes");
    assert!(letters.windows(2).all(|two| two[0].timestamp() < two[1].timestamp()));
    let log = &deliveries(&gateway, &format!("?task_id={id}")).await[0];
    assert_eq!((log["state"].as_str(), log["tries"].as_u64()), (Some("delivered"), Some(10)));
    assert_eq!(log["log"].as_array().unwrap().len(), 10);
    assert_eq!(log["log"][0]["status"], 500);
    gateway.stop().await;
}

/// After the last try a letter is dead, stays in the log, and can be had again word for word.
#[rstest]
#[tokio::test]
async fn what_no_receiver_took_is_dead_and_can_be_redelivered(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, "[webhooks]\nschedule_s = [5]\n").await;
    let sink = Sink::saying(Act::Status(500)).await;
    let id = generate(&gateway, &sink.url, &[]).await;
    gateway.settle(&id).await;
    gateway.next_letters().await;
    assert_eq!(gateway.app.store.next_delivery().await.unwrap(), None);
    let dead = deliveries(&gateway, "?state=dead").await;
    assert_eq!((dead.len(), dead[0]["tries"].as_u64()), (1, Some(2)));
    sink.say(Act::Status(200));
    let path = format!("/webhooks/deliveries/{}/redeliver", dead[0]["id"].as_str().unwrap());
    let other = gateway.send(Method::POST, &path, &[("x-api-key", OTHER_KEY)], None).await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    let again = gateway.send(Method::POST, &path, &[], None).await;
    assert_eq!((again.status, again.json()["state"].as_str()), (StatusCode::ACCEPTED, Some("pending")));
    gateway.app.engine.run_until_idle().await.unwrap();
    let letters = sink.letters();
    assert_eq!((letters.len(), sink.ids().len()), (3, 1));
    assert_eq!(letters[2].body, letters[0].body);
    assert_eq!(deliveries(&gateway, "").await[0]["state"], "delivered");
    gateway.stop().await;
}

/// O7: while a letter is being retried its secret is exchanged: both sign, for 72 hours.
#[rstest]
#[tokio::test]
async fn both_secrets_sign_during_a_rotation(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::saying(Act::Status(500)).await;
    let endpoint = register(&gateway, &sink.url, &[]).await;
    let (webhook, old) = (endpoint["id"].as_str().unwrap(), endpoint["secret"].as_str().unwrap());
    let id = generate(&gateway, "https://example.invalid/", &["task.late_result"]).await;
    gateway.settle(&id).await;
    let rotated = gateway.post(&format!("/webhooks/{webhook}/rotate"), "").await.json();
    let new = rotated["secret"].as_str().unwrap();
    assert_ne!(new, old);
    gateway.next_letters().await;
    let now = gateway.clock.now();
    let letters = sink.letters();
    assert!(letters[0].verifies(old, now) && !letters[0].verifies(new, now));
    assert!(letters[1].verifies(old, now) && letters[1].verifies(new, now));
    gateway.clock.advance(Duration::from_hours(73));
    gateway.app.engine.run_until_idle().await.unwrap();
    let last = sink.letters().pop().unwrap();
    assert!(last.verifies(new, gateway.clock.now()) && !last.verifies(old, gateway.clock.now()));
    // A secret is told once, by the answer that makes it.
    assert!(gateway.get(&format!("/webhooks/{webhook}")).await.json().get("secret").is_none());
    let own = tenant_secret(&gateway).await;
    let next = gateway.post("/webhooks/secret/rotate", "").await.json();
    assert!(next["secret"] != own.as_str() && next["previous_until"].is_string());
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn endpoints_belong_to_their_tenant(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::saying(Act::Status(200)).await;
    let endpoint = register(&gateway, &sink.url, &["task.failed"]).await;
    assert_eq!(endpoint["events"], json!(["task.failed"]));
    let path = format!("/webhooks/{}", endpoint["id"].as_str().unwrap());
    let other = async |method, path: &str| {
        gateway.send(method, path, &[("x-api-key", OTHER_KEY)], None).await.status.as_u16()
    };
    for (method, rest) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::GET, "/deliveries"),
        (Method::POST, "/test"),
        (Method::POST, "/rotate"),
    ] {
        assert_eq!(other(method, &format!("{path}{rest}")).await, 404, "{rest}");
    }
    let theirs = gateway.send(Method::GET, "/webhooks", &[("x-api-key", OTHER_KEY)], None).await.json();
    assert_eq!(theirs["data"], json!([]));
    let mine = gateway.get("/webhooks").await.json();
    assert_eq!(mine["data"][0]["url"], sink.url.as_str());
    // The other tenant's tasks are none of this endpoint's business, nor is what it did not ask for.
    let body = r#"{"prompt":"x","model":"flux-schnell","size":"64x64"}"#;
    let task = gateway.send(Method::POST, "/generate", &[("x-api-key", OTHER_KEY)], Some(body)).await.json();
    gateway.settle_for(&[("x-api-key", OTHER_KEY)], task["id"].as_str().unwrap()).await;
    gateway.run(body).await;
    assert_eq!(sink.letters().len(), 0);

    assert_eq!(gateway.post(&format!("{path}/test"), "").await.status, StatusCode::ACCEPTED);
    gateway.app.engine.run_until_idle().await.unwrap();
    let test = &sink.letters()[0];
    assert!(test.verifies(endpoint["secret"].as_str().unwrap(), gateway.clock.now()));
    assert_eq!(
        (test.event().as_str(), &test.json()["data"]["webhook_id"]),
        ("webhook.test", &endpoint["id"])
    );
    assert_eq!(gateway.send(Method::DELETE, &path, &[], None).await.status, StatusCode::NO_CONTENT);
    assert_eq!(gateway.get(&path).await.status, StatusCode::NOT_FOUND);
    for n in 0..20 {
        register(&gateway, &format!("{}/{n}", sink.url), &[]).await;
    }
    let answer = gateway.post("/webhooks", &json!({"url": sink.url}).to_string()).await;
    assert_eq!((answer.status.as_u16(), answer.json()["code"].as_str()), (422, Some("validation_failed")));
    gateway.stop().await;
}

/// B11, S: what may not be reached is refused before anything is stored, in requests, dry runs and registrations.
#[rstest]
#[tokio::test]
async fn addresses_that_are_closed_are_refused(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let ours = format!("{}/hooks/x/y", gateway.url);
    let long = format!("https://example.com/{}", "a".repeat(5_000));
    let cases = [
        ("https://user:pass@example.com/", "validation_failed"),
        ("https://example.com/#part", "validation_failed"),
        (long.as_str(), "validation_failed"),
        ("ftp://example.com/", "validation_failed"),
        ("file:///etc/passwd", "validation_failed"),
        ("https://", "validation_failed"),
        ("https://example.com:22/", "url_not_allowed"),
        ("https://example.com:5432/", "url_not_allowed"),
        ("http://2130706434/", "url_not_allowed"),
        ("http://0x7f.2/", "url_not_allowed"),
        ("http://127.2/", "url_not_allowed"),
        ("http://①②⑦.⓪.⓪.②/", "url_not_allowed"),
        ("http://[::1]/", "url_not_allowed"),
        ("http://[::ffff:7f00:2]/", "url_not_allowed"),
        ("http://[64:ff9b::7f00:1]/", "url_not_allowed"),
        ("http://169.254.169.254/", "url_not_allowed"),
        ("http://10.0.0.1/", "url_not_allowed"),
        (ours.as_str(), "url_not_allowed"),
    ];
    for (url, code) in cases {
        let request = json!({"prompt": "x", "webhook": {"url": url}}).to_string();
        for (path, body, pointer) in [
            ("/generate", &request, "/webhook/url"),
            ("/generate/dry-run", &request, "/webhook/url"),
            ("/webhooks", &json!({"url": url}).to_string(), "/url"),
        ] {
            let answer = gateway.post(path, body).await;
            let problem = answer.json();
            assert_eq!(
                (answer.status.as_u16(), problem["code"].as_str()),
                (422, Some(code)),
                "{path} {url:.60}"
            );
            assert_eq!(problem["errors"][0]["pointer"], pointer, "{path} {url:.60}");
        }
    }
    for (body, pointer) in [
        (
            json!({"prompt": "x", "webhook": {"url": "https://example.com/", "events": ["task.nonsense"]}}),
            "/webhook/events/0",
        ),
        (
            json!({"prompt": "x", "webhook": {"url": "https://example.com/", "secret": "x"}}),
            "/webhook/secret",
        ),
        (json!({"prompt": "x", "webhook": {}}), "/webhook/url"),
    ] {
        let problem = gateway.post("/generate", &body.to_string()).await.json();
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    assert_eq!(gateway.get("/tasks").await.json()["data"], json!([]));
    gateway.stop().await;
}

/// A webhook says where to tell of a task and changes nothing else about it.
#[rstest]
#[tokio::test]
async fn a_webhook_changes_neither_the_route_nor_what_is_sent(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let bare = json!({"prompt": "x", "model": "flux-dev", "n": 2});
    let mut with = bare.clone();
    with["webhook"] = json!({"url": "https://example.com/hook"});
    let plans = [bare, with];
    let mut answers = Vec::new();
    for plan in &plans {
        let answer = gateway.post("/generate/dry-run", &plan.to_string()).await;
        assert_eq!(answer.status, StatusCode::OK);
        answers.push(answer.json());
    }
    assert_eq!(answers[0], answers[1]);
    let key = [("idempotency-key", "one")];
    let first = gateway.send(Method::POST, "/generate", &key, Some(&plans[0].to_string())).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    let other = gateway.send(Method::POST, "/generate", &key, Some(&plans[1].to_string())).await;
    assert_eq!(other.json()["code"], "idempotency_key_reused", "another address is another request");
    gateway.stop().await;
}

/// A task in parts is one task to its caller, and a replay of its request owes nothing again.
#[rstest]
#[tokio::test]
async fn one_task_has_one_last_word(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::saying(Act::Status(200)).await;
    let body = json!({"prompt": "x", "model": "flux-schnell", "size": "64x64", "n": 3,
        "webhook": {"url": sink.url, "events": ["task.queued", "task.succeeded", "task.canceled"]}});
    let key = [("idempotency-key", "one")];
    let task = gateway.send(Method::POST, "/generate", &key, Some(&body.to_string())).await.json();
    gateway.send(Method::POST, "/generate", &key, Some(&body.to_string())).await;
    let task = gateway.settle(task["id"].as_str().unwrap()).await;
    assert_eq!(task["images"].as_array().unwrap().len(), 3);
    gateway.send(Method::POST, "/generate", &key, Some(&body.to_string())).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(sink.events(), ["task.queued", "task.succeeded"]);
    // What is called off is told, too.
    let id = generate(&gateway, &sink.url, &[]).await;
    assert_eq!(gateway.post(&format!("/tasks/{id}/cancel"), "").await.status, StatusCode::OK);
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(sink.events().last().unwrap(), "task.canceled");
    gateway.stop().await;
}

/// From the provider's done to the first byte of the webhook, in real time.
#[rstest]
#[tokio::test]
async fn webhooks_follow_at_once(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::live(db).await;
    let sink = Sink::saying(Act::Status(200)).await;
    let (mut waits, mut reads) = (Vec::<Duration>::new(), Vec::<Duration>::new());
    for n in 1..=15 {
        let id = generate(&gateway, &sink.url, &["task.saving", "task.succeeded"]).await;
        let letters = sink.wait_for(2 * n).await;
        // `task.saving` is written in the moment in which the provider's answer is there.
        let of = |event: &str| letters.iter().rev().find(|letter| letter.event() == event).unwrap().clone();
        let done: Millis = of("task.saving").json()["timestamp"].as_str().unwrap().parse().unwrap();
        waits.push(of("task.saving").at.since(done));
        let begun = Instant::now();
        gateway.task(&id).await;
        reads.push(begun.elapsed());
    }
    waits.sort();
    reads.sort();
    println!(
        "from the provider's done to the first webhook byte: median {:?}, worst {:?}",
        waits[7], waits[14]
    );
    // On a machine that is busy with other things all is slow, and one read of a task tells how slow.
    assert!(waits[7] < Duration::from_millis(250).max(20 * reads[7]), "{waits:?}, a read takes {reads:?}");
    gateway.stop().await;
}
