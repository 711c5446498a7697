//! What is taken in, what is refused, and that nothing is stored or sent for what is refused.

use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, OTHER_KEY};

#[rstest]
#[tokio::test]
async fn bad_input_gets_a_problem_and_leaves_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let cases: &[(&str, u16, &str, &str)] = &[
        (r#"{"prompt":"x","state":"succeeded"}"#, 422, "validation_failed", "/state"),
        (r#"{"prompt":"x","tenant_id":"other"}"#, 422, "validation_failed", "/tenant_id"),
        (r#"{"prompt":""}"#, 422, "validation_failed", "/prompt"),
        (r#"{"prompt":"\u200b\u200b"}"#, 422, "validation_failed", "/prompt"),
        (r#"{"prompt":"a\u0000b"}"#, 422, "validation_failed", "/prompt"),
        (r"{}", 422, "validation_failed", "/prompt"),
        (r#"{"prompt":"x","model":"flux-dev","size":"1025x1024"}"#, 422, "validation_failed", "/size"),
        (r#"{"prompt":"x","model":"flux-dev","size":"61681x17"}"#, 422, "validation_failed", "/size"),
        (r#"{"prompt":"x","size":"0x5"}"#, 422, "validation_failed", "/size"),
        (r#"{"prompt":"x","size":"1024"}"#, 422, "validation_failed", "/size"),
        (r#"{"prompt":"x","n":0}"#, 422, "validation_failed", "/n"),
        (r#"{"prompt":"x","n":1000000000}"#, 422, "validation_failed", "/n"),
        (r#"{"prompt":"x","model":"nope"}"#, 422, "validation_failed", "/model"),
        (
            r#"{"prompt":"x","model":"flux-dev","guidance_scale":5.1}"#,
            422,
            "validation_failed",
            "/guidance_scale",
        ),
        (r#"{"prompt":"x","model":"flux-dev","seed":1,"strict":true}"#, 422, "unservable", "/seed"),
        (r#"{"prompt":"x","model":"gpt-4o-image","operation":"inpaint"}"#, 422, "unservable", "/operation"),
        (
            r#"{"prompt":"x","routing":{"max_cost_usd":"-1"}}"#,
            422,
            "validation_failed",
            "/routing/max_cost_usd",
        ),
        (
            r#"{"prompt":"x","model":"flux-dev","routing":{"max_cost_usd":"0.01"}}"#,
            402,
            "max_cost_exceeded",
            "/routing/max_cost_usd",
        ),
        (r#"{"prompt":"x","deadline_s":0}"#, 422, "validation_failed", "/deadline_s"),
        (r#"{"prompt":"x","prompt":"y"}"#, 400, "invalid_json", ""),
        (r#"{"prompt":"x""#, 400, "invalid_json", ""),
        (r#"{"prompt":"\ud800"}"#, 400, "invalid_json", ""),
    ];
    for (body, status, code, pointer) in cases {
        let answer = gateway.post("/generate", body).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status.as_u16(), problem["code"].as_str()),
            (*status, Some(*code)),
            "{body}: {problem}"
        );
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(problem["type"], format!("/errors/{code}"));
        assert!(problem["request_id"].as_str().is_some_and(|id| Some(id) == answer.header("x-request-id")));
        if !pointer.is_empty() {
            assert_eq!(problem["errors"][0]["pointer"], *pointer, "{body}: {problem}");
        }
    }
    let send = async |headers: &[(&str, &str)], body: &str| {
        gateway.send(Method::POST, "/generate", headers, Some(body)).await
    };
    let good = r#"{"prompt":"x"}"#;
    for (headers, status) in [
        (&[("content-type", "text/plain")][..], 415),
        (&[("content-type", "multipart/form-data; boundary=x")], 415),
        (&[("content-type", "application/json; charset=utf-16")], 415),
        (&[("content-encoding", "gzip")], 415),
        (&[("authorization", "")], 401),
        (&[("authorization", "Bearer ")], 401),
        (&[("authorization", "Bearer wrong-wrong-wrong-wrong")], 401),
        (&[("idempotency-key", "with space")], 400),
        (&[("idempotency-key", "k"), ("idempotency-key", "k")], 400),
    ] {
        assert_eq!(send(headers, good).await.status.as_u16(), status, "{headers:?}");
    }
    let long = "k".repeat(256);
    assert_eq!(send(&[("idempotency-key", &long)], good).await.status, StatusCode::BAD_REQUEST);
    let large = json!({"prompt": "x", "metadata": {"a": "b".repeat(1024 * 1024)}}).to_string();
    assert_eq!(gateway.post("/generate", &large).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let listed = gateway.get("/tasks").await.json();
    assert_eq!(listed["data"], json!([]));
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.receptions(), 0);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn one_key_is_one_task(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let send = async |key: &str, body: &str| {
        gateway.send(Method::POST, "/generate", &[("idempotency-key", key)], Some(body)).await
    };
    let first = send("k1", r#"{"prompt":"a cat","size":"64x64","n":1}"#).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (StatusCode::ACCEPTED, None));
    let id = first.json()["id"].clone();
    // White space and key order do not matter.
    let again = send("k1", r#"{ "n": 1, "size":"64x64", "prompt":"a cat" }"#).await;
    assert_eq!((again.header("idempotency-replayed"), &again.json()["id"]), (Some("true"), &id));
    let other = send("k1", r#"{"prompt":"a dog","size":"64x64","n":1}"#).await;
    assert_eq!((other.status.as_u16(), other.json()["code"].as_str()), (422, Some("idempotency_key_reused")));
    // An invalid request does not burn its key.
    assert_eq!(send("k2", r#"{"prompt":""}"#).await.status.as_u16(), 422);
    assert_eq!(send("k2", r#"{"prompt":"x","size":"64x64"}"#).await.status, StatusCode::ACCEPTED);
    // Another tenant's key of the same name is another key.
    let foreign = [("idempotency-key", "k1"), ("authorization", &format!("Bearer {OTHER_KEY}") as &str)];
    let foreign = gateway.send(Method::POST, "/generate", &foreign, Some(r#"{"prompt":"a dog"}"#)).await;
    assert_eq!(foreign.status, StatusCode::ACCEPTED);
    gateway.settle(id.as_str().unwrap()).await;
    let after = send("k1", r#"{"prompt":"a cat","size":"64x64","n":1}"#).await;
    assert_eq!(
        (after.status, &after.json()["id"]),
        (StatusCode::OK, &id),
        "the end is replayed, not bought again"
    );
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_thousand_at_once_with_one_key_are_one_task(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let (key, body) = ([("idempotency-key", "same")], r#"{"prompt":"a cat","size":"64x64"}"#);
    let one = async || loop {
        let answer = gateway.send(Method::POST, "/generate", &key, Some(body)).await;
        // So many at once may be more than the database gets done in time: what is refused so is asked for again.
        if answer.status != StatusCode::SERVICE_UNAVAILABLE {
            return (answer.status, answer.header("idempotency-replayed").is_some(), answer.json());
        }
    };
    let answers = futures_util::future::join_all((0..1_000).map(|_| one())).await;
    let ids: std::collections::BTreeSet<String> =
        answers.iter().map(|(_, _, task)| task["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|(_, replayed, _)| !replayed).count(), 1);
    assert!(answers.iter().all(|(status, _, _)| *status == StatusCode::ACCEPTED));
    gateway.settle(answers[0].2["id"].as_str().unwrap()).await;
    assert_eq!(gateway.receptions(), 1);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn queued_tasks_are_called_off_for_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task = gateway.generate(r#"{"prompt":"a cat"}"#).await;
    let path = format!("/tasks/{}/cancel", task["id"].as_str().unwrap());
    let theirs =
        gateway.send(Method::POST, &path, &[("authorization", &format!("Bearer {OTHER_KEY}"))], None).await;
    assert_eq!(theirs.status, StatusCode::NOT_FOUND);
    let canceled = gateway.send(Method::POST, &path, &[], None).await;
    assert_eq!((canceled.status, canceled.json()["status"].as_str()), (StatusCode::OK, Some("canceled")));
    assert_eq!(canceled.json()["cost"]["billed"], "no");
    let again = gateway.send(Method::POST, &path, &[], None).await;
    assert_eq!(
        (again.status, again.json()["code"].as_str()),
        (StatusCode::CONFLICT, Some("already_finished"))
    );
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.receptions(), 0);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn tasks_are_listed_newest_first_and_page_by_page(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        gateway.clock.advance(std::time::Duration::from_secs(1));
        let model = if n == 2 { "gpt-4o-image" } else { "flux-dev" };
        ids.push(
            gateway.generate(&json!({"prompt": format!("cat {n}"), "model": model}).to_string()).await["id"]
                .clone(),
        );
    }
    ids.reverse();
    let list = async |query: &str| {
        let page = gateway.get(&format!("/tasks{query}")).await.json();
        let ids: Vec<Value> =
            page["data"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect();
        (ids, page["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(list("").await, (ids.clone(), None));
    let (first, cursor) = list("?limit=2").await;
    assert_eq!(first, ids[..2]);
    // What is added meanwhile does not shift the pages.
    gateway.generate(r#"{"prompt":"late"}"#).await;
    let (second, cursor) = list(&format!("?limit=2&cursor={}", cursor.unwrap())).await;
    assert_eq!(second, ids[2..4]);
    assert_eq!(list(&format!("?limit=2&cursor={}", cursor.unwrap())).await, (ids[4..].to_vec(), None));
    assert_eq!(list("?model=gpt-4o-image").await.0, ids[2..3]);
    assert_eq!(list("?provider=gpt_4o_image").await.0, ids[2..3]);
    assert_eq!(list("?status=failed").await.0, Vec::<Value>::new());
    assert_eq!(list("?status=queued&limit=200").await.0.len(), 6);
    let cut = gateway.task(ids[2].as_str().unwrap()).await["created_at"].as_str().unwrap().to_owned();
    assert_eq!(list(&format!("?created_before={cut}")).await.0, ids[3..]);
    assert_eq!(list(&format!("?created_after={cut}&limit=200")).await.0.len(), 4);
    for wrong in
        ["?limit=0", "?limit=201", "?cursor=x", "?status=odd", "?nonsense=1", "?created_after=yesterday"]
    {
        assert_eq!(gateway.get(&format!("/tasks{wrong}")).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(gateway.get("/tasks/task_0123").await.status, StatusCode::NOT_FOUND);
    gateway.stop().await;
}

/// A restored backup may not know what was bought since: nothing is sent until the operator says so.
#[rstest]
#[tokio::test]
async fn held_submissions_wait_and_everything_else_goes_on(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, "[engine]\nhold_submissions = true\n").await;
    let task = gateway.generate(r#"{"prompt":"a cat","deadline_s":600}"#).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    gateway.clock.advance(std::time::Duration::from_mins(5));
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(
        (gateway.task(task["id"].as_str().unwrap()).await["status"].as_str(), gateway.receptions()),
        (Some("queued"), 0)
    );
    let ended = gateway.settle(task["id"].as_str().unwrap()).await;
    assert_eq!(
        (ended["error"]["code"].as_str(), ended["cost"]["billed"].as_str()),
        (Some("deadline_exceeded"), Some("no"))
    );
    assert_eq!(gateway.receptions(), 0);
    gateway.stop().await;
}
