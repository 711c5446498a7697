//! Answers that are spoiled, replaced or lost, at any endpoint; and the rules that ask for it.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};

use super::{Bench, CHAT, GENERATIONS, TASK, V1, V3, ask, generate, txt2img};
use crate::simulator::{Endpoint, Faults, Outcome};

async fn submit(bench: &Bench, directive: &str) -> reqwest::Result<reqwest::Response> {
    bench.send(TASK, &txt2img(&format!("a cat [[sim: {directive}]]"))).await
}

/// Whether the last POST was carried out.
fn was_taken(bench: &Bench) -> bool {
    bench.last().outcome == Outcome::Completed
}

#[tokio::test]
async fn an_http_error_has_the_body_told() {
    let bench = Bench::at_once().await;
    let cases = [
        ("http=500", "application/json", "{\"code\":500,"),
        ("http=503 body=openai", "application/json", "{\"error\":{"),
        ("http=422 body=fastapi", "application/json", "{\"detail\":"),
        ("http=502 body=html", "text/html; charset=UTF-8", "<!DOCTYPE html>"),
        (
            "http=404 body=text message=\"404 page not found\"",
            "text/plain; charset=utf-8",
            "404 page not found",
        ),
        ("http=520 body=empty", "", ""),
        ("http=403 body=cloudflare", "text/plain; charset=utf-8", "error code: 1010"),
        ("http=524 body=cloudflare", "text/html; charset=UTF-8", "<!DOCTYPE html>"),
        ("http=200 body=html", "text/html; charset=UTF-8", "<!DOCTYPE html>"),
        (
            "http=401 message=\"bad key {key}\"",
            "application/json",
            "{\"code\":401,\"data\":null,\"message\":\"bad key good-key\"}",
        ),
    ];
    for (directive, kind, start) in cases {
        let answer = submit(&bench, directive).await.unwrap();
        let expected: u16 = directive[5..8].parse().unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{directive}");
        let got = answer.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap());
        assert_eq!(got, kind, "{directive}");
        let text = answer.text().await.unwrap();
        assert!(text.starts_with(start), "{directive}: {text}");
        assert_eq!((bench.last().outcome, bench.last().billed_nanos), (Outcome::Rejected, Some(0)));
    }
    submit(&bench, "http=504 accepted=true").await.unwrap();
    assert!(was_taken(&bench));
    let answer = submit(&bench, "http=429 retry_after=\"Fri, 31 Dec 9999 23:59:59 GMT\"").await.unwrap();
    assert_eq!(answer.headers()["retry-after"], "Fri, 31 Dec 9999 23:59:59 GMT");
}

#[tokio::test]
async fn every_endpoint_can_fail_by_rule_in_its_own_dialect() {
    let bench = Bench::at_once().await;
    let id = bench.task("a cat").await;
    let (_, v3) = bench.post(V3, &json!({"prompt": "x", "samples": 1})).await;
    bench.rule(Endpoint::Any, Faults { http: Some(503), ..Faults::default() });
    for (path, body, mark) in [
        (TASK, txt2img("x"), "code"),
        (CHAT, ask("x"), "error"),
        (GENERATIONS, generate("x"), "error"),
        (V3, json!({"prompt": "x"}), "detail"),
        (V1, json!({"prompt": "x"}), "error_code"),
    ] {
        let (status, body) = bench.post(path, &body).await;
        assert_eq!((status, body.get(mark).is_some()), (503, true), "{path}: {body}");
    }
    assert_eq!(bench.get(&format!("{TASK}/{id}")).await.0, 503);
    assert_eq!(bench.get(&format!("{V3}/status/{}", v3["id"].as_str().unwrap())).await.0, 503);
    let (_, rules) = bench.get("/_sim/rules").await;
    assert_eq!(
        (&rules[0]["used"], &rules[0]["on"], &rules[0]["do"]["http"]),
        (&json!(7), &json!("*"), &json!(503))
    );
    let answer = bench.request(http::Method::DELETE, "/_sim/rules").send().await.unwrap();
    assert_eq!(answer.status(), 204);
    assert_eq!(bench.get(&format!("{TASK}/{id}")).await.0, 200);
}

#[tokio::test]
async fn answers_are_lost_after_the_order_was_taken_or_before() {
    let bench = Bench::at_once().await;
    for (directive, taken) in [
        ("reset", false),
        ("reset_accepted", true),
        ("truncate=head", true),
        ("truncate=body", true),
        ("truncate=tail", true),
    ] {
        let prompt = format!("a cat [[sim: {directive}]]");
        let (answer, reset) = bench.raw_post(TASK, &txt2img(&prompt)).await;
        assert_eq!(was_taken(&bench), taken, "{directive}");
        assert_eq!(reset, directive.starts_with("reset"), "{directive}");
        match directive {
            "truncate=head" => assert_eq!(answer, "HTTP/1.1 200"),
            "truncate=body" | "truncate=tail" => {
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
                assert!(length.parse::<usize>().unwrap() > body.len() && !body.is_empty(), "{answer}");
                assert_eq!(body.contains("task_id"), directive == "truncate=tail", "{answer}");
            }
            _ => assert!(answer.is_empty(), "{answer}"),
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_an_order() {
    let bench = Bench::at_once().await;
    let answer = submit(&bench, "redirect=http://127.0.0.1:9/steal").await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["location"]),
        (307, &"http://127.0.0.1:9/steal".parse().unwrap())
    );
    assert!(!was_taken(&bench));
}

#[tokio::test]
async fn bodies_are_broken_or_packed() {
    let bench = Bench::at_once().await;
    let text = submit(&bench, "bad_json").await.unwrap().text().await.unwrap();
    assert!(text.starts_with('{') && serde_json::from_str::<Value>(&text).is_err());
    assert!(was_taken(&bench));
    let answer = submit(&bench, "gzip").await.unwrap();
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let mut text = String::new();
    let bytes = answer.bytes().await.unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&bytes[..]), &mut text).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["code"], 200);
    let packed = submit(&bench, "gzip_bomb=10000000").await.unwrap().bytes().await.unwrap();
    assert!(packed.len() < 100_000);
    let answer = submit(&bench, "head_bytes=20000").await.unwrap();
    assert_eq!(answer.headers()["x-filler"].len(), 20_000);
    let deep = submit(&bench, "deep_json=100000").await.unwrap().text().await.unwrap();
    assert_eq!(deep.len(), 200_000);
}

#[tokio::test]
async fn bodies_can_be_huge_or_endless() {
    let bench = Bench::at_once().await;
    let text = submit(&bench, "huge=1000000").await.unwrap().text().await.unwrap();
    assert!(text.len() > 1_000_000 && serde_json::from_str::<Value>(&text).is_ok());
    let mut endless = submit(&bench, "huge").await.unwrap().bytes_stream();
    let mut read = 0;
    while read < 10 << 20 {
        read += endless.next().await.unwrap().unwrap().len();
    }
}

#[tokio::test]
async fn answers_are_late_or_never_come() {
    let bench = Bench::at_once().await;
    let started = Instant::now();
    assert_eq!(submit(&bench, "delay=0.2").await.unwrap().status(), 200);
    assert_eq!(submit(&bench, "hang=0.2").await.unwrap().status(), 200);
    assert!(started.elapsed() >= Duration::from_millis(400));
    assert!(was_taken(&bench));
    for (directive, taken, count) in [("hang", false, 3), ("hang accepted=true", true, 4)] {
        let hanging = submit(&bench, directive);
        tokio::select! {
            _ = hanging => panic!("{directive}: an answer"),
            () = bench.received(count) => {}
        }
        assert_eq!(was_taken(&bench), taken, "{directive}");
    }
}

#[tokio::test]
async fn stopping_waits_for_nobody() {
    let bench = Bench::at_once().await;
    let (url, http) = (bench.simulator.url(), bench.http.clone());
    let hanging =
        http.post(bench.url(TASK)).header("x-api-key", "k").json(&txt2img("[[sim: hang]] x")).send();
    let stopping = async {
        bench.received(1).await;
        bench.simulator.stop().await;
    };
    let both = async { tokio::join!(hanging, stopping) };
    let (answer, ()) = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
    assert!(answer.is_err());
    assert!(http.get(url).send().await.is_err());
}

#[tokio::test]
async fn an_unknown_fault_is_an_error_in_both_places() {
    let bench = Bench::at_once().await;
    let answer = submit(&bench, "htpp=500").await.unwrap();
    assert_eq!(answer.status(), 400);
    assert!(answer.text().await.unwrap().contains("unknown field `htpp`"));
    for rule in [json!({"on": "chat", "do": {"htpp": 500}}), json!({"on": "chatt", "do": {}}), json!(5)] {
        let (status, body) = bench.post("/_sim/rules", &rule).await;
        assert_eq!((status, body["error"].is_string()), (422, true), "{rule}");
    }
    let both = json!([{"on": "chat", "do": {"refuse": true}}, {"on": "flux.submit", "do": {"delay": 0}}]);
    assert_eq!(bench.post("/_sim/rules", &both).await.0, 201);
    assert_eq!(bench.get("/_sim/rules").await.1.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_rule_goes_before_the_directive_and_looks_at_the_key() {
    let bench = Bench::at_once().await;
    let rule = json!({"on": "flux.submit", "match": {"key": "good-key"}, "times": 1, "after": 1, "do": {"http": 418}});
    bench.post("/_sim/rules", &rule).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(submit(&bench, "http=500").await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [500, 418, 500]);
    let other = bench.http.post(bench.url(TASK)).header("x-api-key", "other").json(&txt2img("a cat"));
    assert_eq!(other.send().await.unwrap().status(), 200);
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(submit(&bench, "http=503 times=2").await.unwrap().status().as_u16());
    }
    assert_eq!(seen, [503, 503, 200]);
}

#[tokio::test]
async fn the_simulator_is_well() {
    let bench = Bench::at_once().await;
    let (status, body) = bench.get("/_sim/health").await;
    assert_eq!((status, &body["status"], &body["seed"]), (200, &json!("ok"), &json!(7)));
}
