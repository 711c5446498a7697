//! Traces: one from a caller's request to its webhook, whatever happens in between; none where the caller wants none; never a
//! word of them to a provider; and a collector that is away is nobody's trouble.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use reqwest::{Method, StatusCode};
use rstest::rstest;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::collector::{Collector, Told};
use crate::harness::{Db, Gateway, PATIENCE};
use crate::sink::{Act, Letter, Sink};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const STATE: &str = "rojo=00f067,congo=t61rc";

fn parent(trace: &str, flag: &str) -> String {
    format!("00-{trace}-{CALLER}-{flag}")
}

fn wanted(sink: &Sink) -> Value {
    json!({"prompt": "a quiet harbour", "model": "piapi_flux/Qubico/flux1-schnell", "size": "64x64",
        "webhook": {"url": sink.url}})
}

/// Asks with these headers; the task's id.
async fn ask(gateway: &Gateway, headers: &[(&str, &str)], body: &Value) -> String {
    let answer = gateway.send(Method::POST, "/generate", headers, Some(&body.to_string())).await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.json());
    let parent = headers.iter().find(|(name, _)| *name == "traceparent");
    assert_eq!(answer.header("traceparent"), parent.map(|(_, value)| *value), "it is echoed");
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// The letter about the task's end.
async fn letter(gateway: &Gateway, sink: &Sink, id: &str) -> Letter {
    let task = gateway.settle(id).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    gateway.app.engine.run_until_idle().await.unwrap();
    let mut letters = sink.letters().into_iter();
    letters.find(|letter| letter.json()["data"]["task"]["id"] == id).expect("it was told")
}

fn header<'a>(letter: &'a Letter, name: &str) -> Option<&'a str> {
    letter.headers.get(name).map(|value| value.to_str().unwrap())
}

fn has(spans: &[Told], trace: &str, name: &str) -> bool {
    spans.iter().any(|span| span.trace == trace && span.name == name)
}

/// What is beneath what, by name.
fn edges(spans: &[Told]) -> BTreeSet<(String, String)> {
    let names: BTreeMap<_, _> = spans.iter().map(|span| (span.id.as_str(), span.name.as_str())).collect();
    let edge = |span: &Told| {
        let above = match span.parent.as_str() {
            CALLER => "caller",
            id => names
                .get(id)
                .copied()
                .unwrap_or_else(|| panic!("{} is beneath nothing: {spans:#?}", span.name)),
        };
        (above.to_owned(), span.name.clone())
    };
    spans.iter().map(edge).collect()
}

fn one<'a>(spans: &'a [Told], name: &str) -> &'a Told {
    let mut named = spans.iter().filter(|span| span.name == name);
    let first = named.next().unwrap_or_else(|| panic!("no {name}: {spans:#?}"));
    assert!(named.next().is_none(), "more than one {name}");
    first
}

#[rstest]
#[tokio::test]
async fn one_trace_from_the_request_to_the_webhook(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let (collector, sink) = (Collector::start().await, Sink::saying(Act::Status(200)).await);
    let gateway = Gateway::configured(db, &collector.configuration()).await;
    let caller = parent(TRACE, "01");
    let id = ask(&gateway, &[("traceparent", &caller), ("tracestate", STATE)], &wanted(&sink)).await;
    gateway.app.engine.run_until_idle().await.unwrap();
    assert_eq!(gateway.task(&id).await["phase"], "generating");
    collector.wait_until(|spans| has(spans, TRACE, "task.submit")).await;

    // Another process goes on with the task, and with the trace.
    let gateway = gateway.restart().await;
    let letter = letter(&gateway, &sink, &id).await;
    collector.wait_until(|spans| has(spans, TRACE, "webhook.post") && has(spans, TRACE, "task")).await;
    let told = gateway.simulator.headers();
    gateway.stop().await;

    let spans = collector.trace(TRACE);
    let expected = [
        ("caller", "POST /generate"),
        ("POST /generate", "task.accept"),
        ("task.accept", "store.write"),
        ("POST /generate", "task"),
        ("task", "task.submit"),
        ("task.submit", "store.write"),
        ("task", "attempt"),
        ("attempt", "provider.submit"),
        ("attempt", "task.poll"),
        ("task.poll", "provider.check"),
        ("task.poll", "store.write"),
        ("task.poll", "task.save"),
        ("task.save", "picture.fetch"),
        ("task.save", "store.write"),
        ("task", "webhook.post"),
        ("task", "store.write"),
    ];
    let expected: BTreeSet<_> = expected.map(|(above, name)| (above.to_owned(), name.to_owned())).into();
    assert_eq!(edges(&spans), expected);

    let request = one(&spans, "POST /generate");
    assert_eq!(request.kind, SpanKind::Server);
    assert_eq!(request.service["service.name"], "easel");
    let says = |span: &Told, name: &str| span.says.get(name).cloned().unwrap_or_default();
    assert_eq!(says(request, "http.response.status_code"), "202");
    assert_eq!(says(request, "http.route"), "/generate");
    assert!(says(request, "request.id").starts_with("req_"));
    let task = one(&spans, "task");
    assert_eq!((says(task, "task.id"), says(task, "task.status")), (id.clone(), "succeeded".into()));
    let attempt = one(&spans, "attempt");
    let expected = ("piapi_flux".into(), "succeeded".into(), "yes".into());
    let said = ["provider.id", "attempt.state", "attempt.billed"].map(|name| says(attempt, name));
    assert_eq!(<(String, String, String)>::from(said), expected);
    let system = if matches!(db, Db::Sqlite) { "sqlite" } else { "postgresql" };
    for write in spans.iter().filter(|span| span.name == "store.write") {
        assert_eq!(says(write, "db.system.name"), system);
        assert_eq!(write.says.contains_key("store.jobs"), system == "sqlite", "{write:?}");
    }

    // The receiver goes on with it.
    let post = one(&spans, "webhook.post");
    assert_eq!((post.kind, says(post, "server.address")), (SpanKind::Client, sink.address.to_string()));
    assert_eq!(header(&letter, "traceparent"), Some(format!("00-{TRACE}-{}-01", post.id).as_str()));
    assert_eq!(header(&letter, "tracestate"), Some(STATE));

    // The providers are told nothing: submit, poll and download.
    assert!(told.contains("user-agent") && told.contains("x-api-key"), "{told:?}");
    assert!(!told.iter().any(|name| name.starts_with("trace") || name == "baggage"), "{told:?}");
}

/// A request that needs several upstream calls: each is a task beneath the task.
#[rstest]
#[tokio::test]
async fn parts_are_beneath_the_whole(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let (collector, sink) = (Collector::start().await, Sink::saying(Act::Status(200)).await);
    let gateway = Gateway::configured(db, &collector.configuration()).await;
    let body = json!({"prompt": "cats [[sim: picture=64x64]]", "model": "flux-dev", "n": 2, "webhook": {"url": sink.url}});
    let caller = parent(TRACE, "01");
    let id = ask(&gateway, &[("traceparent", &caller)], &body).await;
    letter(&gateway, &sink, &id).await;
    gateway.stop().await;
    let spans = collector.trace(TRACE);
    let tasks: Vec<_> = spans.iter().filter(|span| span.name == "task").collect();
    let whole = tasks.iter().find(|task| task.says["task.id"] == id).unwrap();
    let parts: Vec<_> = tasks.iter().filter(|task| task.says.get("task.part_of") == Some(&id)).collect();
    assert_eq!((tasks.len(), parts.len()), (3, 2), "{tasks:#?}");
    assert!(parts.iter().all(|part| part.parent == whole.id));
    assert!(edges(&spans).contains(&("task".into(), "task.gather".into())));
}

/// An attempt that failed, and the one that came after it; a receiver that says no.
#[tokio::test]
async fn what_goes_wrong_is_told_without_its_words() {
    let (collector, sink) = (Collector::start().await, Sink::saying(Act::Status(500)).await);
    let gateway = Gateway::configured(Db::Sqlite, &collector.configuration()).await;
    let mut body = wanted(&sink);
    body["prompt"] = json!("a secret harbour [[sim: http=400 message=\"a secret harbour\"]]");
    body["routing"] = json!({"allow_fallback": false});
    let caller = parent(TRACE, "01");
    let id = ask(&gateway, &[("traceparent", &caller)], &body).await;
    let task = gateway.settle(&id).await;
    assert_eq!(task["status"], "failed");
    gateway.app.engine.run_until_idle().await.unwrap();
    gateway.stop().await;
    let spans = collector.trace(TRACE);
    let code = task["error"]["code"].as_str().unwrap();
    for (name, error) in
        [("task", code), ("attempt", code), ("provider.submit", code), ("webhook.post", "500")]
    {
        assert_eq!(one(&spans, name).says["error.type"], error, "{name}");
    }
    assert_eq!(one(&spans, "provider.submit").says["http.response.status_code"], "400");
    let bytes = String::from_utf8_lossy(&collector.bytes()).into_owned();
    assert!(!bytes.contains("harbour"), "neither prompts nor what providers say of them");
}

#[rstest]
#[tokio::test]
async fn who_is_recorded_is_the_callers_choice_first(#[values("0.0", "1.0")] sample: &str) {
    let (collector, sink) = (Collector::start().await, Sink::saying(Act::Status(200)).await);
    let configuration = format!("{}sample = {sample}\n", collector.configuration());
    let gateway = Gateway::configured(Db::Sqlite, &configuration).await;
    let (yes, no) = (TRACE.to_owned(), TRACE.replace('4', "5"));
    let mut places = Vec::new();
    for headers in
        [vec![("traceparent", parent(&yes, "01"))], vec![("traceparent", parent(&no, "00"))], vec![]]
    {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let id = ask(&gateway, &headers, &wanted(&sink)).await;
        let letter = letter(&gateway, &sink, &id).await;
        places.push(header(&letter, "traceparent").expect("every letter has a place").to_owned());
    }
    gateway.stop().await;
    assert!(has(&collector.spans(), &yes, "webhook.post"), "a caller that records is followed");
    assert_eq!(collector.trace(&no).len(), 0, "a caller that does not is not");
    assert!(places[1].starts_with(&format!("00-{no}-")) && places[1].ends_with("-00"), "{places:?}");
    // Where nobody has decided, the share decides.
    let ours = places[2].split('-').nth(1).unwrap();
    let recorded = sample == "1.0";
    assert_eq!(has(&collector.spans(), ours, "POST /generate"), recorded);
    assert_eq!(places[2].ends_with("-01"), recorded, "{places:?}");
    assert!(!collector.spans().iter().any(|span| span.name.contains("healthz")));
}

/// Without a collector, callers' traces pass through all the same.
#[rstest]
#[tokio::test]
async fn a_callers_trace_is_handed_on_without_a_collector(#[values(Db::Sqlite, Db::Postgres)] db: Db) {
    let sink = Sink::saying(Act::Status(200)).await;
    let gateway = Gateway::start(db).await;
    let caller = parent(TRACE, "01");
    let id = ask(&gateway, &[("traceparent", &caller), ("tracestate", STATE)], &wanted(&sink)).await;
    let gateway = gateway.restart().await;
    let told = letter(&gateway, &sink, &id).await;
    assert_eq!(
        (header(&told, "traceparent"), header(&told, "tracestate")),
        (Some(caller.as_str()), Some(STATE))
    );
    for headers in [vec![], vec![("traceparent", "00-not-a-trace")], vec![("tracestate", STATE)]] {
        let id = ask(&gateway, &headers, &wanted(&sink)).await;
        let told = letter(&gateway, &sink, &id).await;
        assert_eq!((header(&told, "traceparent"), header(&told, "tracestate")), (None, None), "{headers:?}");
    }
    assert!(!gateway.simulator.headers().iter().any(|name| name.starts_with("trace")));
    gateway.stop().await;
}

/// Nobody waits for a collector: not a request, not a step, and the stop no longer than it may.
#[tokio::test]
async fn a_collector_that_is_away_is_nobodys_trouble() {
    let refusing = Collector::answering(Some(StatusCode::SERVICE_UNAVAILABLE)).await;
    let hanging = Collector::hanging().await;
    for endpoint in ["http://127.0.0.1:9", refusing.url.as_str(), hanging.url.as_str()] {
        let sink = Sink::saying(Act::Status(200)).await;
        let configuration = format!("[traces]\nendpoint = \"{endpoint}\"\n");
        let gateway = Gateway::configured(Db::Sqlite, &configuration).await;
        let caller = parent(TRACE, "01");
        for _ in 0..3 {
            let id = ask(&gateway, &[("traceparent", &caller)], &wanted(&sink)).await;
            letter(&gateway, &sink, &id).await;
        }
        timeout(PATIENCE, gateway.stop()).await.expect("a stop ends");
    }
    let figures = easel::telemetry::meters::render();
    let failed = figures.lines().find(|line| line.starts_with("easel_spans_total{outcome=\"failed\"}"));
    let failed = failed.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    assert!(failed.is_some_and(|failed| failed > 0.0), "what was not taken is counted:\n{figures}");
}
