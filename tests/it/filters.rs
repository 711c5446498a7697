//! Lists by label: every task that has it, no other, and pages that stay right while tasks are added.

use reqwest::StatusCode;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, OTHER_KEY};

async fn list(gateway: &Gateway, query: &str) -> (Vec<String>, Option<String>) {
    let answer = gateway.get(query).await;
    assert_eq!(answer.status, StatusCode::OK, "{query}: {}", answer.json());
    let page = answer.json();
    let prompts =
        page["data"].as_array().unwrap().iter().map(|task| task["prompt"].as_str().unwrap().to_owned());
    let next = answer.header("link").map(|link| link[1..link.find('>').unwrap()].to_owned());
    assert_eq!(next.is_some(), page["has_more"] == json!(true));
    assert_eq!(next.is_some(), page["next_cursor"] != Value::Null);
    (prompts.collect(), next)
}

#[rstest]
#[tokio::test]
async fn tasks_are_found_by_their_labels(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let long = "v".repeat(4_000);
    let add = async |prompt: String, metadata: Value| {
        gateway.clock.advance(std::time::Duration::from_millis(1));
        let body = json!({"prompt": prompt, "model": "flux-schnell", "metadata": metadata});
        gateway.generate(&body.to_string()).await;
    };
    for n in 0..6 {
        add(format!("red {n}"), json!({"colour": "red", "parity": if n % 2 == 0 { "even" } else { "odd" }}))
            .await;
        add(format!("blue {n}"), json!({"colour": "blue", "a=b": "c d&e", "ключ": "ü"})).await;
    }
    add("long".into(), json!({"long": long})).await;
    let body =
        json!({"prompt": "theirs", "model": "flux-schnell", "metadata": {"colour": "red"}}).to_string();
    gateway.send(reqwest::Method::POST, "/generate", &[("x-api-key", OTHER_KEY)], Some(&body)).await;

    let (red, next) = list(&gateway, "/tasks?metadata.colour=red").await;
    assert_eq!((red, next), ((0..6).rev().map(|n| format!("red {n}")).collect(), None));
    let even = "/tasks?metadata.colour=red&metadata.parity=even";
    assert_eq!(list(&gateway, even).await.0, ["red 4", "red 2", "red 0"]);
    assert_eq!(list(&gateway, "/tasks?metadata.colour=red&metadata.colour=blue").await.0, [""; 0]);
    assert_eq!(
        list(&gateway, "/tasks?metadata.a%3Db=c+d%26e&metadata.%D0%BA%D0%BB%D1%8E%D1%87=%C3%BC&limit=200")
            .await
            .0
            .len(),
        6
    );
    assert_eq!(list(&gateway, &format!("/tasks?metadata.long={long}")).await.0, ["long"]);
    assert_eq!(list(&gateway, "/tasks?metadata.colour=re").await.0, [""; 0]);
    assert_eq!(list(&gateway, "/tasks?metadata.colour=red&status=succeeded").await.0, [""; 0]);
    assert_eq!(
        list(&gateway, "/tasks?metadata.colour=red&status=queued&model=flux-schnell").await.0.len(),
        6
    );

    // Page by page along the links, while others are added: each of the six once, in order, with every filter kept.
    let (mut seen, mut next) = list(&gateway, "/tasks?metadata.colour=red&status=queued&limit=2").await;
    while let Some(path) = next {
        add("late".into(), json!({"colour": "red"})).await;
        let (more, after) = list(&gateway, &path).await;
        seen.extend(more);
        next = after;
    }
    assert_eq!(seen, (0..6).rev().map(|n| format!("red {n}")).collect::<Vec<_>>());

    for wrong in ["/tasks?metadata=x", "/tasks?metadatacolour=red", "/tasks?status=odd&metadata.a=b"] {
        assert_eq!(gateway.get(wrong).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    let many = "&metadata.k=v".repeat(17);
    assert_eq!(gateway.get(&format!("/tasks?limit=1{many}")).await.status, StatusCode::BAD_REQUEST);
    gateway.stop().await;
}
