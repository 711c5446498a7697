//! A5: what is another tenant's is answered like what is not there, to the byte, at every endpoint with an id: the list is
//! read from the documentation, so that a new endpoint cannot be forgotten. And the audit knows of the try.

use std::collections::BTreeSet;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Answer, Db, Gateway, KEY, OTHER_KEY, PATIENCE, client};
use crate::sink::{Act, Sink};

/// Things of one tenant, by the path segment before their id, each with an id of the same kind that nobody has.
struct Things(Vec<(&'static str, String, &'static str)>);

impl Things {
    /// A path with these ids filled in, and the same with unknown ones; `None` for a path without ids of tenants.
    fn fill(&self, path: &str) -> Option<(String, String)> {
        let mut pieces: Vec<(String, String)> = Vec::new();
        let mut filled = false;
        for part in path.split('/') {
            if !part.starts_with('{') {
                pieces.push((part.into(), part.into()));
                continue;
            }
            let before = pieces.last().unwrap().0.clone();
            let (theirs, unknown) = match (self.0.iter().find(|(kind, ..)| *kind == before), part) {
                (Some((_, id, unknown)), _) => (id.clone(), (*unknown).to_owned()),
                (None, "{index}") => ("0".into(), "0".into()),
                (None, other) => panic!("what goes into {other} of {path}?"),
            };
            filled |= theirs != unknown;
            pieces.push((theirs, unknown));
        }
        let (theirs, unknown): (Vec<_>, Vec<_>) = pieces.into_iter().unzip();
        filled.then(|| (theirs.join("/"), unknown.join("/")))
    }
}

/// An answer without what is different every time.
fn plain(answer: &Answer) -> (StatusCode, Vec<(String, String)>, Value) {
    let fleeting = ["date", "x-request-id", "ratelimit"];
    let mut headers: Vec<_> = answer
        .headers
        .iter()
        .filter(|(name, _)| !fleeting.contains(&name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    let mut problem = answer.json();
    problem.as_object_mut().unwrap().remove("request_id");
    (answer.status, headers, problem)
}

#[rstest]
#[tokio::test]
async fn what_is_anothers_is_not_there(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::start(|_, _| Act::Status(200)).await;
    let task = gateway.run(r#"{"prompt":"x","model":"flux-schnell","size":"64x64"}"#).await;
    let url = task["images"][0]["url"].as_str().unwrap();
    let png = client().get(url).send().await.unwrap().bytes().await.unwrap();
    let file = gateway.upload("/files", &[("content-type", "image/png")], png.to_vec()).await.json();
    let endpoint = gateway.post("/webhooks", &json!({"url": sink.url}).to_string()).await.json();
    let id = |thing: &Value| thing["id"].as_str().unwrap().to_owned();
    let delivery = gateway.post(&format!("/webhooks/{}/test", id(&endpoint)), "").await.json();
    let things = Things(vec![
        ("tasks", id(&task), "task_01k9zq5s4m8v2c6x0b3n7d1f5g"),
        ("files", id(&file), "file_01k9zq5s4m8v2c6x0b3n7d1f5g"),
        ("webhooks", id(&endpoint), "wh_01k9zq5s4m8v2c6x0b3n7d1f5g"),
        ("deliveries", id(&delivery), "evt_01k9zq5s4m8v2c6x0b3n7d1f5g"),
        // Nobody's in particular: open to all who have a key, or closed to all but admins, or opened by a token alone.
        ("models", "nothing".into(), "nothing"),
        ("providers", "nothing".into(), "nothing"),
        ("quarantine", "qua_01k9zq5s4m8v2c6x0b3n7d1f5g".into(), "qua_01k9zq5s4m8v2c6x0b3n7d1f5g"),
        ("keys", "key_01k9zq5s4m8v2c6x0b3n7d1f5g".into(), "key_01k9zq5s4m8v2c6x0b3n7d1f5g"),
        ("attempts", "att_01k9zq5s4m8v2c6x0b3n7d1f5g".into(), "att_01k9zq5s4m8v2c6x0b3n7d1f5g"),
        ("hooks", "nobody".into(), "nobody"),
        ("nobody", "token".into(), "token"),
    ]);

    let document = gateway.get("/openapi.json").await.json();
    let mut tried = BTreeSet::new();
    let mut compared = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        if !path.contains('{') {
            continue;
        }
        let Some((theirs, unknown)) = things.fill(path) else { continue };
        for method in methods.as_object().unwrap().keys() {
            let Ok(method) = Method::from_bytes(method.to_uppercase().as_bytes()) else { continue };
            let ask = async |path: &str| {
                gateway.send(method.clone(), path, &[("x-api-key", OTHER_KEY)], None).await
            };
            let (theirs_said, unknown_said) = (ask(&theirs).await, ask(&unknown).await);
            assert_eq!(
                unknown_said.status,
                StatusCode::NOT_FOUND,
                "{method} {path}: {}",
                unknown_said.json()
            );
            assert_eq!(plain(&theirs_said), plain(&unknown_said), "{method} {path}");
            tried.insert(format!("{method} {theirs}"));
            compared += 1;
        }
    }
    assert!(compared >= 14, "{compared} endpoints: {tried:?}");

    // It is all still there, and was not touched.
    assert_eq!(gateway.task(&id(&task)).await["status"], "succeeded");
    assert_eq!(gateway.get(&format!("/files/{}", id(&file))).await.status, 200);
    assert_eq!(gateway.get(&format!("/webhooks/{}", id(&endpoint))).await.json()["disabled_at"], Value::Null);

    // Lists hold nothing of it, and filters cannot reach it.
    for list in ["/tasks", "/webhooks", "/webhooks/deliveries"] {
        let page = gateway.send(Method::GET, list, &[("x-api-key", OTHER_KEY)], None).await.json();
        assert_eq!(page["data"], json!([]), "{list}");
    }
    let by_task = format!("/webhooks/deliveries?task_id={}", id(&task));
    let page = gateway.send(Method::GET, &by_task, &[("x-api-key", OTHER_KEY)], None).await.json();
    assert_eq!(page["data"], json!([]));

    // Another's file is no input, either: the task ends as with a file that is not there, before anything is bought.
    let body =
        json!({"prompt": "x", "model": "gpt-4o-image", "images": [{"file_id": id(&file)}]}).to_string();
    let before = gateway.receptions();
    let stolen = gateway.send(Method::POST, "/generate", &[("x-api-key", OTHER_KEY)], Some(&body)).await;
    assert_eq!(stolen.status, StatusCode::ACCEPTED, "{}", stolen.json());
    let ended = gateway.settle_for(&[("x-api-key", OTHER_KEY)], &id(&stolen.json())).await;
    assert_eq!((&ended["status"], &ended["error"]["billed"]), (&json!("failed"), &json!("no")), "{ended}");
    assert_eq!(gateway.receptions(), before);

    // Every try at something that is there is in the audit, and none at what is not.
    let written = async {
        loop {
            let page = gateway.get("/admin/audit?act=tenant.cross&limit=200").await.json();
            let entries = page["data"].as_array().unwrap().clone();
            if entries.len() >= tried.len() {
                return entries;
            }
        }
    };
    let entries = tokio::time::timeout(PATIENCE, written).await.expect("the tries are written down");
    let requests: BTreeSet<_> =
        entries.iter().map(|entry| entry["details"]["request"].as_str().unwrap().to_owned()).collect();
    assert_eq!(requests, tried);
    for entry in &entries {
        assert_eq!((&entry["key"], &entry["tenant"]), (&json!("other"), &json!("other")));
        assert_eq!(entry["outcome"], "refused");
    }
    gateway.stop().await;
}

/// A gateway whose tenant has an endpoint that was sent a test: where that went, and the ids of endpoint and delivery.
async fn told(db: Db) -> (Gateway, Sink, String, String) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::start(|_, _| Act::Status(200)).await;
    let id = |answer: &Answer| answer.json()["id"].as_str().unwrap().to_owned();
    let endpoint = id(&gateway.post("/webhooks", &json!({"url": sink.url}).to_string()).await);
    let delivery = id(&gateway.post(&format!("/webhooks/{endpoint}/test"), "").await);
    gateway.app.engine.run_until_idle().await.unwrap();
    (gateway, sink, endpoint, delivery)
}

/// What tenants do to secrets and deliveries is in the audit, too.
#[rstest]
#[tokio::test]
async fn what_is_done_to_webhooks_is_written_down(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let (gateway, _sink, id, delivery) = told(db).await;
    let rotated = gateway.post(&format!("/webhooks/{id}/rotate"), "").await.json();
    gateway.post("/webhooks/secret/rotate", "").await;
    let redelivered = gateway.post(&format!("/webhooks/deliveries/{delivery}/redeliver"), "").await;
    assert_eq!(redelivered.status, StatusCode::ACCEPTED, "{}", redelivered.json());
    gateway.send(Method::DELETE, &format!("/webhooks/{id}"), &[], None).await;
    let page = gateway.get("/admin/audit").await;
    let said = String::from_utf8(page.bytes.clone()).unwrap();
    assert!(!said.contains(rotated["secret"].as_str().unwrap()) && !said.contains(KEY));
    let mut acts: Vec<_> = page.json()["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["act"].as_str().unwrap().to_owned(), one["subject"].as_str().unwrap().to_owned()))
        .collect();
    acts.sort();
    let act = |name: &str, subject: &str| (name.to_owned(), subject.to_owned());
    let expected = [
        act("delivery.redeliver", &delivery),
        act("webhook.remove", &id),
        act("webhook.rotate", &id),
        act("webhook_secret.rotate", "default"),
    ];
    assert_eq!(acts, expected);
    // Page by page, by what was done, by whom and to what.
    let first = gateway.get("/admin/audit?limit=3").await.json();
    let rest =
        gateway.get(&format!("/admin/audit?cursor={}", first["next_cursor"].as_str().unwrap())).await.json();
    let count = |page: &Value| page["data"].as_array().unwrap().len();
    assert_eq!((count(&first), count(&rest)), (3, 1));
    assert_eq!(count(&gateway.get("/admin/audit?act=webhook.rotate&key=test").await.json()), 1);
    assert_eq!(count(&gateway.get("/admin/audit?key=nobody").await.json()), 0);
    gateway.stop().await;
}

/// Nothing is done to them that cannot be written down.
#[rstest]
#[tokio::test]
async fn nothing_is_done_to_webhooks_without_its_entry(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let (gateway, sink, id, delivery) = told(db).await;
    let before = gateway.get("/webhooks/secret").await.json();
    gateway.sql("ALTER TABLE audit RENAME TO away").await;
    for path in [
        "/webhooks/secret/rotate".to_owned(),
        format!("/webhooks/{id}/rotate"),
        format!("/webhooks/deliveries/{delivery}/redeliver"),
    ] {
        assert_eq!(gateway.post(&path, "").await.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    let removed = gateway.send(Method::DELETE, &format!("/webhooks/{id}"), &[], None).await;
    assert_eq!(removed.status, StatusCode::SERVICE_UNAVAILABLE);
    gateway.sql("ALTER TABLE away RENAME TO audit").await;
    assert_eq!(gateway.get("/webhooks/secret").await.json(), before);
    assert_eq!(gateway.get(&format!("/webhooks/{id}")).await.status, StatusCode::OK);
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(sink.letters().len(), 1, "nothing was sent once more");
    assert_eq!(gateway.get("/admin/audit").await.json()["data"], json!([]));
    gateway.stop().await;
}

/// A9: a signed address opens what it was signed for, until then, and nothing else.
#[rstest]
#[tokio::test]
async fn a_signed_address_opens_one_picture(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let body = r#"{"prompt":"x","model":"flux-schnell","size":"64x64"}"#;
    let (one, other) = (gateway.run(body).await, gateway.run(body).await);
    let url = one["images"][0]["url"].as_str().unwrap();
    let status = async |url: &str| client().get(url).send().await.unwrap().status().as_u16();
    assert_eq!(status(url).await, 200);
    let id = |task: &Value| task["id"].as_str().unwrap().to_owned();
    let last = url.chars().last().unwrap();
    let another = if last == '0' { "1" } else { "0" };
    let expires = url.split(['=', '&']).nth(1).unwrap();
    let later = (expires.parse::<i64>().unwrap() + 1).to_string();
    for forged in [
        url.replace(&id(&one), &id(&other)),
        url.replace(expires, &later),
        format!("{}{another}", &url[..url.len() - 1]),
        url.replace("images/0", "images/1"),
        url.replace(expires, "soon"),
    ] {
        assert!(matches!(status(&forged).await, 400 | 403), "{forged}");
    }
    for crooked in ["..%2f..%2feasel.toml", "0%2f..%2f..%2f"] {
        let crooked = url.replace("images/0", &format!("images/{crooked}"));
        assert!(matches!(status(&crooked).await, 403 | 404), "{crooked}");
    }
    gateway.clock.advance(Duration::from_hours(25));
    assert_eq!(status(url).await, 403);
    gateway.stop().await;
}
