//! Usage and spend: counts and money by day, model, provider and key, for whoever may see them.

use std::time::Duration;

use reqwest::Method;
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Answer, Db, Gateway, OTHER_KEY};

const FORMULA: &str = "easel_formula_0123456789abcdef";

async fn ask(gateway: &Gateway, key: &str, path: &str) -> Answer {
    gateway.send(Method::GET, path, &[("x-api-key", key)], None).await
}

async fn run(gateway: &Gateway, key: &str, body: Value) {
    let task =
        gateway.send(Method::POST, "/generate", &[("x-api-key", key)], Some(&body.to_string())).await.json();
    gateway.settle_for(&[("x-api-key", key)], task["id"].as_str().unwrap_or_else(|| panic!("{task}"))).await;
}

/// On one day: a picture of flux, two in parts, a failure, a loss, a task called off, one at work; on the next a picture of
/// another tenant's.
async fn busy(db: Db) -> Gateway {
    let more =
        format!("[[auth.keys]]\nname = \"=1+cmd|' /C calc'!A0\"\nkey = \"{FORMULA}\"\nrole = \"admin\"\n");
    let gateway = Gateway::configured(db, &more).await;
    let flux = |fault: &str| json!({"prompt": format!("a cat [[sim: {fault}]]"), "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64"});
    run(&gateway, FORMULA, flux("time=1")).await;
    let admin = crate::harness::KEY;
    run(&gateway, admin, json!({"prompt": "cats", "model": "flux-dev", "n": 2, "size": "64x64"})).await;
    run(&gateway, admin, flux("http=400")).await;
    run(&gateway, admin, flux("http=502")).await;
    run(&gateway, admin, json!({"prompt": "a cat", "model": "imagepipeline/flux-schnell", "size": "64x64"}))
        .await;
    let off = gateway.generate(&flux("time=1").to_string()).await["id"].clone();
    gateway.post(&format!("/tasks/{}/cancel", off.as_str().unwrap()), "").await;
    let at_work = flux("time=100000");
    gateway.generate(&at_work.to_string()).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    gateway.clock.advance(Duration::from_hours(24));
    let chat = json!({"prompt": "a cat", "model": "gpt-4o-image", "size": "64x64"});
    let other =
        gateway.send(Method::POST, "/generate", &[("x-api-key", OTHER_KEY)], Some(&chat.to_string())).await;
    assert_eq!(other.status, 202, "{}", other.json());
    gateway.app.engine.run_until_idle().await.unwrap();
    gateway
}

/// A group: tasks, succeeded, failed, canceled, images; estimated, reserved, settled, unresolved dollars; unresolved attempts
/// and unpriced calls.
fn group(report: &Value, name: &str) -> String {
    let data = report["data"].as_array().unwrap();
    let group =
        data.iter().find(|group| group["group"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
    line(group)
}

fn line(group: &Value) -> String {
    let counts = ["tasks", "succeeded", "failed", "canceled", "images"].map(|name| group[name].to_string());
    let money = ["estimated_usd", "reserved_usd", "settled_usd", "unresolved_usd"];
    let money = money.map(|name| group[name].as_str().unwrap().to_owned());
    let rest = ["unresolved_attempts", "unpriced"].map(|name| group[name].to_string());
    [counts.join(" "), money.join(" "), rest.join(" ")].join(" | ")
}

#[rstest]
#[tokio::test]
async fn usage_is_added_up_by_what_is_asked_for(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = busy(db).await;
    let report = |by: &'static str| {
        let gateway = &gateway;
        async move { gateway.get(&format!("/usage?group_by={by}")).await.json() }
    };
    let days = report("day").await;
    assert_eq!(days["data"].as_array().unwrap().len(), 2, "{days}");
    // The task at work passed its deadline in the night: nobody knows whether it will be charged.
    assert_eq!(line(&days["data"][0]), "7 3 3 1 4 | 0.0375 0 0.0315 0.003 | 2 1");
    assert_eq!(line(&days["data"][1]), "1 1 0 0 1 | 0.02 0 0.02 0 | 0 0");
    assert_eq!(line(&days["total"]), "8 4 3 1 5 | 0.0575 0 0.0515 0.003 | 2 1");
    let models = report("model").await;
    assert_eq!(group(&models, "flux-dev"), "1 1 0 0 2 | 0.03 0 0.03 0 | 0 0");
    assert_eq!(group(&models, "flux-schnell"), "6 2 3 1 2 | 0.0075 0 0.0015 0.003 | 2 1");
    let providers = report("provider").await;
    assert_eq!(group(&providers, "imagepipeline"), "1 1 0 0 1 | 0 0 0 0 | 0 1");
    assert_eq!(group(&providers, "gpt_4o_image"), "1 1 0 0 1 | 0.02 0 0.02 0 | 0 0");
    let keys = report("key").await;
    assert_eq!(group(&keys, "other"), "1 1 0 0 1 | 0.02 0 0.02 0 | 0 0");
    assert_eq!(group(&keys, "test"), "6 2 3 1 3 | 0.036 0 0.03 0.003 | 2 1");
    let spend = gateway.get("/admin/spend").await.json();
    let first = &spend["data"][0];
    assert_eq!(
        (first["day"].as_str(), first["provider_reported_usd"].as_str(), first["unresolved_usd"].as_str()),
        (days["data"][0]["group"].as_str(), Some("0.0315"), Some("0.003")),
        "{spend}"
    );
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn what_is_set_aside_is_shown_where_it_stands(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    gateway.generate(r#"{"prompt":"a cat [[sim: time=60]]","model":"flux-schnell","size":"64x64"}"#).await;
    gateway.generate(r#"{"prompt":"cats [[sim: time=60]]","model":"flux-dev","n":2,"size":"64x64"}"#).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    for by in ["day", "provider"] {
        let report = gateway.get(&format!("/usage?group_by={by}")).await.json();
        assert_eq!(report["data"][0]["reserved_usd"], "0.0315", "{report}");
    }
    assert_eq!(gateway.get("/admin/spend").await.json()["data"][0]["reserved_usd"], "0.0315");
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_tenant_sees_its_own(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = busy(db).await;
    let own = ask(&gateway, OTHER_KEY, "/usage").await.json();
    assert_eq!((&own["tenant"], own["data"].as_array().unwrap().len()), (&json!("other"), 1), "{own}");
    assert_eq!(own["total"]["tasks"], 1);
    assert_eq!(ask(&gateway, OTHER_KEY, "/usage?tenant=other").await.json()["total"], own["total"]);
    for path in ["/usage?tenant=default", "/admin/spend", "/admin/attempts?billing=unknown"] {
        let refused = ask(&gateway, OTHER_KEY, path).await;
        assert_eq!(
            (refused.status.as_u16(), refused.json()["code"].as_str()),
            (403, Some("forbidden")),
            "{path}"
        );
    }
    assert_eq!(gateway.get("/usage?tenant=other").await.json()["total"], own["total"]);
    assert_eq!(gateway.get("/usage?tenant=nobody").await.json()["total"]["tasks"], 0);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn spreadsheets_get_tables_without_formulas(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = busy(db).await;
    let csv = gateway.send(Method::GET, "/usage?group_by=key", &[("accept", "text/csv")], None).await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert_eq!(csv.header("content-disposition"), Some("attachment; filename=\"usage-by-key.csv\""));
    let text = String::from_utf8(csv.bytes).unwrap();
    let lines: Vec<&str> = text.split("\r\n").collect();
    let head = "key,tasks,succeeded,failed,canceled,images,estimated_usd,reserved_usd,settled_usd,unresolved_usd,unresolved_attempts,unpriced";
    assert_eq!(lines[0], head);
    assert_eq!(lines[1], "'=1+cmd|' /C calc'!A0,1,1,0,0,1,0.0015,0,0.0015,0,0,0");
    assert_eq!((lines.len(), lines[4]), (5, ""));
    let named = gateway.get("/usage?group_by=key&format=csv").await;
    assert_eq!(String::from_utf8(named.bytes).unwrap(), text);
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn spans_are_days_or_moments(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = busy(db).await;
    let days = gateway.get("/usage").await.json();
    let (first, second) =
        (days["data"][0]["group"].as_str().unwrap(), days["data"][1]["group"].as_str().unwrap());
    for (query, tasks) in [
        (format!("from={first}&to={first}"), 7),
        (format!("from={second}"), 1),
        (format!("to={first}"), 7),
        (format!("from={first}T00:00:00Z&to={second}T00:00:00Z"), 7),
        (format!("from={second}T23:59:59Z&to={second}T23:59:59.5Z"), 0),
    ] {
        assert_eq!(gateway.get(&format!("/usage?{query}")).await.json()["total"]["tasks"], tasks, "{query}");
    }
    for wrong in [
        "from=yesterday",
        "to=1",
        "from=2026-12-01&to=2026-11-01",
        "from=2020-01-01",
        "group_by=prompt",
        "by=day",
        "format=xml",
    ] {
        let refused = gateway.get(&format!("/usage?{wrong}")).await;
        assert_eq!(
            (refused.status.as_u16(), refused.json()["code"].as_str()),
            (400, Some("invalid_request")),
            "{wrong}"
        );
    }
    gateway.stop().await;
}
