//! Flux tasks that go wrong.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Bench, TASK, fixture, same_shape, txt2img};
use crate::simulator::{Endpoint, Faults, Outcome, Rule, Text, Words};

/// Submits with this directive and polls once.
async fn done(bench: &Bench, directive: &str) -> Value {
    let id = bench.task(&format!("a cat [[sim: {directive}]]")).await;
    bench.poll(&id).await
}

#[tokio::test]
async fn a_failure_hides_its_reason_in_the_logs_and_is_refunded() {
    let bench = Bench::at_once().await;
    let failed = done(&bench, "fail=10000 reason=\"the input image may contain a real person\"").await;
    let data = &failed["data"];
    assert_eq!(data["status"], "failed");
    assert_eq!(data["error"]["code"], 10_000);
    assert_eq!(data["error"]["message"], "Internal error. Please try again later.");
    assert_eq!(data["logs"][0], "the input image may contain a real person");
    assert_eq!(data["logs"][1], "restored frozen points");
    assert_eq!(data["meta"]["usage"]["consume"], 0);
    same_shape(&fixture("piapi_task_failed_10000_logs.json")["data"]["error"], &data["error"], "error");
    let last = bench.last();
    assert_eq!((last.outcome, last.billed_nanos), (Outcome::Failed, Some(0)));

    let failed = done(&bench, "fail billed=true").await;
    assert_eq!(failed["data"]["meta"]["usage"]["consume"], 15_000);
    assert_eq!(bench.last().billed_nanos, Some(1_500_000));

    let refused = done(&bench, "refuse").await;
    assert_eq!(refused["data"]["error"]["code"], 10_003);
    assert!(refused["data"]["logs"][0].as_str().unwrap().contains("copyright"));
    assert_eq!(bench.last().billed_nanos, Some(0));
}

#[tokio::test]
async fn status_words_come_one_by_one() {
    let bench = Bench::at_once().await;
    let prompt = "a cat [[sim: status=\"Processing,processing\\t,,quantum,SUCCESS\"]]";
    let id = bench.task(prompt).await;
    let mut seen = Vec::new();
    for _ in 0..6 {
        let state = bench.poll(&id).await;
        let data = &state["data"];
        seen.push((data["status"].as_str().unwrap().to_owned(), data["output"].is_object()));
    }
    let words = ["Processing", "processing\t", "", "quantum", "SUCCESS", "completed"];
    let shown = [false, false, false, false, true, true];
    assert_eq!(seen, words.into_iter().map(str::to_owned).zip(shown).collect::<Vec<_>>());

    let id = bench.task("a cat [[sim: flap]]").await;
    let mut words = Vec::new();
    for _ in 0..3 {
        words.push(bench.poll(&id).await["data"]["status"].clone());
    }
    assert_eq!(words, ["completed", "failed", "completed"]);

    let (_, body) = bench.post(TASK, &txt2img("a cat [[sim: submit_status=\"\"]]")).await;
    assert_eq!(body["data"]["status"], "");
    let (_, body) = bench.post(TASK, &txt2img("a cat [[sim: submit_status=failed fail]]")).await;
    assert_eq!((&body["data"]["status"], &body["data"]["error"]["code"]), (&json!("failed"), &json!(10_000)));
}

#[tokio::test]
async fn a_completed_task_may_have_nothing_to_show() {
    let bench = Bench::at_once().await;
    let empty = json!({"image_base64": "", "image_url": "", "image_urls": []});
    let variants = [
        ("no_image", Value::Null),
        ("no_image=null", Value::Null),
        ("no_image=object", json!({})),
        ("no_image=string", json!("")),
        ("no_image=array", json!([])),
        ("no_image=empty_urls", empty),
    ];
    for (directive, output) in variants {
        let body = done(&bench, directive).await;
        assert_eq!((&body["data"]["status"], &body["data"]["output"]), (&json!("completed"), &output));
    }
    let last = bench.last();
    assert_eq!((last.outcome, last.billed_nanos), (Outcome::NoImage, Some(1_500_000)));

    let mut request = txt2img("a cat [[sim: missing=1]]");
    request["input"]["batch_size"] = json!(3);
    let (_, created) = bench.post(TASK, &request).await;
    let body = bench.poll(created["data"]["task_id"].as_str().unwrap()).await;
    assert_eq!(body["data"]["output"]["image_urls"].as_array().unwrap().len(), 2);
    assert_eq!(bench.last().billed_nanos, Some(4_500_000));
}

#[tokio::test]
async fn links_and_pictures_come_in_odd_forms() {
    let bench = Bench::at_once().await;
    let body = done(&bench, "base64").await;
    same_shape(
        &fixture("piapi_flux_get_completed_base64_only.json")["data"]["output"],
        &body["data"]["output"],
        "",
    );
    let bytes = STANDARD.decode(body["data"]["output"]["image_base64"].as_str().unwrap()).unwrap();
    assert_eq!(image::load_from_memory(&bytes).unwrap().width(), 64);
    let link = |body: &Value| body["data"]["output"]["image_url"].as_str().unwrap().to_owned();
    let both = done(&bench, "base64=both").await;
    assert!(link(&both).starts_with("http") && both["data"]["output"]["image_base64"] != "");
    let both = done(&bench, "both_urls").await;
    assert_eq!(both["data"]["output"]["image_urls"], json!([link(&both)]));
    let other = done(&bench, "other_prompt=\"a dog\"").await;
    assert_eq!(other["data"]["input"]["prompt"], "a dog");
    assert!(link(&done(&bench, "relative_url").await).starts_with("/files/"));
    assert!(link(&done(&bench, "file_url").await).starts_with("file:///files/"));
}

#[tokio::test]
async fn the_legacy_schema_can_be_spoken() {
    let bench = Bench::at_once().await;
    let body = done(&bench, "legacy status=success").await;
    same_shape(&fixture("piapi_flux_get_legacy_taskinfo_success.json"), &body, "");
    assert_eq!(body["data"]["task_result"]["used_credits"], 15_000);
}

#[tokio::test]
async fn the_envelope_can_lie() {
    let bench = Bench::at_once().await;
    let post =
        async |directive: &str| bench.post(TASK, &txt2img(&format!("a cat [[sim: {directive}]]"))).await;
    let (status, body) = post("no_task_id").await;
    assert_eq!(
        (status, body["data"].get("task_id"), &body["data"]["status"]),
        (200, None, &json!("pending"))
    );
    assert_eq!(bench.last().outcome, Outcome::Completed);
    let (_, body) = post("task_id=\"../x\\ny\"").await;
    assert_eq!(body["data"]["task_id"], "../x\ny");
    let (_, body) = post("task_id_bytes=100000").await;
    assert_eq!(body["data"]["task_id"].as_str().unwrap().len(), 100_000);
    let (status, body) = post("envelope_code=10000").await;
    assert_eq!((status, &body["code"], &body["data"]), (200, &json!(10_000), &Value::Null));
    assert_eq!((bench.last().outcome, bench.last().billed_nanos), (Outcome::Rejected, Some(0)));
    let (status, body) = post("envelope_code=500 envelope_data").await;
    assert_eq!((status, &body["code"], body["data"]["task_id"].is_string()), (200, &json!(500), true));
    assert_eq!(bench.last().outcome, Outcome::Completed);
    let (_, body) = post("no_envelope").await;
    assert!(body["task_id"].is_string());
    let answer = bench.send(TASK, &txt2img("a cat [[sim: duplicate_task_id]]")).await.unwrap();
    assert_eq!(answer.text().await.unwrap().matches("\"task_id\"").count(), 2);
}

#[tokio::test]
async fn polls_fail_as_told() {
    let bench = Bench::at_once().await;
    let id = bench.task("a cat [[sim: poll_http=500,429,200]]").await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(bench.get(&format!("{TASK}/{id}")).await.0);
    }
    assert_eq!(seen, [500, 429, 200, 200]);
    let id = bench.task("a cat [[sim: poll_404]]").await;
    assert_eq!(bench.get(&format!("{TASK}/{id}")).await.0, 404);
    assert_eq!(bench.last().outcome, Outcome::Completed);

    let id = bench.task("a striped cat").await;
    let faults = Faults { status: Some(Words(vec!["retry".to_owned()])), ..Faults::default() };
    bench.simulator.add_rule(Rule { times: Some(1), ..Rule::new(Endpoint::FluxPoll, faults) });
    let html = Faults { http: Some(503), retry_after: Some(Text("soon".to_owned())), ..Faults::default() };
    bench.simulator.add_rule(Rule { times: Some(1), ..Rule::new(Endpoint::FluxPoll, html) });
    assert_eq!(bench.poll(&id).await["data"]["status"], "retry");
    let answer = bench.request(http::Method::GET, &format!("{TASK}/{id}")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "soon"));
    assert_eq!(bench.poll(&id).await["data"]["status"], "completed");
}

#[tokio::test]
async fn a_dead_link_is_replaced_by_the_next_poll() {
    let bench = Bench::at_once().await;
    let id = bench.task("a cat [[sim: file_expire=410]]").await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let link = bench.poll(&id).await["data"]["output"]["image_url"].as_str().unwrap().to_owned();
        statuses.push(bench.file(&link).await.0);
    }
    assert_eq!(statuses, [410, 200]);
}

#[tokio::test]
async fn times_told_are_taken_by_the_clock() {
    let bench = Bench::at_once().await;
    let id = bench.task("a cat [[sim: time=90]]").await;
    bench.clock.advance(Duration::from_secs(89));
    assert_eq!(bench.poll(&id).await["data"]["status"], "processing");
    bench.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.poll(&id).await["data"]["status"], "completed");
}

#[tokio::test]
async fn a_cancellation_can_fail_by_rule() {
    let bench = Bench::by_clock().await;
    let id = bench.task("a cat").await;
    bench.rule(Endpoint::FluxCancel, Faults { http: Some(405), ..Faults::default() });
    assert_eq!(bench.delete(&format!("{TASK}/{id}")).await.0, 405);
    assert_eq!(bench.poll(&id).await["data"]["status"], "pending");
}
