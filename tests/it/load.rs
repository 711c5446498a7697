//! Under load: what gives way first, what never does, and that no answer takes for ever.

use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use reqwest::{Method, StatusCode};
use rstest::rstest;

use crate::harness::{Answer, Db, Gateway, PATIENCE};

const BODY: &str = r#"{"prompt":"a cat","size":"64x64"}"#;
const LOW: &str = r#"{"prompt":"a cat","size":"64x64","priority":"low"}"#;

fn shed(answer: &Answer) -> bool {
    if answer.status != StatusCode::SERVICE_UNAVAILABLE {
        return false;
    }
    assert_eq!(answer.json()["code"], "overloaded");
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=300).contains(&seconds), "{seconds}");
    true
}

#[rstest]
#[tokio::test]
async fn load_is_shed_in_order_and_what_is_waited_for_is_always_served(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::configured(db, "[server]\nbusy = 8\n").await;
    let task = gateway.generate(BODY).await;
    let id = task["id"].as_str().unwrap();
    let (one, events) = (format!("/tasks/{id}"), format!("/tasks/{id}/events"));
    let lock = gateway.lock_tasks().await;
    let mut waiting = FuturesUnordered::new();
    // Writes that cannot get on are load; each class gives way at its own share of it.
    // They give up after five seconds: no more rounds than there are classes.
    for under_way in [0, 3, 4, 5, 6, 8] {
        waiting.extend((waiting.len()..under_way).map(|_| gateway.post("/generate", BODY)));
        let reached = async {
            while gateway.app.store.load().under_way() < under_way {
                tokio::select! {
                    answer = waiting.next(), if !waiting.is_empty() => panic!("answered: {answer:?}"),
                    () = tokio::task::yield_now() => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.unwrap();
        assert_eq!(gateway.get(&one).await.status, StatusCode::OK, "reading one task is always served");
        assert_eq!(gateway.get("/healthz").await.status, StatusCode::OK);
        assert_eq!(shed(&gateway.get("/tasks").await), under_way >= 5, "lists with {under_way} under way");
        if under_way >= 4 {
            assert!(shed(&gateway.get(&events).await), "streams with {under_way} under way");
        }
        if under_way >= 6 {
            assert!(shed(&gateway.post("/generate", LOW).await), "low priority with {under_way} under way");
        }
        if under_way == 8 {
            assert!(shed(&gateway.post("/generate", BODY).await), "ordinary work");
            assert!(shed(&gateway.upload("/files", &[], b"x".to_vec()).await), "uploads");
        }
    }
    // A cancel is taken, and done once the database goes on.
    let path = format!("{one}/cancel");
    let cancel = gateway.send(Method::POST, &path, &[], None);
    drop(lock);
    let (canceled, taken) = tokio::join!(cancel, waiting.collect::<Vec<_>>());
    assert_eq!(canceled.status, StatusCode::OK);
    assert!(taken.iter().all(|answer| answer.status == StatusCode::ACCEPTED), "{taken:?}");
    assert!(!shed(&gateway.get("/tasks").await));
    gateway.stop().await;
}

/// A request that the database keeps hanging is given up, and says that it may be sent again.
#[rstest]
#[tokio::test]
async fn a_request_is_answered_in_time_whatever_the_database_does(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::configured(db, "[server]\nhandler_s = 1\n").await;
    let task = gateway.generate(BODY).await;
    let lock = gateway.lock_tasks().await;
    let began = Instant::now();
    let path = format!("/tasks/{}/cancel", task["id"].as_str().unwrap());
    let answer = gateway.send(Method::POST, &path, &[], None).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.json()["code"], "store_unavailable");
    assert!(answer.header("retry-after").is_some());
    assert!(answer.json()["detail"].as_str().unwrap().contains("within 1 s"), "{}", answer.json());
    assert!(began.elapsed() >= Duration::from_secs(1));
    drop(lock);
    // What it waits for on purpose does not count.
    let waited = gateway.get(&format!("/tasks/{}?wait=2", task["id"].as_str().unwrap())).await;
    assert_eq!(waited.status, StatusCode::OK);
    gateway.stop().await;
}
