//! How much a key may do, over all replicas, and what wrong keys get.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Answer, Db, Gateway, KEY, OTHER_KEY, PATIENCE, client};
use crate::keys::{knock, make};

const BODY: &str = r#"{"prompt":"x","model":"flux-schnell","size":"64x64"}"#;

async fn get(gateway: &Gateway, key: &str) -> Answer {
    gateway.send(Method::GET, "/models", &[("x-api-key", key)], None).await
}

/// The number under a name in a `RateLimit` header.
fn number(answer: &Answer, header: &str, name: &str) -> i64 {
    let text = answer.header(header).unwrap_or_else(|| panic!("{header} is missing"));
    let part = text.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    part.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
}

#[rstest]
#[tokio::test]
async fn requests_are_counted_told_and_refused(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (_, key) = make(&gateway, &json!({"name": "slow", "rpm": 45})).await;
    for n in 1..=45 {
        let answer = get(&gateway, &key).await;
        assert_eq!(answer.status, StatusCode::OK, "request {n}");
        assert_eq!(answer.header("ratelimit-policy"), Some("\"requests\";q=45;w=60"));
        assert_eq!(number(&answer, "ratelimit", "r"), 45 - n);
    }
    let refused = get(&gateway, &key).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["code"]), (429, &json!("rate_limited")));
    assert_eq!(number(&refused, "ratelimit", "r"), 0);
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(i64::try_from(wait).unwrap(), number(&refused, "ratelimit", "t"));
    // Refused before it was read: nothing is stored for it.
    let post = gateway.send(Method::POST, "/generate", &[("x-api-key", &key)], Some(BODY)).await;
    assert_eq!(post.status, 429);
    // Other keys go on, errors carry the headers too, and so does whoever comes back in time.
    let missing = gateway.get("/tasks/nothing").await;
    assert_eq!((missing.status.as_u16(), number(&missing, "ratelimit-policy", "q")), (404, 600_000));
    gateway.clock.advance(Duration::from_secs(wait));
    assert_eq!(number(&get(&gateway, &key).await, "ratelimit", "r"), 44);
    // A restart does not forget what was used, but for what was taken and not spent.
    let gateway = gateway.restart().await;
    let left = number(&get(&gateway, &key).await, "ratelimit", "r");
    assert!((41..=43).contains(&left), "{left}");
    gateway.stop().await;
}

/// All replicas together let through no more than the limit, and at least what none of them can have hoarded.
#[tokio::test]
async fn requests_are_counted_over_replicas() {
    let gateway = Gateway::start(Db::Postgres).await;
    let (one, other) = (gateway.replica().await, gateway.replica().await);
    let (_, key) = make(&gateway, &json!({"name": "shared", "rpm": 100})).await;
    let http = client();
    let urls = [&gateway.url, &one.url, &other.url];
    let tries = (0..240).map(|n| {
        let request = http.get(format!("{}/models", urls[n % 3])).bearer_auth(&key);
        async move { request.send().await.unwrap().status().as_u16() }
    });
    let statuses = join_all(tries).await;
    let granted = statuses.iter().filter(|status| **status == 200).count();
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 240 - granted);
    // A portion is 5; two others can hold 4 each that they have not spent.
    assert!((92..=100).contains(&granted), "{granted}");
    one.stop().await;
    other.stop().await;
    gateway.stop().await;
}

/// A key without a limit of its own costs the store nothing: each replica counts it by itself.
#[rstest]
#[tokio::test]
async fn the_usual_limit_is_counted_in_this_process(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let gateway = gateway.restart_after(async |config| config.auth.rpm = 3).await;
    for left in [2, 1, 0] {
        let answer = get(&gateway, KEY).await;
        assert_eq!((answer.status.as_u16(), number(&answer, "ratelimit", "r")), (200, left));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"requests\";q=3;w=60"));
    }
    assert_eq!((knock(&gateway, KEY).await, knock(&gateway, OTHER_KEY).await), (429, 200));
    assert_eq!(gateway.texts("SELECT key_name FROM key_minutes").await, [""; 0]);
    gateway.clock.advance(Duration::from_mins(1));
    assert_eq!(knock(&gateway, KEY).await, 200);
    gateway.stop().await;
}

/// A store that hangs is asked by one request, not by one after the other: each would wait for those before it, and the
/// later ones be given up (`server.handler_s`). When it answers again, requests are counted again.
#[rstest]
#[tokio::test]
async fn requests_do_not_queue_up_for_a_store_that_hangs(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (_, key) = make(&gateway, &json!({"name": "narrow", "rpm": 30})).await;
    let lock = gateway.lock("key_minutes").await;
    let answers = join_all((0..6).map(|_| get(&gateway, &key))).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200; 6]);
    drop(lock);
    let counted = async { while knock(&gateway, &key).await != 429 {} };
    tokio::time::timeout(PATIENCE, counted).await.expect("requests are counted again");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn open_tasks_of_a_key_are_bounded_exactly(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (_, key) = make(&gateway, &json!({"name": "narrow", "concurrent_tasks": 3})).await;
    let headers: [(&str, &str); 1] = [("x-api-key", &key)];
    let send =
        async |headers: &[(&str, &str)]| gateway.send(Method::POST, "/generate", headers, Some(BODY)).await;
    let answers = join_all((0..20).map(|_| send(&headers))).await;
    let taken: Vec<Value> = answers.iter().filter(|one| one.status == 202).map(Answer::json).collect();
    assert_eq!(taken.len(), 3);
    let full = answers.iter().find(|one| one.status != 202).unwrap();
    assert_eq!((full.status.as_u16(), &full.json()["code"]), (429, &json!("queue_full")));
    assert!(full.header("retry-after").is_some());
    let listed = gateway.send(Method::GET, "/tasks", &headers, None).await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 3, "what is refused leaves nothing");
    // Another key of the same tenant has places of its own; a place is free again when a task has ended.
    assert_eq!(send(&[("x-api-key", KEY)]).await.status, 202);
    gateway.settle(taken[0]["id"].as_str().unwrap()).await;
    let again = [("x-api-key", key.as_str()), ("idempotency-key", "again")];
    assert_eq!(send(&again).await.status, 202);
    // What was taken in before is answered, however full it is.
    for _ in 0..5 {
        send(&headers).await;
    }
    assert_eq!(send(&headers).await.status, 429);
    let replayed = send(&again).await;
    assert_eq!((replayed.status.is_success(), replayed.header("idempotency-replayed")), (true, Some("true")));
    gateway.stop().await;
}

/// Two replicas take the last places at the same time: no more are taken than there are.
#[tokio::test]
async fn open_tasks_are_bounded_over_replicas() {
    let gateway = Gateway::start(Db::Postgres).await;
    let replica = gateway.replica().await;
    let (_, key) = make(&gateway, &json!({"name": "narrow", "concurrent_tasks": 5})).await;
    let http = client();
    let tries = (0..40).map(|n| {
        let url = if n % 2 == 0 { &gateway.url } else { &replica.url };
        let request = http.post(format!("{url}/generate")).bearer_auth(&key);
        let request = request.header("content-type", "application/json").body(BODY);
        async move { request.send().await.unwrap().status().as_u16() }
    });
    let statuses = join_all(tries).await;
    assert_eq!(statuses.iter().filter(|status| **status == 202).count(), 5, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 35, "{statuses:?}");
    replica.stop().await;
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_key_with_a_list_of_models_gets_no_other(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let more = "[models.fast]\nmodel = \"flux-schnell\"\n[models.fine]\nmodel = \"flux-dev\"\n";
    let gateway = Gateway::configured(db, more).await;
    let (_, key) = make(&gateway, &json!({"name": "one", "models": ["flux-schnell"]})).await;
    let headers: [(&str, &str); 1] = [("x-api-key", &key)];
    for path in ["/generate", "/generate/dry-run"] {
        let send = async |model: &str| {
            let body = json!({"prompt": "x", "model": model}).to_string();
            gateway.send(Method::POST, path, &headers, Some(&body)).await
        };
        for model in ["flux-schnell", "fast", "auto", "piapi_flux/Qubico/flux1-schnell"] {
            assert!(send(model).await.status.is_success(), "{path} {model}");
        }
        for model in ["flux-dev", "fine", "gpt-4o-image", "piapi_flux/Qubico/flux1-dev"] {
            let answer = send(model).await;
            let problem = answer.json();
            assert_eq!(
                (answer.status.as_u16(), &problem["code"]),
                (403, &json!("forbidden")),
                "{path} {model}"
            );
            assert_eq!(problem["errors"][0]["pointer"], "/model");
        }
        assert_eq!(send("nope").await.status, 422);
    }
    gateway.stop().await;
}

/// A1, A7: without a key, with an empty one, with half of one, with a huge one, with one in the address.
#[rstest]
#[tokio::test]
async fn no_key_gets_one_answer(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let huge = "k".repeat(10_000);
    let http = client();
    let bare = |path: &str| http.get(format!("{}{path}", gateway.url));
    let cases = [
        bare("/tasks"),
        bare("/tasks").header("authorization", ""),
        bare("/tasks").header("authorization", "Bearer"),
        bare("/tasks").header("authorization", "Bearer "),
        bare("/tasks").header("authorization", "Basic dGVzdDp0ZXN0"),
        bare("/tasks").header("x-api-key", ""),
        bare("/tasks").header("x-api-key", &huge),
        bare("/tasks").header("x-api-key", "easel_nobody_0123456789abcdef"),
    ];
    let mut bodies = Vec::new();
    for case in cases {
        let answer = case.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        let mut problem: Value = answer.json().await.unwrap();
        problem.as_object_mut().unwrap().remove("request_id");
        bodies.push(problem);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    let hinted = bare(&format!("/tasks?api_key={KEY}")).send().await.unwrap();
    assert_eq!(hinted.status(), StatusCode::UNAUTHORIZED);
    let problem = hinted.text().await.unwrap();
    assert!(problem.contains("not taken from the URL") && !problem.contains(KEY), "{problem}");
    gateway.stop().await;
}

/// A2, A10: guesses are answered 401 twenty times a minute and 429 after that; the right key always opens.
#[rstest]
#[tokio::test]
async fn guesses_are_bounded_and_lock_nobody_out(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (id, key) = make(&gateway, &json!({"name": "target"})).await;
    let (_, gone) = make(&gateway, &json!({"name": "gone"})).await;
    // With a right check sum, and of no key that is known: as if it were of another gateway.
    gateway.sql("DELETE FROM api_keys WHERE name = 'gone'").await;
    gateway.sql("UPDATE key_changes SET count = count + 1").await;
    let unknown = async { while knock(&gateway, &gone).await != 401 {} };
    tokio::time::timeout(PATIENCE, unknown).await.expect("it is not known any more");
    // The key's id and check sum, and another secret.
    let guess = easel::domain::key_text::KeyText::fresh_for(id.parse().unwrap()).text;
    let mut counts = [0, 0];
    for _ in 0..1_000 {
        match knock(&gateway, &guess).await {
            401 => counts[0] += 1,
            429 => counts[1] += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!(counts, [19, 981], "the unknown key was a guess from here, too");
    let refused = gateway.send(Method::GET, "/models", &[("x-api-key", &guess)], None).await;
    assert_eq!(refused.json()["code"], "rate_limited");
    assert!(refused.header("retry-after").is_some() && refused.header("ratelimit").is_none());
    assert_eq!(knock(&gateway, &key).await, 200);
    gateway.clock.advance(Duration::from_mins(1));
    assert_eq!(knock(&gateway, &guess).await, 401);
    gateway.stop().await;
}

/// A6: the same idempotency key of two tenants is two keys.
#[rstest]
#[tokio::test]
async fn idempotency_keys_are_each_tenants_own(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let send = async |key: &str, prompt: &str| {
        let body = json!({"prompt": prompt, "model": "flux-schnell"}).to_string();
        let headers = [("x-api-key", key), ("idempotency-key", "same")];
        gateway.send(Method::POST, "/generate", &headers, Some(&body)).await
    };
    let (ours, theirs) = (send(KEY, "ours").await, send(OTHER_KEY, "theirs").await);
    assert_eq!((ours.status.as_u16(), theirs.status.as_u16()), (202, 202));
    assert_ne!(ours.json()["id"], theirs.json()["id"]);
    assert_eq!(theirs.json()["prompt"], "theirs");
    gateway.stop().await;
}
