//! A disk that is almost full: nothing new is taken in or bought, what is paid for is kept, and it passes by itself.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use rstest::rstest;

use crate::harness::{Answer, Db, Gateway};

const CAT: &str = r#"{"prompt":"a cat","model":"flux-schnell","size":"64x64"}"#;

fn refuses(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{}", answer.json());
    assert_eq!(answer.json()["code"], "overloaded");
    assert!(answer.header("retry-after").is_some());
}

#[rstest]
#[tokio::test]
async fn new_work_waits_for_room_and_paid_work_does_not(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let key = [("idempotency-key", "order-7")];
    let at_work = gateway.send(Method::POST, "/generate", &key, Some(CAT)).await.json();
    gateway.app.engine.run_until_idle().await.unwrap();
    let queued = gateway.generate(CAT).await;
    let sent = gateway.receptions();
    let (at_work, queued) = (at_work["id"].as_str().unwrap(), queued["id"].as_str().unwrap());

    gateway.disk.leave_mib(511);
    assert_eq!(gateway.get("/readyz").await.status, StatusCode::OK, "it is looked at on a timer");
    gateway.app.engine.look_at_disks();
    let ready = gateway.get("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        ready.json()["checks"]["disk"].as_str().unwrap().starts_with("511 MiB are free for the pictures")
    );
    refuses(&gateway.post("/generate", CAT).await);
    refuses(&gateway.upload("/files", &[("content-type", "image/png")], vec![0; 10]).await);
    assert_eq!(gateway.post("/generate/dry-run", CAT).await.status, StatusCode::OK);
    let again = gateway.send(Method::POST, "/generate", &key, Some(CAT)).await;
    assert_eq!(again.json()["id"], at_work, "what was taken in before is answered");

    let done = gateway.settle(at_work).await;
    assert_eq!(done["status"], "succeeded", "what is paid for is kept");
    let picture = gateway.get(&format!("/tasks/{at_work}/images/0")).await;
    assert_eq!(picture.status, StatusCode::OK);
    let versions = "SELECT CAST(version AS TEXT) FROM tasks WHERE phase = 'queued'";
    let before = gateway.texts(versions).await;
    gateway.clock.advance(Duration::from_mins(2));
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.task(queued).await["status"], "queued");
    assert_eq!(gateway.texts(versions).await, before, "a full disk is not written to for those who wait");
    assert_eq!(gateway.receptions(), sent, "nothing is bought that could not be kept");

    gateway.disk.leave_mib(512);
    gateway.app.engine.look_at_disks();
    assert_eq!(gateway.get("/readyz").await.status, StatusCode::OK);
    assert_eq!(gateway.settle(queued).await["status"], "succeeded");
    gateway.generate(CAT).await;
    gateway.stop().await;
}
