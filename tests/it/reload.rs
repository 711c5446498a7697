//! The configuration, read again while the gateway runs: what takes effect, what waits, and that a wrong one changes
//! nothing.

use std::process::Command;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, KEY, OTHER_KEY, PATIENCE};
use crate::keys::{knock, make};
use crate::process::{Running, easel, free_port};

/// Changes the gateway's own configuration file.
fn edit(gateway: &Gateway, change: impl FnOnce(String) -> String) {
    let file = gateway.folder().join("easel.toml");
    let text = change(std::fs::read_to_string(&file).unwrap());
    std::fs::write(file, text).unwrap();
}

async fn reload(gateway: &Gateway) -> Value {
    let answer = gateway.post("/admin/reload", "").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.json());
    answer.json()
}

#[rstest]
#[tokio::test]
async fn what_can_change_does_and_the_rest_is_named(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    assert_eq!(reload(&gateway).await, json!({"applied": [], "needs_restart": []}));
    let body = r#"{"prompt":"x","model":"flux-schnell","size":"64x64"}"#;
    let queued = gateway.generate(body).await;
    let fresh = "easel_fresh_0123456789abcdef";
    edit(&gateway, |text| {
        let text =
            text.replace(OTHER_KEY, fresh).replace("upstream-key-0123456789", "another-key-0123456789");
        let text = text.replacen("in_flight = 50", "in_flight = 7", 1);
        let prices = "\n[providers.piapi_flux.prices]\n\"Qubico/flux1-schnell\" = \"0.5\"\n";
        format!(
            "{text}{prices}[models.swift]\nmodel = \"flux-schnell\"\n[routing]\ndefault_models = [\"swift\"]\n[engine]\nlease_s = 77\n"
        )
    });
    gateway.clock.advance(Duration::from_millis(1));
    let told = reload(&gateway).await;
    let first = easel::providers::KINDS[0].name;
    let mut applied = vec![
        "auth.keys".to_owned(),
        "auth.keys \"other\"".to_owned(),
        "models.swift.model".to_owned(),
        "providers.piapi_flux.prices.Qubico/flux1-schnell".to_owned(),
        "routing.default_models".to_owned(),
    ];
    applied.extend(easel::providers::KINDS.iter().map(|kind| format!("providers.{}.api_key", kind.name)));
    applied.sort();
    assert_eq!(told["applied"], json!(applied));
    assert_eq!(told["needs_restart"], json!(["engine.lease_s", format!("providers.{first}.in_flight")]));

    // Keys, prices, aliases and what "auto" means.
    assert_eq!((knock(&gateway, OTHER_KEY).await, knock(&gateway, fresh).await), (401, 200));
    let priced = gateway.post("/generate/dry-run", r#"{"prompt":"x"}"#).await.json();
    assert_eq!((&priced["model"], &priced["estimated_usd"]), (&json!("flux-schnell"), &json!("0.5")));
    assert_eq!(gateway.get("/models/swift").await.json()["alias_of"], "flux-schnell");

    // A task that stood in line keeps its route, and is sent with the new key.
    let id = queued["id"].as_str().unwrap();
    assert_eq!(gateway.settle(id).await["status"], "succeeded");
    let ended = gateway.run(r#"{"prompt":"y","model":"swift","size":"64x64"}"#).await;
    assert_eq!(ended["cost"]["estimated_usd"], "0.5");
    let keys: Vec<_> = gateway.simulator.ledger().into_iter().filter_map(|one| one.key).collect();
    let digest = easel::domain::secret::sha256_hex(b"another-key-0123456789");
    assert_eq!(keys, [&digest[..12], &digest[..12]]);

    // What waits for a restart is told again until there is one; what was taken over is not.
    gateway.clock.advance(Duration::from_millis(1));
    let told = reload(&gateway).await;
    assert_eq!(
        (told["applied"].as_array().unwrap().len(), told["needs_restart"].as_array().unwrap().len()),
        (0, 2)
    );
    let page = gateway.get("/admin/audit?act=config.reload").await.json();
    assert_eq!(page["data"][1]["details"]["applied"], json!(applied));
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_wrong_configuration_changes_nothing_and_every_problem_is_listed(
    #[values(Db::Sqlite, Db::Postgres)] db: Db,
) {
    let gateway = Gateway::start(db).await;
    make(&gateway, &json!({"name": "managed"})).await;
    let good = std::fs::read_to_string(gateway.folder().join("easel.toml")).unwrap();
    let problems = async || {
        let answer = gateway.post("/admin/reload", "").await;
        assert_eq!(answer.status, 422);
        let problem = answer.json();
        assert_eq!(problem["code"], "validation_failed");
        let errors = problem["errors"].as_array().unwrap().clone();
        errors.iter().map(|error| error["detail"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    edit(&gateway, |text| {
        let text = text.replace(OTHER_KEY, "short").replace("kind = \"piapi_flux\"", "kind = \"nope\"");
        format!("{text}[models.bad]\nsteps = 1\n[typo]\nx = 1\n")
    });
    let listed = problems().await;
    for expected in
        ["auth.keys \"other\"", "providers.piapi_flux.kind", "models.bad.model", "typo: unknown key"]
    {
        assert!(listed.iter().any(|one| one.starts_with(expected)), "{expected}: {listed:#?}");
    }
    edit(&gateway, |_| good.replace("name = \"other\"", "name = \"managed\""));
    assert_eq!(problems().await, ["auth.keys \"managed\": a managed key has this name"]);
    // Revoked or not.
    let (id, _) = make(&gateway, &json!({"name": "revoked"})).await;
    let revoke = gateway.send(Method::DELETE, &format!("/admin/keys/{id}"), &[], None).await;
    assert_eq!(revoke.status, StatusCode::NO_CONTENT);
    edit(&gateway, |_| good.replace("name = \"other\"", "name = \"revoked\""));
    assert_eq!(problems().await, ["auth.keys \"revoked\": a managed key has this name"]);
    edit(&gateway, |_| format!("{good}[auth]\npepper = \"a-secret-in-the-wrong-place\" oops"));
    let listed = problems().await;
    assert!(listed[0].contains("line ") && !listed[0].contains("a-secret"), "{listed:?}");
    // All is as it was.
    assert_eq!((knock(&gateway, OTHER_KEY).await, knock(&gateway, KEY).await), (200, 200));
    assert_eq!(
        gateway.run(r#"{"prompt":"x","model":"flux-schnell","size":"64x64"}"#).await["status"],
        "succeeded"
    );
    let failed = gateway.get("/admin/audit?act=config.reload").await.json();
    assert!(failed["data"].as_array().unwrap().iter().all(|one| one["outcome"] == "failed"));
    gateway.stop().await;
}

/// A caller whose answer was lost asks again, whatever is on offer by then: the task is there.
#[rstest]
#[tokio::test]
async fn what_would_not_be_taken_in_today_is_replayed(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let alias = "[models.swift]\nmodel = \"flux-schnell\"\n";
    let gateway = Gateway::configured(db, alias).await;
    let send = async |key: &str| {
        let body = r#"{"prompt":"x","model":"swift","size":"64x64"}"#;
        gateway.send(Method::POST, "/generate", &[("idempotency-key", key)], Some(body)).await
    };
    let first = send("once").await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    edit(&gateway, |text| text.replace(alias, ""));
    gateway.clock.advance(Duration::from_millis(1));
    reload(&gateway).await;
    let again = send("once").await;
    assert_eq!(
        (again.header("idempotency-replayed"), &again.json()["id"]),
        (Some("true"), &first.json()["id"])
    );
    assert_eq!(send("another").await.status, StatusCode::UNPROCESSABLE_ENTITY);
    gateway.stop().await;
}

/// A call that is under way ends with the key it began with: its account is exchanged only for those that come after.
#[tokio::test]
async fn a_call_under_way_keeps_its_key() {
    let gateway = Gateway::live(Db::Sqlite).await;
    let task =
        gateway.generate(r#"{"prompt":"x [[sim: delay=1]]","model":"flux-schnell","size":"64x64"}"#).await;
    let sent = async {
        while gateway.receptions() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, sent).await.expect("it is sent");
    edit(&gateway, |text| text.replace("upstream-key-0123456789", "another-key-0123456789"));
    let told = reload(&gateway).await;
    assert_eq!(told["needs_restart"], json!([]));
    let id = task["id"].as_str().unwrap();
    let ended = gateway.send(Method::GET, &format!("/tasks/{id}?wait=60"), &[], None).await.json();
    assert_eq!((&ended["status"], gateway.receptions()), (&json!("succeeded"), 1), "{ended}");
    gateway.stop().await;
}

/// SIGHUP does what POST /admin/reload does, and the log's level follows.
#[tokio::test]
async fn a_hangup_reads_the_configuration_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite://{}/easel.db", folder.path().display());
    let address = free_port().await;
    let text = crate::stage::configuration(&store, "http://127.0.0.1:9", &folder, "");
    let file = folder.path().join("easel.toml");
    let write = |level: &str, key: &str| {
        let text = text.replace(OTHER_KEY, key);
        std::fs::write(
            &file,
            format!("[server]\nlisten = \"{address}\"\n{text}[log]\nlevel = \"{level}\"\n"),
        )
        .unwrap();
    };
    write("easel=info", OTHER_KEY);
    let mut serve = easel(&["serve", "--config", "easel.toml"], folder.path());
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let running = Running(serve.stderr(log).spawn().unwrap());
    // It may be in the middle of a line, and of a letter.
    let said = || String::from_utf8_lossy(&std::fs::read(folder.path().join("log")).unwrap()).into_owned();
    let says = async |what: &str| {
        let saying = async {
            while !said().contains(what) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, saying).await.unwrap_or_else(|_| panic!("{what}: {}", said()));
    };
    says("easel is serving").await;
    assert!(!said().contains("answered"));
    let fresh = "easel_fresh_0123456789abcdef";
    write("easel=debug", fresh);
    let id = running.0.id().to_string();
    assert!(Command::new("kill").args(["-HUP", &id]).status().unwrap().success());
    says("the configuration was read again").await;
    let http = crate::harness::client();
    let status = async |key: &str| {
        http.get(format!("http://{address}/models")).bearer_auth(key).send().await.unwrap().status().as_u16()
    };
    assert_eq!((status(fresh).await, status(OTHER_KEY).await), (200, 401));
    says("answered").await;

    // What was said by hand holds until the configuration says something else.
    let post = async |path: &str, body: &'static str| {
        let request = http.post(format!("http://{address}{path}")).bearer_auth(KEY);
        let answer = request.header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json::<Value>().await.unwrap()
    };
    write("easel=info", fresh);
    assert_eq!(post("/admin/reload", "").await["applied"], json!(["log.level"]));
    post("/admin/log", r#"{"level":"easel=debug"}"#).await;
    assert_eq!(post("/admin/reload", "").await["applied"], json!([]));
    let answered = || said().matches("answered").count();
    let before = answered();
    assert_eq!(status(fresh).await, 200);
    let more = async {
        while answered() == before {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, more).await.expect("debug is still on");
    let entries = http.get(format!("http://{address}/admin/audit?act=log.level")).bearer_auth(KEY);
    let entries: Value = entries.send().await.unwrap().json().await.unwrap();
    let entries = entries["data"].as_array().unwrap();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(
        (&entries[0]["subject"], &entries[0]["key"], &entries[0]["details"]),
        (&json!("log"), &json!("test"), &json!({"level": "easel=debug"}))
    );
    running.kill();
}
