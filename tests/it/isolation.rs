//! One part's trouble stays its own: what hangs, is slow or was lost delays nothing else, and what was shut opens by itself.

use std::time::Duration;

use easel::domain::clock::Clock;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::harness::{Db, Gateway, ITSELF, OTHER_KEY};

const FLUX: &str = "piapi_flux/Qubico/flux1-schnell";
/// Longer than anything here takes, on the slowest machine.
const IN_THE_END: Duration = Duration::from_secs(90);

fn flux(words: &str) -> String {
    json!({"prompt": format!("a cat [[sim: {words}]]"), "model": FLUX, "size": "64x64"}).to_string()
}

/// One account, with room for two tasks.
const ROOM_FOR_TWO: &str = r#"[providers.piapi_flux]
kind = "piapi_flux"
base_url = "{upstream}"
api_key = "upstream-key-0123456789"
allow_http_results = true
in_flight = 2
poll_after_s = 0.05
"#;

async fn id_of(gateway: &Gateway, body: &str) -> String {
    gateway.generate(body).await["id"].as_str().unwrap().to_owned()
}

async fn lane(gateway: &Gateway, id: &str) -> Value {
    let lanes = gateway.get("/providers").await.json();
    lanes["data"].as_array().unwrap().iter().find(|lane| lane["id"] == id).unwrap().clone()
}

/// Waits until a gateway that moves by itself has come so far.
async fn in_the_end(what: &str, came: impl AsyncFn() -> bool) {
    let waiting = async {
        while !came().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(IN_THE_END, waiting).await.unwrap_or_else(|_| panic!("{what}: it has not come"));
}

/// A server that takes connections and says nothing.
async fn silent() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/input.png", listener.local_addr().unwrap());
    let serving = TaskTracker::new().spawn(async move {
        let mut open = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            open.push(connection);
        }
    });
    (url, serving)
}

/// Two answers are lost, and fill the account: the next task waits for as long as a job may run, and not for as long as the
/// lost ones are looked for.
#[rstest]
#[tokio::test]
async fn lost_answers_do_not_shut_an_account(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let rings = format!("[server]\npublic_url = \"{ITSELF}\"\n");
    let gateway = Gateway::only(db, &format!("{ROOM_FOR_TWO}{rings}")).await;
    let mut lost = Vec::new();
    for _ in 0..2 {
        lost.push(id_of(&gateway, &flux("reset_accepted hook=none")).await);
    }
    gateway.app.engine.run_until_idle().await.unwrap();
    let next = id_of(&gateway, &flux("")).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.task(&next).await["status"], "queued", "a job of each may be at work");
    for _ in 0..100 {
        gateway.clock.advance(Duration::from_secs(10));
        gateway.app.engine.run_until_idle().await.unwrap();
        if gateway.task(&next).await["status"] == "succeeded" {
            break;
        }
    }
    assert_eq!(gateway.task(&next).await["status"], "succeeded");
    for id in &lost {
        assert_eq!(gateway.task(id).await["phase"], "reconciling", "it is still looked for");
    }
    gateway.stop().await;
}

/// All places to bring images are taken by a host that sends a byte a second: other tasks are sent, asked about and done.
#[rstest]
#[tokio::test]
async fn a_slow_host_of_results_delays_only_what_comes_from_it(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::live_configured(db, "[engine]\nconcurrency = 4\n[blobs]\ndownloads = 2\n").await;
    gateway.rule(&json!({"on": "files", "times": 1_000_000, "do": {"file_slow": 1}})).await;
    for _ in 0..12 {
        gateway.generate(&flux("")).await;
    }
    in_the_end("all are sent", async || gateway.receptions() == 12).await;
    in_the_end("all are made", async || {
        let saving = gateway.get("/tasks?limit=50").await.json();
        saving["data"].as_array().unwrap().iter().filter(|task| task["phase"] == "saving").count() == 12
    })
    .await;
    let inline =
        json!({"prompt": "a dog [[sim: form=b64]]", "model": "gpt-image-1", "quality": "low"}).to_string();
    let inline = id_of(&gateway, &inline).await;
    in_the_end("images inside an answer arrive", async || {
        gateway.task(&inline).await["status"] == "succeeded"
    })
    .await;
    gateway.stop().await;
}

/// Inputs that do not come take no slot of the account they are for.
#[rstest]
#[tokio::test]
async fn a_slow_input_shuts_no_account(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::live(db).await;
    let (url, serving) = silent().await;
    let room = lane(&gateway, "piapi_flux").await["in_flight_limit"].as_u64().unwrap();
    for _ in 0..room + 2 {
        let body = json!({"prompt": "a cat", "model": "piapi_flux/Qubico/flux1-dev",
            "operation": "image_to_image", "images": [{"url": url}]});
        gateway.generate(&body.to_string()).await;
    }
    let other = [("authorization", &*format!("Bearer {OTHER_KEY}"))];
    let theirs = gateway.send(Method::POST, "/generate", &other, Some(&flux(""))).await.json();
    let path = format!("/tasks/{}", theirs["id"].as_str().unwrap());
    in_the_end("another tenant's task is done", async || {
        gateway.send(Method::GET, &path, &other, None).await.json()["status"] == "succeeded"
    })
    .await;
    assert_eq!(gateway.receptions(), 1, "nothing was sent without its input");
    serving.abort();
    gateway.stop().await;
}

/// The task that finds out whether an account is well again takes long: that it was taken on is enough.
#[rstest]
#[tokio::test]
async fn a_slow_probe_keeps_nothing_shut(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    gateway.rule(&json!({"on": "flux.submit", "times": 5, "do": {"http": 503}})).await;
    for _ in 0..2 {
        gateway.generate(&flux("")).await;
    }
    for _ in 0..100 {
        gateway.app.engine.run_until_idle().await.unwrap();
        if lane(&gateway, "piapi_flux").await["health"] != "healthy" {
            break;
        }
        gateway.advance_to_next().await;
    }
    gateway.clock.advance(Duration::from_secs(30));
    assert_eq!(lane(&gateway, "piapi_flux").await["health"], "probing");
    let slow = id_of(
        &gateway,
        &json!({"prompt": "a cat [[sim: time=1500]]", "model": FLUX, "size": "64x64",
        "priority": "high"})
        .to_string(),
    )
    .await;
    let next = id_of(&gateway, &flux("")).await;
    let begun = gateway.clock.now();
    assert_eq!(gateway.settle(&next).await["status"], "succeeded");
    assert_eq!(gateway.task(&slow).await["status"], "in_progress");
    let waited = gateway.clock.now().since(begun);
    assert!(waited < Duration::from_mins(2), "{waited:?}");
    gateway.stop().await;
}

/// What was put off by a clock that was ahead comes up soon after the clock is right again, without a restart.
#[rstest]
#[tokio::test]
async fn a_clock_that_was_ahead_leaves_nothing_behind(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    gateway
        .sql("INSERT INTO lanes (id, state) VALUES ('piapi_flux', '{\"paused_until\": 9999999999999}')")
        .await;
    let patient = json!({"prompt": "a cat", "model": FLUX, "size": "64x64", "deadline_s": 3_600});
    let id = id_of(&gateway, &patient.to_string()).await;
    gateway.sql("UPDATE tasks SET wake_at = 9999999999999").await;
    gateway.app.engine.tidy().await.unwrap();
    let begun = gateway.clock.now();
    let task = gateway.settle(&id).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    let waited = gateway.clock.now().since(begun);
    assert!(waited < Duration::from_mins(20), "{waited:?}");
    gateway.stop().await;
}

/// An operator who knows better opens an account at once, and the audit knows who it was.
#[rstest]
#[tokio::test]
async fn an_account_is_opened_by_hand(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    gateway
        .sql("INSERT INTO lanes (id, state) VALUES ('piapi_flux', '{\"paused_until\": 9999999999999}')")
        .await;
    assert_eq!(lane(&gateway, "piapi_flux").await["health"], "paused");
    let reset = "/admin/providers/piapi_flux/reset";
    let stranger = [("x-api-key", OTHER_KEY)];
    let refused = gateway.send(Method::POST, reset, &stranger, None).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(gateway.post("/admin/providers/nobody/reset", "").await.status, StatusCode::NOT_FOUND);
    let opened = gateway.post(reset, "").await;
    assert_eq!((opened.status, &opened.json()["health"]), (StatusCode::OK, &json!("healthy")));
    let told = gateway.get("/admin/audit?act=provider.reset").await.json();
    assert_eq!(
        (&told["data"][0]["subject"], &told["data"][1]),
        (&json!("piapi_flux"), &Value::Null),
        "{told}"
    );
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.run(&flux("")).await["status"], "succeeded");
    gateway.stop().await;
}
