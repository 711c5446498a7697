//! From one SQLite node to Postgres: everything comes along, what is open goes on, and nothing is bought again.

use easel::store::transfer;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Db, Gateway, fresh_postgres};

const CAT: &str = r#"{"prompt":"a cat","model":"flux-schnell","size":"64x64","metadata":{"of":"one"}}"#;

#[tokio::test]
async fn a_gateway_moves_with_all_it_has() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let done = gateway.run(CAT).await;
    let id = done["id"].as_str().unwrap().to_owned();
    let picture = gateway.get(&format!("/tasks/{id}/images/0")).await;
    gateway.post("/webhooks", r#"{"url":"http://127.0.0.1:9/hook"}"#).await;
    let endpoints = gateway.get("/webhooks").await.json();
    // One is at its provider and one in line when the gateway stops.
    let key = [("Idempotency-Key", "the-open-one")];
    let open = gateway.send(Method::POST, "/generate", &key, Some(CAT)).await.json();
    gateway.app.engine.run_until_idle().await.unwrap();
    let queued = gateway.generate(CAT).await;
    assert_eq!(gateway.receptions(), 2);

    let to = fresh_postgres().await;
    let mut moved = Vec::new();
    let gateway = gateway
        .restart_after(async |config| {
            let from = std::mem::replace(&mut config.store.url, to.clone());
            moved = transfer(&from, &to).await.unwrap();
            let again = transfer(&from, &to).await.unwrap_err().to_string();
            assert!(again.contains("the target is not empty"), "{again}");
        })
        .await;
    let rows = |table: &str| moved.iter().find(|one| one.table == table).map(|one| one.rows);
    assert_eq!((rows("tasks"), rows("attempts"), rows("images")), (Some(3), Some(2), Some(1)), "{moved:?}");

    let mut seen = gateway.task(&id).await;
    let mut expected = done.clone();
    // Links are signed for a time that has gone on, and for the address of the moment.
    for task in [&mut seen, &mut expected] {
        task["urls"] = json!(null);
        task["images"][0]["url"] = json!(null);
        task["images"][0]["url_expires_at"] = json!(null);
    }
    assert_eq!(seen, expected);
    assert_eq!(gateway.get(&format!("/tasks/{id}/images/0")).await.bytes, picture.bytes);
    assert_eq!(gateway.get("/webhooks").await.json(), endpoints);
    let replayed = gateway.send(Method::POST, "/generate", &key, Some(CAT)).await;
    assert_eq!(replayed.header("idempotency-replayed"), Some("true"));
    assert_eq!(replayed.json()["id"], open["id"]);
    for task in [&open, &queued] {
        assert_eq!(gateway.settle(task["id"].as_str().unwrap()).await["status"], "succeeded");
    }
    assert_eq!(gateway.receptions(), 3);
    gateway.stop().await;
}

#[tokio::test]
async fn what_cannot_be_moved_is_said() {
    let to = fresh_postgres().await;
    let missing = transfer("sqlite:///nowhere/easel.db", &to).await.unwrap_err().to_string();
    assert!(missing.contains("there is no database"), "{missing}");
    let backwards = transfer(&to, "sqlite:///tmp/easel.db").await.unwrap_err().to_string();
    assert!(backwards.contains("--from takes a sqlite://"), "{backwards}");
    // A gateway that runs on it would go on writing.
    let gateway = Gateway::start(Db::Sqlite).await;
    let busy = transfer(gateway.store_url(), &to).await.unwrap_err().to_string();
    assert!(busy.contains("in use"), "{busy}");
    gateway.stop().await;
}
