//! Callbacks of providers, paid calls of unknown outcome, and results that come after the end.

use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, ITSELF};

const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";

/// A gateway that providers can reach.
async fn reachable(db: Db) -> Gateway {
    Gateway::configured(db, &format!("[server]\npublic_url = \"{ITSELF}\"\n")).await
}

async fn submit(gateway: &Gateway, fault: &str, more: Value) -> String {
    let mut body = json!({"prompt": format!("a cat [[sim: {fault}]]"), "model": FLUX, "size": "64x64"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let task = gateway.generate(&body.to_string()).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    task["id"].as_str().unwrap().to_owned()
}

/// The address the provider was given, as the upstream's ledger has it.
fn bell(gateway: &Gateway) -> String {
    let ledger = gateway.simulator.ledger();
    let url = ledger.last().unwrap().correlation.clone().expect("a callback was planted");
    url.strip_prefix(&gateway.url).expect("an address of ours").to_owned()
}

#[rstest]
#[tokio::test]
async fn an_unknown_outcome_is_found_by_its_callback(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values("reset_accepted", "truncate=head", "bad_json no_task_id", "http=502 accepted=true")] fault: &str,
) {
    let gateway = reachable(db).await;
    let id = submit(&gateway, &format!("{fault} time=30"), json!({})).await;
    let task = gateway.task(&id).await;
    assert_eq!(task["phase"], "reconciling", "{task}");
    assert_eq!(task["cost"]["billed"], "unknown");
    assert_eq!(task["cost"]["max_possible_usd"], "0.0015");
    gateway.clock.advance(std::time::Duration::from_secs(31));
    gateway.simulator.ring().await;
    let task = gateway.settle(&id).await;
    assert_eq!(
        (task["status"].as_str(), task["cost"]["billed"].as_str()),
        (Some("succeeded"), Some("yes")),
        "{task}"
    );
    assert_eq!(gateway.receptions(), 1);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn without_news_the_window_ends_in_an_honest_answer(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = reachable(db).await;
    let id = submit(&gateway, "reset hook=none", json!({})).await;
    let before = easel::domain::clock::Clock::now(&*gateway.clock);
    let task = gateway.settle(&id).await;
    let waited = easel::domain::clock::Clock::now(&*gateway.clock).since(before).as_secs();
    assert_eq!(task["error"]["code"], "outcome_unknown", "{task}");
    assert_eq!(
        (task["error"]["retryable"].as_bool(), task["error"]["billed"].as_str()),
        (Some(false), Some("unknown"))
    );
    assert!((900..=905).contains(&waited), "looked for it for {waited} s");
    // A shorter window where the provider's own failure says that a task turns up soon or not at all.
    let id = submit(&gateway, "http=500", json!({})).await;
    let before = easel::domain::clock::Clock::now(&*gateway.clock);
    gateway.settle(&id).await;
    let waited = easel::domain::clock::Clock::now(&*gateway.clock).since(before).as_secs();
    assert!((60..=65).contains(&waited), "looked for it for {waited} s");
    // And none where the caller wants to know at once.
    let id = submit(&gateway, "reset", json!({"routing": {"on_unknown": "fail"}})).await;
    assert_eq!(gateway.task(&id).await["error"]["code"], "outcome_unknown");
    assert_eq!(gateway.receptions(), 3);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn what_comes_after_the_end_is_a_late_result(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = reachable(db).await;
    let id = submit(&gateway, "reset_accepted hook=late hook_delay=2000 time=5", json!({})).await;
    let task = gateway.settle(&id).await;
    assert_eq!(
        (task["error"]["code"].as_str(), task["late_result"].is_null()),
        (Some("outcome_unknown"), true)
    );
    gateway.clock.advance(std::time::Duration::from_secs(2000));
    gateway.simulator.ring().await;
    gateway.app.engine.run_until_idle().await.unwrap();
    let late = gateway.task(&id).await;
    assert_eq!(
        (late["status"].as_str(), late["error"]["code"].as_str()),
        (Some("failed"), Some("outcome_unknown"))
    );
    assert_eq!(late["finished_at"], task["finished_at"], "the end stays what it was");
    assert_eq!(
        (late["cost"]["billed"].as_str(), late["cost"]["actual_usd"].as_str()),
        (Some("yes"), Some("0.0015")),
        "{late}"
    );
    assert_eq!(late["images"].as_array().unwrap().len(), 0);
    let image = &late["late_result"]["images"][0];
    let path = image["url"].as_str().unwrap().strip_prefix(&gateway.url).unwrap();
    let picture = gateway.send(Method::GET, path, &[("authorization", "")], None).await;
    assert_eq!(easel::domain::secret::sha256_hex(&picture.bytes), image["sha256"]);
    assert_eq!(gateway.attempts(&id).await[0]["state"], "succeeded");
    // Rung again, it is not entered again.
    let bell = bell(&gateway);
    assert_eq!(
        gateway.send(Method::POST, &bell, &[("authorization", "")], Some("{}")).await.status,
        StatusCode::NOT_FOUND
    );
    gateway.simulator.ring().await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.task(&id).await["late_result"], late["late_result"]);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_job_that_outlives_its_deadline_is_still_brought_here(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let id = submit(&gateway, "time=300", json!({"deadline_s": 60})).await;
    let task = gateway.settle(&id).await;
    assert_eq!(
        (task["error"]["code"].as_str(), task["cost"]["billed"].as_str()),
        (Some("deadline_exceeded"), Some("unknown"))
    );
    for _ in 0..20 {
        gateway.advance_to_next().await;
        gateway.app.engine.run_until_idle().await.unwrap();
    }
    let task = gateway.task(&id).await;
    assert_eq!(task["late_result"]["images"].as_array().unwrap().len(), 1, "{task}");
    assert_eq!(
        (task["status"].as_str(), task["cost"]["actual_usd"].as_str()),
        (Some("failed"), Some("0.0015"))
    );
    gateway.stop().await;
}

/// Rings with nothing but a request of our own.
async fn ring(gateway: &Gateway, path: &str, secret: &str, body: &str) -> StatusCode {
    gateway
        .send(Method::POST, path, &[("authorization", ""), ("x-webhook-secret", secret)], Some(body))
        .await
        .status
}

#[rstest]
#[tokio::test]
async fn a_callback_is_believed_in_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = reachable(db).await;
    let id = submit(&gateway, "time=600 hook=forged", json!({})).await;
    let path = bell(&gateway);
    let lie = json!({"data": {"task_id": "somebody-elses", "status": "failed"}}).to_string();
    for (path, secret) in [
        (path.clone(), "wrong"),
        (path.replace("piapi_flux", "imagepipeline"), "wrong"),
        (path.replace("piapi_flux", "nobody"), "wrong"),
        ("/hooks/piapi_flux/0123456789abcdef".to_owned(), "wrong"),
    ] {
        assert_eq!(ring(&gateway, &path, secret, &lie).await, StatusCode::NOT_FOUND, "{path}");
    }
    let huge = "x".repeat(1024 * 1024 + 1);
    assert_eq!(ring(&gateway, &path, "wrong", &huge).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(gateway.task(&id).await["phase"], "generating");
    // The simulator rings with a forged letter first, then with the true one, twice over.
    gateway.clock.advance(std::time::Duration::from_secs(601));
    gateway.simulator.ring().await;
    gateway.app.engine.run_until_idle().await.unwrap();
    let task = gateway.task(&id).await;
    assert_eq!(task["status"], "succeeded", "rung, it is asked for at once: {task}");
    assert_eq!(gateway.receptions(), 1);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn imagepipeline_is_sent_once_more_and_flux_only_within_its_bound(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    let run = async |model: &str, fault: &str, more: Value| {
        let mut body =
            json!({"prompt": format!("{model} {more} [[sim: {fault}]]"), "model": model, "size": "64x64"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let before = gateway.receptions();
        let task = gateway.run(&body.to_string()).await;
        (
            task["status"].as_str().unwrap().to_owned(),
            task["cost"]["billed"].clone(),
            gateway.receptions() - before,
        )
    };
    let pipeline = "imagepipeline/flux-schnell";
    assert_eq!(run(pipeline, "reset times=1", json!({})).await, ("succeeded".to_owned(), json!("no"), 2));
    assert_eq!(run(pipeline, "reset", json!({})).await, ("failed".to_owned(), json!("no"), 2));
    assert_eq!(
        run(pipeline, "reset", json!({"routing": {"on_unknown": "hold"}})).await,
        ("failed".to_owned(), json!("no"), 1)
    );
    let resubmit = |most: &str| json!({"routing": {"on_unknown": "resubmit", "max_cost_usd": most}});
    assert_eq!(
        run(FLUX, "reset times=1", resubmit("0.003")).await,
        ("succeeded".to_owned(), json!("yes"), 2)
    );
    assert_eq!(
        run(FLUX, "reset times=1", resubmit("0.002")).await,
        ("failed".to_owned(), json!("unknown"), 1)
    );
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_provider_at_work_is_asked_to_stop(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let id = submit(&gateway, "time=60", json!({})).await;
    assert_eq!(gateway.task(&id).await["cancelable"], true);
    let canceling = gateway.post(&format!("/tasks/{id}/cancel"), "").await;
    assert_eq!(canceling.status, StatusCode::OK, "{}", canceling.json());
    assert_eq!(
        (canceling.json()["status"].as_str(), canceling.json()["cancelable"].as_bool()),
        (Some("in_progress"), Some(false))
    );
    let task = gateway.settle(&id).await;
    assert!(matches!(task["status"].as_str(), Some("canceled" | "succeeded")), "{task}");
    assert_eq!(gateway.receptions(), 1, "a canceled task is not sent again");
    let again = gateway.post(&format!("/tasks/{id}/cancel"), "").await;
    assert_eq!(
        (again.status, again.json()["code"].as_str()),
        (StatusCode::CONFLICT, Some("already_finished"))
    );
    gateway.stop().await;
}
