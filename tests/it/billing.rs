//! Attempts of unknown billing: listed, and resolved by an operator exactly once in all books.

use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Answer, Db, Gateway, ITSELF, OTHER_KEY};
use crate::ledger::{lines, sum};

fn body(fault: &str) -> String {
    json!({"prompt": format!("a cat [[sim: {fault}]]"), "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64"}).to_string()
}

async fn unknown(gateway: &Gateway) -> Vec<Value> {
    gateway.get("/admin/attempts?billing=unknown").await.json()["data"].as_array().unwrap().clone()
}

async fn say(gateway: &Gateway, attempt: &Value, finding: &str) -> Answer {
    gateway.post(&format!("/admin/attempts/{}/billing", attempt["id"].as_str().unwrap()), finding).await
}

#[rstest]
#[tokio::test]
async fn an_operator_resolves_what_nobody_knew(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let lost = gateway.run(&body("http=502")).await;
    gateway.run(&body("time=1")).await;
    let listed = unknown(&gateway).await;
    assert_eq!(listed.len(), 1, "{listed:?}");
    let attempt = &listed[0];
    assert_eq!(
        (&attempt["task_id"], attempt["tenant"].as_str(), attempt["key"].as_str(), attempt["state"].as_str()),
        (&lost["id"], Some("default"), Some("test"), Some("lost"))
    );
    assert_eq!(attempt["possible_charge_usd"], "0.0015");
    let resolved = say(&gateway, attempt, r#"{"billed":"no"}"#).await;
    assert_eq!(resolved.status, StatusCode::OK, "{}", resolved.json());
    let resolved = resolved.json();
    assert_eq!((resolved["billed"].as_str(), resolved["charged_usd"].as_str()), (Some("no"), Some("0")));
    assert!(resolved["evidence"].as_str().unwrap().starts_with("said by test; "), "{resolved}");
    assert!(unknown(&gateway).await.is_empty());
    let id = lost["id"].as_str().unwrap();
    let task = gateway.task(id).await;
    assert_eq!(
        (
            task["cost"]["billed"].as_str(),
            task["cost"]["actual_usd"].as_str(),
            task["error"]["billed"].as_str()
        ),
        (Some("no"), Some("0"), Some("no"))
    );
    assert_eq!(task["error"]["code"], "outcome_unknown", "the end stays what it was");
    assert_eq!(gateway.attempts(id).await[0]["billed"], "no");
    let books = lines(&gateway).await;
    assert_eq!(sum(&books), [0, 0, 1_500_000]);
    // Said again it changes nothing; the opposite is refused.
    assert_eq!(say(&gateway, attempt, r#"{"billed":"no"}"#).await.status, StatusCode::OK);
    let refused = say(&gateway, attempt, r#"{"billed":"yes"}"#).await;
    assert_eq!((refused.status.as_u16(), refused.json()["code"].as_str()), (409, Some("already_finished")));
    assert_eq!(lines(&gateway).await.len(), books.len());
    let audit = gateway.get("/admin/audit?act=attempt.billing").await.json();
    let entries = audit["data"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{audit}");
    assert_eq!(
        (&entries[0]["subject"], entries[0]["details"]["billed"].as_str()),
        (&attempt["id"], Some("no"))
    );
    gateway.stop().await;
}

/// A mark and its entry in the audit are one: where the one cannot be written, neither is the other.
#[rstest]
#[tokio::test]
async fn a_mark_is_never_without_its_entry(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    gateway.run(&body("http=502")).await;
    let attempt = unknown(&gateway).await.remove(0);
    let books = lines(&gateway).await.len();
    gateway.sql("ALTER TABLE audit RENAME TO away").await;
    let refused = say(&gateway, &attempt, r#"{"billed":"no"}"#).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.json());
    assert_eq!((unknown(&gateway).await.len(), lines(&gateway).await.len()), (1, books));
    gateway.sql("ALTER TABLE away RENAME TO audit").await;
    for _ in 0..2 {
        assert_eq!(say(&gateway, &attempt, r#"{"billed":"no"}"#).await.status, StatusCode::OK);
    }
    assert_eq!(lines(&gateway).await.len(), books + 1);
    let audit = gateway.get("/admin/audit?act=attempt.billing").await.json();
    assert_eq!(audit["data"].as_array().unwrap().len(), 1, "{audit}");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn what_the_provider_says_later_still_counts(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, &format!("[server]\npublic_url = \"{ITSELF}\"\n")).await;
    for (finding, expected) in [
        (r#"{"billed":"yes"}"#, vec!["mark"]),
        (r#"{"billed":"yes","charged_usd":"0.001"}"#, vec!["mark", "late"]),
        (r#"{"billed":"no"}"#, vec!["mark", "late"]),
    ] {
        let lost = gateway.run(&body("reset_accepted hook=late hook_delay=2000 time=5")).await;
        let attempt = unknown(&gateway).await.remove(0);
        assert_eq!(say(&gateway, &attempt, finding).await.status, StatusCode::OK);
        gateway.clock.advance(std::time::Duration::from_secs(2000));
        gateway.simulator.ring().await;
        gateway.app.engine.run_until_idle().await.unwrap();
        let task = gateway.task(lost["id"].as_str().unwrap()).await;
        assert_eq!(task["late_result"]["images"].as_array().map(Vec::len), Some(1), "{task}");
        assert_eq!(
            (task["cost"]["billed"].as_str(), task["cost"]["actual_usd"].as_str()),
            (Some("yes"), Some("0.0015")),
            "{finding}"
        );
        let after = lines(&gateway).await;
        let own = after.iter().filter(|line| line.task_id == lost["id"].as_str().unwrap());
        let mut kinds: Vec<&str> = own.map(|line| line.kind.as_str()).collect();
        kinds.retain(|kind| ["mark", "late", "refund"].contains(kind));
        kinds.sort_unstable_by(|one, other| other.cmp(one));
        assert_eq!(kinds, expected, "{finding}");
        assert_eq!(sum(&after), [0, 0, gateway.simulator.billed().total_nanos]);
    }
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_part_is_resolved_in_the_whole_too(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let body =
        json!({"prompt": "cats [[sim: http=502 times=1]]", "model": "flux-dev", "n": 2, "size": "64x64"});
    let task = gateway.run(&body.to_string()).await;
    assert_eq!(
        (task["partial"].as_bool(), task["cost"]["actual_usd"].as_str()),
        (Some(true), None),
        "{task}"
    );
    let attempt = unknown(&gateway).await.remove(0);
    assert_eq!(attempt["task_id"], task["id"], "its caller's task, not the part");
    assert_eq!(
        say(&gateway, &attempt, r#"{"billed":"yes","charged_usd":"0.01"}"#).await.status,
        StatusCode::OK
    );
    let task = gateway.task(task["id"].as_str().unwrap()).await;
    assert_eq!(
        (task["cost"]["billed"].as_str(), task["cost"]["actual_usd"].as_str()),
        (Some("yes"), Some("0.025")),
        "{task}"
    );
    assert_eq!(sum(&lines(&gateway).await), [0, 0, 25_000_000]);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn only_what_is_unknown_and_over_can_be_resolved(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let at_work = gateway.generate(&body("time=60")).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    let at_work = gateway.attempts(at_work["id"].as_str().unwrap()).await.remove(0);
    assert!(unknown(&gateway).await.is_empty(), "what is at work is not over");
    let refused = say(&gateway, &at_work, r#"{"billed":"no"}"#).await;
    assert_eq!((refused.status.as_u16(), refused.json()["code"].as_str()), (409, Some("not_finished")));
    gateway.run(&body("http=502")).await;
    let attempt = unknown(&gateway).await.remove(0);
    for wrong in [
        r#"{"billed":"maybe"}"#,
        r"{}",
        r#"{"billed":"no","charged_usd":"0.1"}"#,
        r#"{"billed":"yes","charged_usd":"-1"}"#,
    ] {
        assert_eq!(say(&gateway, &attempt, wrong).await.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong}");
    }
    for id in ["att_01k9zq5s4m8v2c6x0b3n7d1f5g", "nonsense"] {
        let answer = gateway.post(&format!("/admin/attempts/{id}/billing"), r#"{"billed":"no"}"#).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{id}");
    }
    let path = format!("/admin/attempts/{}/billing", attempt["id"].as_str().unwrap());
    let headers = [("x-api-key", OTHER_KEY)];
    let refused = gateway.send(Method::POST, &path, &headers, Some(r#"{"billed":"no"}"#)).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(unknown(&gateway).await.len(), 1);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn the_list_goes_page_by_page(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    for _ in 0..3 {
        gateway.run(&body("http=502")).await;
    }
    let first = gateway.get("/admin/attempts?limit=2").await.json();
    assert_eq!((first["data"].as_array().unwrap().len(), first["has_more"].as_bool()), (2, Some(true)));
    let next = format!("/admin/attempts?limit=2&cursor={}", first["next_cursor"].as_str().unwrap());
    let second = gateway.get(&next).await.json();
    assert_eq!((second["data"].as_array().unwrap().len(), second["has_more"].as_bool()), (1, Some(false)));
    assert!(first["data"][1]["id"].as_str() > second["data"][0]["id"].as_str(), "newest first");
    gateway.stop().await;
}
