//! Budgets of keys: what is bought never goes beyond them, however many ask at once and on however many replicas, and what
//! was not spent is given back.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Answer, Db, Gateway, client};
use crate::ledger::{lines, sum};
use crate::proof::settle;
use crate::rows::rows;

const POOR: &str = "easel_poor_0123456789abcdef";
const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";

/// A gateway with a key that has these limits.
async fn gateway(db: Db, limits: &str) -> Gateway {
    Gateway::configured(db, &key(limits)).await
}

fn key(limits: &str) -> String {
    format!("[[auth.keys]]\nname = \"poor\"\nkey = \"{POOR}\"\n{limits}\n")
}

fn body(fault: &str, more: &Value) -> String {
    let mut body = json!({"prompt": format!("a cat [[sim: {fault}]]"), "model": FLUX, "size": "64x64"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

async fn ask(gateway: &Gateway, body: &str) -> Answer {
    let bearer = format!("Bearer {POOR}");
    gateway.send(Method::POST, "/generate", &[("authorization", &bearer)], Some(body)).await
}

/// Asks and lets it come to its end.
async fn run(gateway: &Gateway, body: &str) -> Value {
    let task = ask(gateway, body).await.json();
    gateway.settle(task["id"].as_str().unwrap_or_else(|| panic!("{task}"))).await
}

fn code(answer: &Answer) -> (u16, Option<String>) {
    (answer.status.as_u16(), answer.json()["code"].as_str().map(str::to_owned))
}

fn exceeded() -> (u16, Option<String>) {
    (402, Some("budget_exceeded".to_owned()))
}

/// A key's balances: day, reserved, unresolved, settled.
async fn balances(gateway: &Gateway) -> Vec<(i64, i64, i64, i64)> {
    let sql = "SELECT day, reserved, unresolved, settled FROM balances WHERE key_name = 'poor' ORDER BY day";
    rows(gateway, sql).await
}

#[rstest]
#[tokio::test]
async fn two_hundred_at_once_buy_what_the_budget_covers(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
    #[values("budget_usd", "daily_budget_usd")] budget: &str,
) {
    let gateway = gateway(db, &format!("{budget} = \"0.075\"")).await;
    let replica = match db {
        Db::Sqlite => None,
        Db::Postgres | Db::At(_) => Some(gateway.replica().await),
    };
    let urls = [Some(&gateway.url), replica.as_ref().map(|replica| &replica.url)];
    let urls: Vec<&String> = urls.into_iter().flatten().collect();
    let http = client();
    let asked = (0..200).map(|at| {
        let request = http.post(format!("{}/generate", urls[at % urls.len()]));
        let request = request.header("x-api-key", POOR).header("content-type", "application/json");
        let request = request.header("idempotency-key", at).body(body("time=0", &json!({})));
        async move {
            loop {
                let answer = request.try_clone().unwrap().send().await.unwrap();
                let status = answer.status().as_u16();
                // So many at once may be more than the database gets done in time: what is refused so is asked for again.
                if status != 503 {
                    return (
                        status,
                        serde_json::from_slice::<Value>(&answer.bytes().await.unwrap()).unwrap(),
                    );
                }
            }
        }
    });
    let mut counts: BTreeMap<(u16, String), usize> = BTreeMap::new();
    for (status, body) in join_all(asked).await {
        *counts.entry((status, body["code"].as_str().unwrap_or_default().to_owned())).or_default() += 1;
    }
    let expected = [((202, String::new()), 50), ((402, "budget_exceeded".to_owned()), 150)];
    assert_eq!(counts, BTreeMap::from(expected));
    settle(&gateway).await;
    assert_eq!((gateway.receptions(), gateway.simulator.billed().total_nanos), (50, 75_000_000));
    assert_eq!(code(&ask(&gateway, &body("time=1", &json!({}))).await), exceeded());
    assert_eq!(sum(&lines(&gateway).await), [0, 0, 75_000_000]);
    for (_, reserved, unresolved, settled) in balances(&gateway).await {
        assert_eq!([reserved, unresolved, settled], [0, 0, 75_000_000]);
    }
    if let Some(replica) = replica {
        replica.stop().await;
    }
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_refusal_says_what_is_left_and_leaves_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = gateway(db, "daily_budget_usd = \"0.002\"\nbudget_usd = \"0.004\"").await;
    assert_eq!(run(&gateway, &body("time=1", &json!({}))).await["status"], "succeeded");
    let refused = ask(&gateway, &body("time=1", &json!({}))).await;
    assert_eq!(code(&refused), exceeded());
    let problem = refused.json();
    let expected = "this may cost $0.0015, and $0.0005 is left of this key's $0.002 for today; the day ends at 00:00 UTC";
    assert_eq!((problem["detail"].as_str(), problem["retryable"].as_bool()), (Some(expected), Some(false)));
    assert_eq!(lines(&gateway).await.len(), 2, "nothing is left of what was refused");
    // The next day there is as much again, until all of it is spent.
    gateway.clock.advance(Duration::from_hours(24));
    assert_eq!(run(&gateway, &body("time=1", &json!({}))).await["status"], "succeeded");
    gateway.clock.advance(Duration::from_hours(24));
    let refused = ask(&gateway, &body("time=1", &json!({}))).await.json();
    let expected = "this may cost $0.0015, and $0.001 is left of this key's $0.004 in all";
    assert_eq!(refused["detail"], expected);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_replay_costs_nothing(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = gateway(db, "budget_usd = \"0.0015\"").await;
    let bearer = format!("Bearer {POOR}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "once")];
    let body = body("time=1", &json!({}));
    let first = gateway.send(Method::POST, "/generate", &headers, Some(&body)).await;
    assert_eq!(first.status, 202, "{}", first.json());
    for _ in 0..3 {
        let again = gateway.send(Method::POST, "/generate", &headers, Some(&body)).await;
        assert_eq!(
            (again.header("idempotency-replayed"), &again.json()["id"]),
            (Some("true"), &first.json()["id"])
        );
    }
    assert_eq!(balances(&gateway).await[0], (-1, 1_500_000, 0, 0));
    assert_eq!(code(&ask(&gateway, &body).await), exceeded());
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn what_was_not_charged_is_given_back_and_what_may_have_been_is_not(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = gateway(db, "budget_usd = \"0.0015\"").await;
    assert_eq!(run(&gateway, &body("http=400", &json!({}))).await["cost"]["billed"], "no");
    assert_eq!(run(&gateway, &body("http=502", &json!({}))).await["cost"]["billed"], "unknown");
    assert_eq!(code(&ask(&gateway, &body("time=1", &json!({}))).await), exceeded());
    // Once it is known that it was not, there is room again.
    let unknown = gateway.get("/admin/attempts?billing=unknown").await.json()["data"][0]["id"].clone();
    let path = format!("/admin/attempts/{}/billing", unknown.as_str().unwrap());
    assert_eq!(gateway.post(&path, r#"{"billed":"no"}"#).await.status, 200);
    assert_eq!(run(&gateway, &body("time=1", &json!({}))).await["status"], "succeeded");
    assert_eq!(balances(&gateway).await[0], (-1, 0, 0, 1_500_000));
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn under_a_budget_no_route_without_a_price_is_taken(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = gateway(db, "budget_usd = \"1\"").await;
    let unpriced = body("time=1", &json!({"model": "imagepipeline/flux-schnell"}));
    assert_eq!(code(&ask(&gateway, &unpriced).await), (402, Some("price_unknown".to_owned())));
    assert_eq!(gateway.run(&unpriced).await["status"], "succeeded", "without a budget it is");
    // Nor is one fallen back to.
    let task = run(&gateway, &body("http=503", &json!({"model": "flux-schnell"}))).await;
    assert_eq!(task["error"]["code"], "provider_overloaded", "{task}");
    let attempts = gateway.attempts(task["id"].as_str().unwrap()).await;
    assert!(attempts.iter().all(|attempt| attempt["provider"] == "piapi_flux"), "{attempts:?}");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_dearer_fallback_is_covered_beforehand(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let more = "[providers.dear]\nkind = \"piapi_flux\"\nbase_url = \"{upstream}\"\napi_key = \"upstream-key-0123456789\"\nallow_http_results = true\npoll_after_s = 0.05\n\
        prices = { \"Qubico/flux1-schnell\" = \"0.01\" }\n";
    let gateway = gateway(db, &format!("budget_usd = \"0.0099\"\n{more}")).await;
    let either = json!({"model": "flux-schnell", "routing": {"order": ["piapi_flux", "dear"]}});
    assert_eq!(code(&ask(&gateway, &body("time=1", &either)).await), exceeded());
    let cheap = json!({"model": "flux-schnell", "routing": {"only": ["piapi_flux"]}});
    assert_eq!(run(&gateway, &body("time=1", &cheap)).await["cost"]["actual_usd"], "0.0015");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn parts_are_covered_together_or_not_at_all(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = gateway(db, "budget_usd = \"0.05\"").await;
    let cats = |n: u32| json!({"prompt": "cats", "model": "flux-dev", "n": n, "size": "64x64"}).to_string();
    assert_eq!(code(&ask(&gateway, &cats(4)).await), exceeded());
    assert_eq!(lines(&gateway).await.len(), 0);
    assert_eq!(run(&gateway, &cats(3)).await["cost"]["actual_usd"], "0.045");
    assert_eq!(balances(&gateway).await[0], (-1, 0, 0, 45_000_000));
    gateway.stop().await;
}

/// What a key spent before it had a budget counts, too; tasks that were at work at that moment among it.
#[rstest]
#[tokio::test]
async fn a_budget_that_comes_later_counts_what_was_spent_before(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let mut gateway = gateway(db, "").await;
    run(&gateway, &body("time=1", &json!({}))).await;
    let at_work = ask(&gateway, &body("time=60", &json!({}))).await.json()["id"].clone();
    gateway.app.engine.run_until_idle().await.unwrap();
    assert!(balances(&gateway).await.is_empty(), "whoever has no budget has no balance");
    let poor = gateway.config.auth.keys.iter_mut().find(|key| key.name == "poor").unwrap();
    poor.budget_usd = Some("0.0045".parse().unwrap());
    let gateway = gateway.restart().await;
    assert_eq!(ask(&gateway, &body("time=1", &json!({}))).await.status, 202);
    assert_eq!(balances(&gateway).await[0], (-1, 3_000_000, 0, 1_500_000));
    assert_eq!(code(&ask(&gateway, &body("time=1", &json!({}))).await), exceeded());
    gateway.settle(at_work.as_str().unwrap()).await;
    settle(&gateway).await;
    assert_eq!(balances(&gateway).await[0], (-1, 0, 0, 4_500_000));
    gateway.stop().await;
}
