//! `DELETE /tasks/{id}`: nothing of the content is left in any row, the books and the idempotency key are.

use std::time::Duration;

use base64::Engine as _;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, OTHER_KEY};
use crate::sink::{Act, Sink};

const CANARY: &str = "marzipan";

/// Every text of every row that a task has.
async fn everything(gateway: &Gateway) -> String {
    let mut all = Vec::new();
    for query in [
        "SELECT request || state FROM tasks",
        "SELECT detail FROM attempts",
        "SELECT name || data FROM events",
        "SELECT url || body || log FROM deliveries",
        "SELECT label FROM task_labels",
        "SELECT sha256 FROM images",
        "SELECT id || sha256 FROM files",
    ] {
        all.extend(gateway.texts(query).await);
    }
    all.join("\n")
}

fn id(task: &Value) -> String {
    task["id"].as_str().unwrap().to_owned()
}

#[rstest]
#[tokio::test]
async fn no_row_knows_what_was_asked_for_or_what_came_of_it(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values(1, 3)] n: u32,
) {
    let gateway = Gateway::start(db).await;
    let first = gateway.run(r#"{"prompt":"an input","model":"flux-schnell","size":"64x64"}"#).await;
    let input = gateway.get(&format!("/tasks/{}/images/0", id(&first))).await.bytes;
    assert_eq!(gateway.delete(&format!("/tasks/{}", id(&first))).await, StatusCode::NO_CONTENT);
    let uploaded = gateway.upload("/files", &[("content-type", "image/png")], input.clone()).await.json();
    // The letters stay owed: their receiver is away.
    let sink = Sink::start(|_, _| Act::Status(500)).await;
    let registered = json!({"url": sink.url}).to_string();
    assert_eq!(gateway.post("/webhooks", &registered).await.status, StatusCode::CREATED);
    let inline = base64::engine::general_purpose::STANDARD.encode(&input);
    let body = json!({
        "prompt": CANARY, "negative_prompt": CANARY, "model": "gpt-4o-image", "n": n, "metadata": {"order": CANARY},
        "images": [{"b64_json": inline}, {"file_id": uploaded["id"]}],
        "webhook": {"url": format!("{}/{CANARY}", sink.url)},
    })
    .to_string();
    let ask = async || {
        gateway.send(Method::POST, "/generate", &[("idempotency-key", "order-7")], Some(&body)).await
    };
    let task = gateway.settle(&id(&ask().await.json())).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let path = format!("/tasks/{}", id(&task));
    let hashes: Vec<String> = task["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["sha256"].as_str().unwrap().to_owned())
        .collect();
    assert!(everything(&gateway).await.contains(CANARY));
    let owed = gateway.get("/webhooks/deliveries").await.json()["data"].as_array().unwrap().clone();
    assert!(!owed.is_empty());
    for sha256 in &hashes {
        gateway.age(sha256);
    }

    let as_other = [("authorization", &*format!("Bearer {OTHER_KEY}"))];
    let other = gateway.send(Method::DELETE, &path, &as_other, None).await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    for _ in 0..2 {
        assert_eq!(gateway.delete(&path).await, StatusCode::NO_CONTENT, "once or twice");
    }
    let left = everything(&gateway).await;
    assert!(!left.contains(CANARY), "{left}");
    assert!(
        hashes.iter().all(|sha256| !left.contains(&**sha256) && !gateway.blob(sha256).exists()),
        "{left}"
    );
    let files = gateway.texts("SELECT id FROM files").await;
    assert_eq!(files, [id(&uploaded)], "the inline image is gone, the upload is its caller's own");

    let tombstone = gateway.task(&id(&task)).await;
    assert!(!tombstone["erased_at"].is_null() && tombstone["expires_at"].is_null());
    assert_eq!((tombstone["prompt"].as_str(), &tombstone["metadata"]), (Some(""), &json!({})));
    assert_eq!((tombstone["images"].as_array().unwrap().len(), &tombstone["status"]), (0, &task["status"]));
    assert_eq!((&tombstone["cost"], &tombstone["model"]), (&task["cost"], &task["model"]));
    for gone in ["/images/0", "/events"] {
        let answer = gateway.get(&format!("{path}{gone}")).await;
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (StatusCode::GONE, Some("gone")),
            "{gone}"
        );
    }
    let again = format!("/webhooks/deliveries/{}/redeliver", id(&owed[0]));
    assert_eq!(gateway.post(&again, "").await.status, StatusCode::NOT_FOUND);
    let (sent, letters) = (gateway.receptions(), sink.events().len());
    let replayed = ask().await;
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    assert_eq!(replayed.json()["id"], task["id"]);
    gateway.pass(Duration::from_hours(1)).await;
    assert_eq!(
        (gateway.receptions(), sink.events().len()),
        (sent, letters),
        "nothing is bought or told again"
    );
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_task_is_erased_once_it_has_ended(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let body = r#"{"prompt":"marzipan [[sim: fail=10000 reason=\"marzipan is not allowed\"]]","model":"flux-schnell","size":"64x64"}"#;
    let task = gateway.generate(body).await;
    let path = format!("/tasks/{}", id(&task));
    let answer = gateway.send(Method::DELETE, &path, &[], None).await;
    assert_eq!((answer.status, answer.json()["code"].as_str()), (StatusCode::CONFLICT, Some("not_finished")));
    let task = gateway.settle(&id(&task)).await;
    assert!(everything(&gateway).await.contains(CANARY));
    assert_eq!(gateway.delete(&path).await, StatusCode::NO_CONTENT);
    assert!(!everything(&gateway).await.contains(CANARY));
    let tombstone = gateway.task(&id(&task)).await;
    assert_eq!((&tombstone["error"]["code"], &tombstone["cost"]), (&task["error"]["code"], &task["cost"]));
    assert_eq!(gateway.delete("/tasks/task_00000000000000000000000000").await, StatusCode::NOT_FOUND);
    gateway.stop().await;
}

/// The commit and the removal of the bytes are two things: what is left between them is done after the next start.
#[tokio::test]
async fn killed_between_the_rows_and_the_bytes_it_removes_them_later() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let task = gateway.run(r#"{"prompt":"a cat","model":"flux-schnell","size":"64x64"}"#).await;
    let sha256 = task["images"][0]["sha256"].as_str().unwrap().to_owned();
    let erased = gateway.app.store.erase_task("default".into(), id(&task).parse().unwrap()).await.unwrap();
    assert_eq!(erased, easel::store::Erasure::Done);
    let gateway = gateway.restart().await;
    assert!(gateway.blob(&sha256).exists());
    gateway.app.engine.tidy().await.unwrap();
    assert!(!gateway.blob(&sha256).exists());
    gateway.stop().await;
}
