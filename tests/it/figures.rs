//! What operators look at: figures, readiness, the log level. And that the dashboard and the alerts ask for figures that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use easel::domain::meter::{self, Kind};
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};

use crate::harness::{Db, Gateway, OTHER_KEY};
use crate::sink::{Act, Sink};

const OTHER: (&str, &str) = ("authorization", "Bearer easel_other_0123456789abcdef");

/// Samples by name and labels as written, of a text in Prometheus' format, every one of which must be in the table.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let known: BTreeMap<_, _> = meter::ALL.iter().map(|meter| (meter.name, meter)).collect();
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (what, name, rest) = (words.next(), words.next().unwrap(), words.next().unwrap());
            let meter = known.get(name).unwrap_or_else(|| panic!("{name} is not in the table"));
            match what {
                Some("HELP") => assert_eq!(rest, meter.help),
                Some("TYPE") => assert_eq!(rest, meter.kind.as_str()),
                other => panic!("{other:?}"),
            }
            continue;
        }
        let (key, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
        let base = ["_bucket", "_sum", "_count"]
            .into_iter()
            .find_map(|ending| name.strip_suffix(ending).filter(|base| known.contains_key(base)))
            .unwrap_or(name);
        let meter = known.get(base).unwrap_or_else(|| panic!("{name} is not in the table"));
        for label in labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty()) {
            let label = label.split_once('=').unwrap().0;
            let bucket = label == "le" && meter.kind == Kind::Histogram;
            assert!(bucket || meter.labels.contains(&label), "{key}");
        }
        samples.insert(key.to_owned(), value.parse().unwrap());
    }
    samples
}

async fn scrape(gateway: &Gateway) -> BTreeMap<String, f64> {
    // Figures of the database are kept for two seconds.
    gateway.clock.advance(Duration::from_secs(3));
    let answer = gateway.get("/metrics").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    samples(std::str::from_utf8(&answer.bytes).unwrap())
}

fn sum(samples: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let chosen = samples.iter().filter(|(key, _)| {
        key.split('{').next() == Some(name) && labels.iter().all(|label| key.contains(label))
    });
    chosen.map(|(_, value)| value).sum()
}

#[rstest]
#[tokio::test]
async fn what_happens_is_counted(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let sink = Sink::start(|_, _| Act::Status(200)).await;
    let before = scrape(&gateway).await;
    let flux = |prompt: &str| {
        json!({"prompt": prompt, "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64",
            "routing": {"allow_fallback": false}})
    };
    let mut good = flux("a cat");
    good["webhook"] = json!({"url": sink.url});
    gateway.run(&good.to_string()).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    gateway.run(&flux("a cat [[sim: http=400]]").to_string()).await;
    gateway.run(&flux("a cat [[sim: reset]]").to_string()).await;
    let waiting = gateway.generate(&flux("a cat [[sim: time=60]]").to_string()).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.task(waiting["id"].as_str().unwrap()).await["phase"], "generating");
    let after = scrape(&gateway).await;
    let grew = |name: &str, labels: &[&str]| sum(&after, name, labels) - sum(&before, name, labels);
    let flux = "provider=\"piapi_flux\"";
    for (name, labels, expected) in [
        (meter::TASKS_ACCEPTED, &[][..], 4.0),
        (meter::TASKS_FINISHED, &["status=\"succeeded\"", "code=\"none\""], 1.0),
        (meter::TASKS_FINISHED, &["status=\"failed\"", "code=\"outcome_unknown\""], 1.0),
        (meter::TASKS_FINISHED, &["status=\"failed\""], 2.0),
        (meter::SUBMISSIONS, &[flux], 4.0),
        (meter::ATTEMPTS, &[flux, "outcome=\"succeeded\"", "error=\"none\"", "billed=\"yes\""], 1.0),
        (meter::ATTEMPTS, &[flux, "outcome=\"rejected\"", "billed=\"no\""], 1.0),
        (meter::ATTEMPTS, &[flux, "outcome=\"lost\"", "billed=\"unknown\""], 1.0),
        (meter::UNKNOWN_OUTCOMES, &[flux], 1.0),
        // $0.0015 each, to the nano-dollar.
        (meter::COST, &[flux, "billed=\"yes\""], 1_500_000.0),
        (meter::COST, &[flux, "billed=\"unknown\""], 1_500_000.0),
        (meter::PICTURES, &[], 1.0),
        (meter::WEBHOOK_TRIES, &["outcome=\"delivered\""], 1.0),
        ("easel_queue_wait_seconds_count", &[flux], 4.0),
        ("easel_task_seconds_count", &["status=\"succeeded\""], 1.0),
        ("easel_attempt_seconds_count", &[flux], 1.0),
    ] {
        let found = grew(name, labels);
        assert!((found - expected).abs() < 0.5, "{name} {labels:?}: {found}, not {expected}");
    }
    for (name, labels, expected) in [
        (meter::LANE_IN_FLIGHT, &[flux][..], 1.0),
        (meter::LANE_LIMIT, &[flux], 50.0),
        (meter::LANE_QUEUED, &[flux], 0.0),
        (meter::LANE_STATE, &[flux, "state=\"healthy\""], 1.0),
        (meter::LANE_STATE, &[flux, "state=\"open\""], 0.0),
        (meter::TASKS_OPEN, &["phase=\"at_provider\""], 1.0),
        (meter::SAVING_OLDEST, &[], 0.0),
        (meter::OUTBOX, &["line=\"fresh\""], 0.0),
        (meter::STORE_UP, &[], 1.0),
    ] {
        let found = sum(&after, name, labels);
        assert!((found - expected).abs() < 0.5, "{name} {labels:?}: {found}, not {expected}");
    }
    assert!(grew(meter::POLLS, &[flux]) >= 1.0);
    assert!(grew(meter::HTTP_REQUESTS, &["route=\"/generate\"", "status=\"2xx\""]) >= 4.0);
    assert!(grew("easel_http_request_seconds_count", &["route=\"/tasks/{id}\""]) >= 1.0);
    assert!(grew("easel_store_commit_seconds_count", &[]) >= 10.0);
    assert!(sum(&after, meter::RESIDENT, &[]) > 1e6 && sum(&after, meter::OPEN_FDS, &[]) > 3.0);
    assert!(sum(&after, meter::HTTP_CONNECTIONS, &[]) >= 1.0);
    assert!((sum(&after, meter::BLOB_FREE, &[]) - 0.5).abs() < 0.01, "the disk of the test is half full");
    gateway.stop().await;
}

/// Three calls, each a task of its own below the caller's: three pictures, however often they get a row.
#[tokio::test]
async fn pictures_of_a_divided_task_are_counted_once() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let before = scrape(&gateway).await;
    let task = gateway.run(r#"{"prompt":"a cat","model":"flux-dev","size":"64x64","n":3}"#).await;
    let images = task["images"].as_array().unwrap();
    let after = scrape(&gateway).await;
    let grew = |name: &str| sum(&after, name, &[]) - sum(&before, name, &[]);
    let bytes: f64 = images.iter().map(|image| image["bytes"].as_f64().unwrap()).sum();
    assert_eq!((images.len(), gateway.receptions()), (3, 3));
    assert!((grew(meter::PICTURES) - 3.0).abs() < 0.5, "{}", grew(meter::PICTURES));
    assert!((grew(meter::PICTURE_BYTES) - bytes).abs() < 0.5, "{}", grew(meter::PICTURE_BYTES));
    gateway.stop().await;
}

/// L6: whatever callers send, the number of series stays where it is.
#[tokio::test]
async fn callers_make_no_series() {
    let gateway = Gateway::start(Db::Sqlite).await;
    gateway.run(r#"{"prompt":"a cat","size":"64x64"}"#).await;
    gateway.get("/nowhere").await;
    gateway.post("/generate", r#"{"prompt":"x","model":"nope"}"#).await;
    gateway.get("/tasks/task_nope").await;
    gateway.send(Method::PUT, "/tasks", &[], None).await;
    scrape(&gateway).await;
    let before = scrape(&gateway).await.len();
    for n in 0..200 {
        gateway.get(&format!("/nowhere/{n}")).await;
        gateway.get(&format!("/tasks/task_{n}")).await;
        gateway.post("/generate", &format!(r#"{{"prompt":"x","model":"nope-{n}"}}"#)).await;
        let label = format!(r#"{{"prompt":"x","size":"64x64","metadata":{{"k{n}":"v"}}}}"#);
        gateway.send(Method::POST, "/generate", &[OTHER], Some(&label)).await;
    }
    let after = scrape(&gateway).await;
    assert!(after.len() <= before + 5, "{before} series became {}", after.len());
    assert!(after.len() < 2_000, "{}", after.len());
    for theirs in ["nope", "nowhere", "task_1", "\"other\"", "\"test\""] {
        assert!(after.keys().all(|key| !key.contains(theirs)), "{theirs} is in a label");
    }
    gateway.stop().await;
}

/// L5, and who may see figures.
#[tokio::test]
async fn figures_are_for_admins_or_have_an_address_of_their_own() {
    let gateway = Gateway::start(Db::Sqlite).await;
    let nobody = gateway.send(Method::GET, "/metrics", &[("authorization", "")], None).await;
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    assert_eq!(OTHER.1, format!("Bearer {OTHER_KEY}"));
    let user = gateway.send(Method::GET, "/metrics", &[OTHER], None).await;
    assert_eq!((user.status, user.json()["code"].as_str()), (StatusCode::FORBIDDEN, Some("forbidden")));
    assert!(gateway.app.figures.is_none());
    gateway.stop().await;
    let gateway = Gateway::configured(Db::Sqlite, "[metrics]\nlisten = \"127.0.0.1:0\"\n").await;
    assert_eq!(gateway.get("/metrics").await.status, StatusCode::NOT_FOUND);
    assert!(gateway.app.figures.is_some());
    gateway.stop().await;
}

#[rstest]
#[tokio::test]
async fn readiness_names_what_is_wrong(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let gateway = Gateway::start(db).await;
    let ready = async || {
        let answer = gateway.get("/readyz").await;
        (answer.status, answer.json())
    };
    let (status, body) = ready().await;
    assert_eq!(status, StatusCode::OK, "{body}");
    for check in ["process", "store", "migrations", "blobs"] {
        assert_eq!(body["checks"][check], "ok");
    }
    assert_eq!(body["notes"], json!({"downloads": "ok", "providers": "ok", "submissions": "ok"}));
    // Accounts that refuse us are left alone; once all do, readiness says so and stays: all else goes on.
    for _ in 0..30 {
        for rule in ["flux.submit", "chat", "images.generations", "pipeline.submit"] {
            gateway.rule(&json!({"on": rule, "times": 1, "do": {"http": 401}})).await;
        }
        for route in ["flux-schnell", "gpt-4o-image", "gpt-image-1"] {
            let body = json!({"prompt": "x", "model": route, "size": "1024x1024"});
            gateway.post("/generate", &body.to_string()).await;
        }
        gateway.app.engine.run_until_idle().await.unwrap();
        if ready().await.1["notes"]["providers"] != "ok" {
            break;
        }
    }
    let (status, body) = ready().await;
    let providers = body["notes"]["providers"].as_str().unwrap();
    assert!(providers.contains("piapi_flux is open (Auth)"), "{body}");
    assert_eq!((status, &body["ready"]), (StatusCode::OK, &json!(true)));
    // A schema that is behind.
    gateway.sql("DELETE FROM _sqlx_migrations WHERE version = 2").await;
    let (status, body) = ready().await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body["checks"]["migrations"].as_str().unwrap().contains("lacks 1 migration"), "{body}");
    gateway.app.closing().cancel();
    assert_eq!(ready().await.1["checks"]["process"], "shutting down");
    gateway.stop().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told() {
    let gateway = Gateway::configured(Db::Sqlite, "[engine]\nhold_submissions = true\n").await;
    let body = gateway.get("/readyz").await.json();
    assert_eq!(body["notes"]["submissions"], "held by engine.hold_submissions");
    let blobs = gateway.folder().join("blobs");
    std::fs::remove_dir_all(&blobs).unwrap();
    std::fs::write(&blobs, "not a folder").unwrap();
    let answer = gateway.get("/readyz").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_ne!(answer.json()["checks"]["blobs"], "ok");
    gateway.stop().await;
}

#[tokio::test]
async fn the_log_level_is_changed_by_admins_while_it_runs() {
    let log = easel::config::Log { level: "error".into(), format: easel::config::LogFormat::Text };
    easel::telemetry::start(&log).unwrap();
    let gateway = Gateway::start(Db::Sqlite).await;
    let set = async |headers: &[(&str, &str)], level: &str| {
        let body = json!({"level": level}).to_string();
        gateway.send(Method::POST, "/admin/log", headers, Some(&body)).await
    };
    assert_eq!(set(&[OTHER], "trace").await.status, StatusCode::FORBIDDEN);
    assert!(!tracing::enabled!(tracing::Level::DEBUG));
    assert_eq!(set(&[], "debug").await.json(), json!({"level": "debug"}));
    assert!(tracing::enabled!(tracing::Level::DEBUG));
    for wrong in ["", "  ", "easel=loud"] {
        let answer = set(&[], wrong).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong:?}");
        assert_eq!(answer.json()["errors"][0]["pointer"], "/level");
    }
    assert!(tracing::enabled!(tracing::Level::DEBUG), "what is wrong changes nothing");
    assert_eq!(set(&[], "warn").await.status, StatusCode::OK);
    assert!(!tracing::enabled!(tracing::Level::INFO));
    gateway.stop().await;
}

/// Names in an expression that look like metrics.
fn asked_for(expression: &str) -> BTreeSet<String> {
    let names = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = names.filter(|name| name.starts_with("easel_") || name.starts_with("process_"));
    names.map(str::to_owned).collect()
}

fn exists(name: &str) -> bool {
    meter::ALL.iter().any(|meter| match meter.kind {
        Kind::Histogram => {
            name.strip_prefix(meter.name).is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end))
        }
        _ => meter.name == name,
    })
}

/// Every figure that is asked for exists, its labels do, and every alert has its page.
#[test]
fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let labels: BTreeSet<&str> = meter::ALL.iter().flat_map(|meter| meter.labels).copied().collect();
    let check = |expression: &str| {
        assert_eq!(expression.matches('(').count(), expression.matches(')').count(), "{expression}");
        for name in asked_for(expression) {
            assert!(exists(&name), "{name} does not exist: {expression}");
        }
        for chosen in expression.split('{').skip(1).filter_map(|rest| rest.split('}').next()) {
            for label in chosen.split(',').filter_map(|one| one.split(['=', '!']).next()) {
                assert!(labels.contains(label) || label == "job", "no label {label}: {expression}");
            }
        }
    };
    let dashboard: Value = serde_json::from_str(include_str!("../../docker/grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut drawn = BTreeSet::new();
    for target in panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten() {
        let expression = target["expr"].as_str().unwrap();
        check(expression);
        drawn.extend(asked_for(expression));
    }
    for meter in meter::ALL {
        assert!(drawn.iter().any(|name| name.starts_with(meter.name)), "nobody draws {}", meter.name);
    }
    let rules: Value = serde_yaml_ng::from_str(include_str!("../../docker/alerts.yaml")).unwrap();
    let operations = include_str!("../../docs/operations.md");
    for rule in rules["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        check(rule["expr"].as_str().unwrap());
        assert!(["page", "ticket"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{name}");
        assert!(rule["annotations"]["summary"].as_str().unwrap().ends_with('.'), "{name}");
        assert!(operations.contains(&format!("### {name}\n")), "docs/operations.md does not speak of {name}");
    }
    for line in include_str!("../../docs/metrics.md").lines().filter(|line| line.starts_with("| ")) {
        line.split('`').skip(1).step_by(2).filter(|text| text.contains('(')).for_each(check);
    }
}
