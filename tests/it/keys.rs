//! The keys the gateway manages: made, exchanged, expired and revoked, here and on every replica, and what is written down
//! of it.

use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, OTHER_KEY, PATIENCE, client};

/// Makes a key; its id and its text.
pub async fn make(gateway: &Gateway, wanted: &Value) -> (String, String) {
    let answer = gateway.post("/admin/keys", &wanted.to_string()).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.json());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let key = answer.json();
    assert_eq!(
        answer.header("location"),
        Some(format!("/admin/keys/{}", key["id"].as_str().unwrap()).as_str())
    );
    (key["id"].as_str().unwrap().to_owned(), key["key"].as_str().unwrap().to_owned())
}

/// The status that a key gets.
pub async fn knock(gateway: &Gateway, key: &str) -> u16 {
    let answer = gateway.send(Method::GET, "/models", &[("x-api-key", key)], None).await;
    answer.status.as_u16()
}

/// Entries of the audit about a subject, oldest first: act, key and outcome.
async fn audit(gateway: &Gateway, subject: &str) -> Vec<[String; 3]> {
    let page = gateway.get(&format!("/admin/audit?subject={subject}")).await.json();
    let mut entries: Vec<_> = page["data"].as_array().unwrap().clone();
    entries.reverse();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap().to_owned();
    entries.iter().map(|entry| [text(entry, "act"), text(entry, "key"), text(entry, "outcome")]).collect()
}

#[rstest]
#[tokio::test]
async fn a_key_is_made_exchanged_and_revoked(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let wanted = json!({"name": "shop", "tenant": "shop", "models": ["flux-dev"], "rpm": 90, "concurrent_tasks": 3,
        "daily_budget_usd": "5.5", "budget_usd": "100", "expires_at": "2030-01-01T00:00:00.000Z"});
    let (id, first) = make(&gateway, &wanted).await;
    assert!(first.starts_with(&format!("easel_{}_", id.trim_start_matches("key_"))), "{first}");
    assert_eq!(knock(&gateway, &first).await, 200);

    // Listed with everything but its text, beside the keys of the configuration.
    let listed = gateway.get("/admin/keys").await.json();
    let shown = &listed["data"][0];
    for (field, value) in wanted.as_object().unwrap() {
        assert_eq!(&shown[field], value, "{field}");
    }
    assert_eq!(
        (&shown["role"], &shown["key"], &shown["revoked_at"]),
        (&json!("user"), &Value::Null, &Value::Null)
    );
    let names: Vec<_> = listed["configured"].as_array().unwrap().iter().map(|key| &key["name"]).collect();
    assert_eq!(names, ["other", "test"]);

    // It works for its own tenant.
    let headers: [(&str, &str); 1] = [("x-api-key", &first)];
    let body = r#"{"prompt":"x","model":"flux-dev"}"#;
    let task = gateway.send(Method::POST, "/generate", &headers, Some(body)).await.json();
    let path = format!("/tasks/{}", task["id"].as_str().unwrap());
    assert_eq!(gateway.send(Method::GET, &path, &headers, None).await.status, 200);
    assert_eq!(gateway.get(&path).await.status, 404);

    // Exchanged: both open for a day, then only the new one.
    gateway.clock.advance(Duration::from_millis(1));
    let rotated = gateway.post(&format!("/admin/keys/{id}/rotate"), "").await;
    assert_eq!((rotated.status.as_u16(), rotated.header("cache-control")), (200, Some("no-store")));
    let second = rotated.json()["key"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert_eq!((knock(&gateway, &first).await, knock(&gateway, &second).await), (200, 200));
    gateway.clock.advance(Duration::from_hours(24));
    assert_eq!((knock(&gateway, &first).await, knock(&gateway, &second).await), (401, 200));
    gateway.clock.advance(Duration::from_millis(1));
    let third = gateway.post(&format!("/admin/keys/{id}/rotate?overlap_s=0"), "").await.json();
    let third = third["key"].as_str().unwrap().to_owned();
    assert_eq!((knock(&gateway, &second).await, knock(&gateway, &third).await), (401, 200));
    assert_eq!(gateway.post(&format!("/admin/keys/{id}/rotate?overlap_s=99999999"), "").await.status, 400);

    // Revoked: at once, and for good. Its name stays taken, because tasks know it by it.
    gateway.clock.advance(Duration::from_millis(1));
    let path = format!("/admin/keys/{id}");
    for _ in 0..2 {
        assert_eq!(gateway.send(Method::DELETE, &path, &[], None).await.status, StatusCode::NO_CONTENT);
        assert_eq!(knock(&gateway, &third).await, 401);
    }
    assert_eq!(gateway.post(&format!("{path}/rotate"), "").await.status, 404);
    let again = gateway.post("/admin/keys", r#"{"name":"shop"}"#).await;
    assert_eq!((again.status.as_u16(), &again.json()["errors"][0]["pointer"]), (422, &json!("/name")));

    let entry = |act: &str| [act.to_owned(), "test".to_owned(), "done".to_owned()];
    let expected = ["key.create", "key.rotate", "key.rotate", "key.revoke"].map(entry);
    assert_eq!(audit(&gateway, &id).await, expected);
    let all = String::from_utf8(gateway.get("/admin/audit").await.bytes).unwrap();
    for text in [&first, &second, &third] {
        assert!(!all.contains(&text[40..]), "no secret in the audit");
    }
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_key_that_cannot_be_is_refused_with_every_fault(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let pointers = async |body: Value| {
        let answer = gateway.post("/admin/keys", &body.to_string()).await;
        assert_eq!(answer.status, 422, "{body}");
        let errors = answer.json()["errors"].as_array().unwrap().clone();
        errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let faulty = json!({"name": "a b", "tenant": "", "rpm": 0, "concurrent_tasks": 0, "budget_usd": "-1",
        "models": ["flux-dev", "nope"], "expires_at": "2020-01-01T00:00:00Z"});
    let expected =
        ["/name", "/tenant", "/expires_at", "/rpm", "/concurrent_tasks", "/budget_usd", "/models/1"];
    assert_eq!(pointers(faulty).await, expected);
    assert_eq!(pointers(json!({"name": "test"})).await, ["/name"], "a key of the configuration has it");
    assert_eq!(pointers(json!({"name": "x", "key": "mine"})).await, ["/key"]);
    assert_eq!(pointers(json!({"name": "x", "role": "root"})).await, ["/role"]);
    assert_eq!(pointers(json!({"name": "x", "budget_usd": 5})).await, ["/budget_usd"]);
    assert_eq!(gateway.get("/admin/keys").await.json()["data"], json!([]));
    gateway.stop().await;
}

/// A4: the key ends while its caller waits. What was taken in goes on; the next request is refused.
#[rstest]
#[tokio::test]
async fn a_key_that_expires_opens_nothing_and_loses_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let in_ten_minutes = "2026-09-21T14:23:20Z";
    let (_, key) = make(&gateway, &json!({"name": "short", "expires_at": in_ten_minutes})).await;
    let headers: [(&str, &str); 1] = [("x-api-key", &key)];
    let body = r#"{"prompt":"x","model":"flux-schnell","size":"64x64"}"#;
    let task = gateway.send(Method::POST, "/generate", &headers, Some(body)).await.json();
    let id = task["id"].as_str().unwrap();
    let path = format!("/tasks/{id}?wait=60");
    let waiting = gateway.send(Method::GET, &path, &headers, None);
    let ending = async {
        // The caller waits by now, or comes too late: its key is good until the clock moves.
        let waits = async {
            while gateway.app.store.changes().watched().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waits).await.expect("the caller waits");
        gateway.clock.advance(Duration::from_mins(10));
        gateway.settle(id).await
    };
    let (waited, _) = tokio::join!(waiting, ending);
    assert_eq!((waited.status.as_u16(), &waited.json()["status"]), (200, &json!("succeeded")));
    let refused = gateway.send(Method::GET, &path, &headers, None).await;
    assert_eq!((refused.status.as_u16(), &refused.json()["detail"]), (401, &json!("this key has expired")));
    gateway.stop().await;
}

/// A3: revoked on one replica, a key opens nothing on another within five seconds; made on one, it opens there.
#[tokio::test]
async fn replicas_hear_of_keys_within_five_seconds() {
    let gateway = Gateway::start(Db::Postgres).await;
    let replica = gateway.replica().await;
    let there = async |key: &str| {
        client()
            .get(format!("{}/models", replica.url))
            .bearer_auth(key)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    let opens = async |key: &str| {
        let opened = async { while there(key).await != 200 {} };
        tokio::time::timeout(PATIENCE, opened).await.expect("it opens there, too");
    };
    let (old_id, old) = make(&gateway, &json!({"name": "old", "rpm": 1_000_000})).await;
    opens(&old).await;
    let (_, new) = make(&gateway, &json!({"name": "new", "rpm": 1_000_000})).await;
    assert_eq!(gateway.send(Method::DELETE, &format!("/admin/keys/{old_id}"), &[], None).await.status, 204);
    let revoked = Instant::now();
    assert_eq!(knock(&gateway, &old).await, 401);
    let closed = async {
        loop {
            let asked = revoked.elapsed();
            match there(&old).await {
                200 => assert!(asked <= Duration::from_secs(5), "it opens {asked:?} after it was revoked"),
                status => return assert_eq!(status, 401),
            }
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("it is refused there, too");
    opens(&new).await;
    replica.stop().await;
    gateway.stop().await;
}

/// While the database is away, managed keys are trusted no longer than they would be with it; those of the configuration
/// open as ever.
#[tokio::test]
async fn keys_that_cannot_be_looked_up_are_not_trusted_for_long() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let (_, key) = make(&gateway, &json!({"name": "managed"})).await;
    assert_eq!(knock(&gateway, &key).await, 200);
    gateway.sql("ALTER TABLE key_changes RENAME TO away").await;
    let distrusted = async { while knock(&gateway, &key).await != 503 {} };
    tokio::time::timeout(PATIENCE, distrusted).await.expect("it is not trusted for ever");
    assert_eq!(knock(&gateway, crate::harness::KEY).await, 200);
    gateway.sql("ALTER TABLE away RENAME TO key_changes").await;
    let trusted = async { while knock(&gateway, &key).await != 200 {} };
    tokio::time::timeout(PATIENCE, trusted).await.expect("it opens again");
    gateway.stop().await;
}

/// Keys outlive the process, and lists of them have pages.
#[rstest]
#[tokio::test]
async fn keys_are_listed_page_by_page_and_outlive_the_process(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let mut texts = Vec::new();
    for name in ["a", "b", "c"] {
        gateway.clock.advance(Duration::from_millis(1));
        texts.push(make(&gateway, &json!({"name": name})).await.1);
    }
    let gateway = gateway.restart().await;
    for text in &texts {
        assert_eq!(knock(&gateway, text).await, 200);
    }
    let first = gateway.get("/admin/keys?limit=2").await;
    assert!(first.header("link").is_some());
    let first = first.json();
    let second =
        gateway.get(&format!("/admin/keys?cursor={}", first["next_cursor"].as_str().unwrap())).await.json();
    let names = |page: &Value| -> Vec<Value> {
        page["data"].as_array().unwrap().iter().map(|key| key["name"].clone()).collect()
    };
    assert_eq!((names(&first), names(&second)), (vec![json!("c"), json!("b")], vec![json!("a")]));
    assert_eq!((&first["has_more"], &second["has_more"]), (&json!(true), &json!(false)));
    gateway.stop().await;
}

/// Old entries of the audit are cleared away with whatever else has had its time, batch by batch.
#[rstest]
#[tokio::test]
async fn the_audit_is_kept_for_as_long_as_configured(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, "[audit]\nkeep_days = 30\n").await;
    make(&gateway, &json!({"name": "old"})).await;
    gateway.clock.advance(Duration::from_hours(24 * 20));
    make(&gateway, &json!({"name": "new"})).await;
    gateway.clock.advance(Duration::from_hours(24 * 15));
    let many = "INSERT INTO audit (id, at, key_name, tenant, act, subject, outcome, details) \
         SELECT 'aud_' || n, 1, 'x', 'x', 'x', 'x', 'done', '{}' FROM \
         (WITH RECURSIVE all_n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM all_n WHERE n < 250) SELECT n FROM all_n) AS ns";
    gateway.sql(many).await;
    gateway.app.engine.tidy().await.unwrap();
    let names = async || -> Vec<Value> {
        let page = gateway.get("/admin/audit?act=key.create").await.json();
        page["data"].as_array().unwrap().iter().map(|entry| entry["details"]["name"].clone()).collect()
    };
    assert_eq!(names().await, [json!("new")]);
    assert_eq!(gateway.texts("SELECT act FROM audit").await, ["key.create"]);
    gateway.stop().await;
}

/// A8: what is the admins' is nobody else's, whether it is there or not.
#[rstest]
#[tokio::test]
async fn a_users_key_opens_nothing_of_the_admins(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let user: [(&str, &str); 1] = [("x-api-key", OTHER_KEY)];
    let mut bodies = Vec::new();
    for (method, path) in [
        (Method::GET, "/admin/keys"),
        (Method::POST, "/admin/keys"),
        (Method::DELETE, "/admin/keys/key_01k9zq5s4m8v2c6x0b3n7d1f5g"),
        (Method::GET, "/admin/audit"),
        (Method::POST, "/admin/reload"),
        (Method::GET, "/admin/spend"),
        (Method::GET, "/admin/attempts"),
        (Method::POST, "/admin/attempts/att_01k9zq5s4m8v2c6x0b3n7d1f5g/billing"),
        (Method::POST, "/admin/log"),
        (Method::GET, "/admin/nothing-here"),
        (Method::GET, "/admin"),
    ] {
        let answer = gateway.send(method, path, &user, None).await;
        let mut problem = answer.json();
        assert_eq!((answer.status.as_u16(), &problem["code"]), (403, &json!("forbidden")), "{path}");
        problem.as_object_mut().unwrap().remove("request_id");
        bodies.push(problem);
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "the answers tell nothing apart: {bodies:?}");
    let written = async {
        loop {
            let page = gateway.get("/admin/audit?act=admin.refused&key=other").await.json();
            let mut tried: Vec<_> = page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["subject"].as_str().unwrap().to_owned())
                .collect();
            tried.sort();
            if tried.len() == 11 {
                return tried;
            }
        }
    };
    let tried = tokio::time::timeout(PATIENCE, written).await.expect("refused tries are written down");
    assert!(tried.contains(&"POST /admin/reload".to_owned()), "{tried:?}");
    gateway.stop().await;
}
