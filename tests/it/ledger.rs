//! The ledger: which lines each course of a task leaves, and that they add up to what the task says it costs.

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};
use sqlx::FromRow;

use crate::harness::{Db, Gateway, ITSELF};
use crate::rows::rows;

/// A line of the ledger, as it lies in the database.
#[derive(Debug, Clone, FromRow)]
pub struct Line {
    pub task_id: String,
    pub attempt_id: Option<String>,
    pub key_name: String,
    pub task_at: i64,
    pub kind: String,
    pub billed: Option<String>,
    pub reserved: i64,
    pub unresolved: i64,
    pub settled: i64,
}

impl Line {
    fn money(&self) -> [i64; 3] {
        [self.reserved, self.unresolved, self.settled]
    }
}

/// All of the ledger, in the order it was written.
pub async fn lines(gateway: &Gateway) -> Vec<Line> {
    let columns = "task_id, attempt_id, key_name, task_at, kind, billed, reserved, unresolved, settled";
    rows(gateway, &format!("SELECT {columns} FROM ledger ORDER BY at, id")).await
}

/// What lines come to: reserved, unresolved, settled.
pub fn sum<'l>(lines: impl IntoIterator<Item = &'l Line>) -> [i64; 3] {
    lines.into_iter().fold([0; 3], |sum, line| [0, 1, 2].map(|at| sum[at] + line.money()[at]))
}

/// Each line as text, in the order in which money moves; lines written together have none of their own.
async fn told(gateway: &Gateway) -> Vec<String> {
    let order = ["reserve", "settle", "release", "late", "refund", "mark"];
    let mut lines = lines(gateway).await;
    lines.sort_by_key(|line| order.iter().position(|kind| *kind == line.kind));
    let billed = |line: &Line| line.billed.clone().unwrap_or_default();
    lines
        .iter()
        .map(|line| format!("{} {:?} {}", line.kind, line.money(), billed(line)).trim().to_owned())
        .collect()
}

fn body(fault: &str, more: &Value) -> String {
    let mut body = json!({"prompt": format!("a cat [[sim: {fault}]]"), "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

#[rstest]
#[case("time=30", json!({}), &["reserve [1500000, 0, 0]", "settle [-1500000, 0, 1500000] yes"])]
#[case("http=400", json!({}), &["reserve [1500000, 0, 0]", "settle [0, 0, 0] no", "release [-1500000, 0, 0]"])]
#[case("fail=1000 billed=false", json!({}),
    &["reserve [1500000, 0, 0]", "settle [0, 0, 0] no", "settle [0, 0, 0] no", "release [-1500000, 0, 0]"])]
#[case("http=502", json!({}), &["reserve [1500000, 0, 0]", "settle [-1500000, 1500000, 0] unknown"])]
#[case("http=502", json!({"routing": {"max_cost_usd": "0.1"}}),
    &["reserve [1500000, 0, 0]", "settle [-1500000, 1500000, 0] unknown"])]
#[case("http=502 times=1", json!({"routing": {"max_cost_usd": "0.0035", "on_unknown": "resubmit"}}),
    &["reserve [3500000, 0, 0]", "settle [-1500000, 1500000, 0] unknown", "settle [-1500000, 0, 1500000] yes", "release [-500000, 0, 0]"])]
#[case("refuse", json!({"model": "gpt-4o-image"}),
    &["reserve [20000000, 0, 0]", "settle [-660000, 0, 660000] yes", "release [-19340000, 0, 0]"])]
#[tokio::test]
async fn each_course_leaves_its_lines(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[case] fault: &str,
    #[case] more: Value,
    #[case] expected: &[&str],
) {
    let gateway = Gateway::start(db).await;
    let task = gateway.run(&body(fault, &more)).await;
    let mut found = told(&gateway).await;
    found.sort();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected, "{task}");
    assert_eq!(task["cost"]["reserved_usd"], "0");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn what_is_set_aside_is_shown_until_the_end(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let task = gateway.generate(&body("time=30", &json!({}))).await;
    let id = task["id"].as_str().unwrap();
    assert_eq!(
        (task["cost"]["reserved_usd"].as_str(), task["cost"]["actual_usd"].as_str()),
        (Some("0.0015"), None)
    );
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.task(id).await["cost"]["reserved_usd"], "0.0015");
    let task = gateway.settle(id).await;
    assert_eq!(
        (task["cost"]["reserved_usd"].as_str(), task["cost"]["actual_usd"].as_str()),
        (Some("0"), Some("0.0015"))
    );
    // Called off before it was sent, all of it is given back.
    let task = gateway.generate(&body("time=30", &json!({}))).await;
    let path = format!("/tasks/{}/cancel", task["id"].as_str().unwrap());
    assert_eq!(gateway.post(&path, "").await.json()["cost"]["reserved_usd"], "0");
    assert_eq!(sum(&lines(&gateway).await), [0, 0, 1_500_000]);
    // Where no price is known, nothing is.
    let task = gateway.generate(&body("time=1", &json!({"model": "imagepipeline/flux-schnell"}))).await;
    assert_eq!(task["cost"]["reserved_usd"], Value::Null);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn each_part_of_a_task_has_its_own_lines(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let body = json!({"prompt": "cats [[sim: fail=1 billed=true times=1]]", "model": "flux-dev", "n": 3, "size": "64x64"});
    let task = gateway.generate(&body.to_string()).await;
    assert_eq!(task["cost"]["reserved_usd"], "0.045");
    let id = task["id"].as_str().unwrap();
    let task = gateway.settle(id).await;
    let lines = lines(&gateway).await;
    assert!(lines.iter().all(|line| line.task_id != id), "the whole has none: {lines:?}");
    assert_eq!(lines.iter().filter(|line| line.kind == "reserve").count(), 3);
    assert_eq!(sum(&lines), [0, 0, gateway.simulator.billed().total_nanos]);
    assert_eq!(
        (
            task["cost"]["reserved_usd"].as_str(),
            task["cost"]["actual_usd"].as_str(),
            task["partial"].as_bool()
        ),
        (Some("0"), Some("0.045"), Some(true)),
        "{task}"
    );
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn parts_called_off_cost_what_the_others_cost(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let body = json!({"prompt": "cats", "model": "flux-dev", "n": 3, "size": "64x64"});
    let task = gateway.generate(&body.to_string()).await;
    let id = task["id"].as_str().unwrap();
    let canceled = gateway.post(&format!("/tasks/{id}/cancel"), "").await.json();
    assert_eq!(
        (canceled["status"].as_str(), canceled["cost"]["reserved_usd"].as_str()),
        (Some("canceled"), Some("0"))
    );
    assert_eq!((sum(&lines(&gateway).await), gateway.receptions()), ([0; 3], 0));
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_late_result_is_settled_once(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::configured(db, &format!("[server]\npublic_url = \"{ITSELF}\"\n")).await;
    let late = body("reset_accepted hook=late hook_delay=2000 time=5", &json!({}));
    let id = gateway.run(&late).await["id"].as_str().unwrap().to_owned();
    assert_eq!(sum(&lines(&gateway).await), [0, 1_500_000, 0]);
    gateway.clock.advance(std::time::Duration::from_secs(2000));
    for _ in 0..2 {
        gateway.simulator.ring().await;
        gateway.app.engine.run_until_idle().await.unwrap();
    }
    let expected = [
        "reserve [1500000, 0, 0]",
        "settle [-1500000, 1500000, 0] unknown",
        "late [0, -1500000, 1500000] yes",
    ];
    assert_eq!(told(&gateway).await, expected);
    let task = gateway.task(&id).await;
    assert_eq!(
        (task["cost"]["actual_usd"].as_str(), task["error"]["billed"].as_str()),
        (Some("0.0015"), Some("yes")),
        "{task}"
    );
    // Found by its callback to have failed without being charged, it is given back.
    let refunded = body("reset_accepted hook=late hook_delay=2000 time=5 fail=1 billed=false", &json!({}));
    let id = gateway.run(&refunded).await["id"].as_str().unwrap().to_owned();
    gateway.clock.advance(std::time::Duration::from_secs(2000));
    gateway.simulator.ring().await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert!(told(&gateway).await.contains(&"refund [0, -1500000, 0] no".to_owned()));
    let task = gateway.task(&id).await;
    assert_eq!(
        (task["cost"]["actual_usd"].as_str(), task["cost"]["billed"].as_str()),
        (Some("0"), Some("no"))
    );
    assert_eq!(gateway.simulator.billed().total_nanos, sum(&lines(&gateway).await)[2]);
    gateway.stop().await;
}

/// A step that is saved again because the answer to its commit was lost moves no money twice: the database says so itself.
#[rstest]
#[tokio::test]
async fn of_each_kind_there_is_one_line(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    gateway.run(&body("fail=1000 billed=false", &json!({}))).await;
    let doubled: Vec<(String,)> =
        rows(&gateway, "SELECT about FROM ledger GROUP BY task_id, about, kind HAVING COUNT(*) > 1").await;
    assert!(doubled.is_empty());
    let (headers, body) = ([("idempotency-key", "k")], body("time=1", &json!({})));
    let first = gateway.send(Method::POST, "/generate", &headers, Some(&body)).await;
    let replayed = gateway.send(Method::POST, "/generate", &headers, Some(&body)).await;
    assert_eq!(first.json()["id"], replayed.json()["id"]);
    assert_eq!(lines(&gateway).await.iter().filter(|line| line.kind == "reserve").count(), 2);
    gateway.stop().await;
}
