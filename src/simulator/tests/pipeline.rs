//! imagepipeline, both APIs.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Bench, V1, V3, fixture, same_shape};
use crate::simulator::Outcome;

fn small(prompt: &str) -> Value {
    json!({"prompt": prompt, "samples": 1, "width": 64, "height": 48})
}

fn job(prompt: &str) -> Value {
    json!({"prompt": prompt, "width": 64, "height": 48})
}

async fn v3(bench: &Bench, prompt: &str) -> (u16, Value) {
    let (status, body) = bench.post(V3, &small(prompt)).await;
    assert_eq!(status, 202, "{body}");
    bench.get(&format!("{V3}/status/{}", body["id"].as_str().unwrap())).await
}

async fn v1(bench: &Bench, prompt: &str) -> (u16, Value) {
    let (status, body) = bench.post(V1, &job(prompt)).await;
    assert_eq!(status, 200, "{body}");
    bench.get(&format!("{V1}/status/{}", body["job_id"].as_str().unwrap())).await
}

#[tokio::test]
async fn v3_lives_by_the_clock_and_its_default_is_two_samples() {
    let bench = Bench::by_clock().await;
    let (status, body) = bench.post(V3, &fixture("imagepipeline_v3_request.json")).await;
    assert_eq!(status, 202);
    same_shape(&fixture("imagepipeline_v3_submit_pending.json"), &body, "");
    let last = bench.last();
    assert_eq!(last.n, 2);
    assert!(last.note.unwrap().contains("default of 2"));
    let path = format!("{V3}/status/{}", body["id"].as_str().unwrap());
    assert_eq!(bench.get(&path).await.1["status"], "PENDING");
    bench.clock.advance(Duration::from_secs(3));
    same_shape(&fixture("imagepipeline_v3_status_processing.json"), &bench.get(&path).await.1, "");
    bench.clock.advance(Duration::from_secs(10));
    let (_, done) = bench.get(&path).await;
    same_shape(&fixture("imagepipeline_v3_status_success.json"), &done, "");
    assert_eq!(done["download_urls"].as_array().unwrap().len(), 2);
    let last = bench.last();
    assert_eq!((last.outcome, last.billed_nanos, last.files.len()), (Outcome::Completed, Some(0), 2));
}

#[tokio::test]
async fn v3_links_are_named_and_can_come_early() {
    let bench = Bench::by_clock().await;
    let mut request = small("a toucan");
    request["queued_image_urls"] = json!(true);
    request["file_prefix"] = json!("bird/1");
    request["batch_id"] = json!("b-7");
    request["direct_link"] = json!(true);
    let (_, body) = bench.post(V3, &request).await;
    assert_eq!((&body["batch_id"], &body["file_prefix"]), (&json!("b-7"), &json!("bird/1")));
    let link = body["queued_image_urls"][0].as_str().unwrap().to_owned();
    assert!(link.contains("/files/bird-1-"), "{link}");
    assert_eq!(bench.file(&link).await.0, 404);
    bench.clock.advance(Duration::from_secs(10));
    assert_eq!(bench.size(&link).await, (64, 48));
    let (_, done) = bench.get(&format!("{V3}/status/{}", body["id"].as_str().unwrap())).await;
    assert_eq!(done["download_urls"], json!([link]));
    assert_eq!(bench.last().correlation.as_deref(), Some("b-7"));
}

#[tokio::test]
async fn v3_goes_wrong_as_told() {
    let bench = Bench::at_once().await;
    let (_, body) = v3(&bench, "x [[sim: fail reason=\"CUDA out of memory\"]]").await;
    same_shape(&fixture("imagepipeline_v3_status_failure.json"), &body, "");
    assert_eq!((&body["status"], &body["error"]), (&json!("FAILURE"), &json!("CUDA out of memory")));
    assert_eq!(bench.last().outcome, Outcome::Failed);
    let (_, body) = v3(&bench, "x [[sim: refuse]]").await;
    assert!(body["error"].as_str().unwrap().contains("content filter"));
    let (_, body) = v3(&bench, "x [[sim: no_image]]").await;
    assert_eq!((&body["status"], &body["download_urls"]), (&json!("SUCCESS"), &json!([])));
    let (_, body) = v3(&bench, "x [[sim: status=quantum]]").await;
    assert_eq!(body["status"], "quantum");
    assert_eq!(v3(&bench, "x [[sim: poll_http=502]]").await.0, 502);
    assert_eq!(v3(&bench, "x [[sim: poll_404]]").await.0, 404);
    let (status, body) = bench.post(V3, &small("x [[sim: at_once]]")).await;
    assert_eq!(status, 200);
    same_shape(&fixture("imagepipeline_v3_submit_immediate_success.json"), &body, "");
    let (_, body) = bench.post(V3, &small("x [[sim: no_task_id]]")).await;
    assert_eq!(body.get("id"), None);
    let mut three = small("x [[sim: missing=1 at_once]]");
    three["samples"] = json!(3);
    assert_eq!(bench.post(V3, &three).await.1["download_urls"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn v3_refuses_like_fastapi() {
    let bench = Bench::at_once().await;
    let cases = [
        (json!({}), "prompt"),
        (json!({"prompt": "x", "samples": 5}), "samples"),
        (json!({"prompt": "x", "samples": 0}), "samples"),
        (json!({"prompt": "x", "width": 1537}), "width"),
        (json!({"prompt": "x", "height": "1024"}), "height"),
        (json!({"prompt": "x", "direct_link": "yes"}), "direct_link"),
        (json!({"prompt": "x", "style": "cubist"}), "style"),
        (json!({"prompt": "x", "n": 1}), "n"),
        (json!({"prompt": "x", "mask_image": "https://x.test/m.png"}), "init_image"),
    ];
    for (request, field) in cases {
        let (status, body) = bench.post(V3, &request).await;
        assert_eq!(status, 422, "{request}");
        assert_eq!(body["detail"][0]["loc"], json!(["body", field]), "{body}");
        assert!(body["detail"][0]["msg"].is_string() && body["detail"][0]["type"].is_string());
        assert_eq!(bench.last().outcome, Outcome::Rejected);
    }
    let unknown = bench.http.post(bench.url(V3)).header("api-key", "bad-key").json(&small("x"));
    let unauthorized = super::read(unknown.send().await.unwrap()).await;
    assert_eq!(unauthorized, (401, fixture("imagepipeline_error_detail_string.json")));
    assert_eq!(bench.get(&format!("{V3}/status/nothing")).await.0, 404);
    let flux = bench.task("a cat").await;
    assert_eq!(bench.get(&format!("{V3}/status/{flux}")).await.0, 404);
}

#[tokio::test]
async fn v1_lives_by_the_clock() {
    let bench = Bench::by_clock().await;
    let (status, body) = bench.post(V1, &job("a toucan")).await;
    assert_eq!(status, 200);
    same_shape(&fixture("imagepipeline_v1_queued.json"), &body, "");
    let path = format!("{V1}/status/{}", body["job_id"].as_str().unwrap());
    assert_eq!(bench.get(&path).await.1["status"], "queued");
    bench.clock.advance(Duration::from_secs(4));
    assert_eq!(bench.get(&path).await.1["status"], "processing");
    bench.clock.advance(Duration::from_secs(6));
    let (_, done) = bench.get(&path).await;
    same_shape(&fixture("imagepipeline_v1_completed.json"), &done, "");
    let (status, kind, bytes) = bench.file(done["result_url"].as_str().unwrap()).await;
    assert_eq!((status, kind.as_str()), (200, "image/webp"));
    assert_eq!(image::guess_format(&bytes).unwrap(), image::ImageFormat::WebP);
    assert_eq!(image::load_from_memory(&bytes).unwrap().height(), 48);
}

#[tokio::test]
async fn v1_goes_wrong_and_refuses() {
    let bench = Bench::at_once().await;
    let (_, body) = v1(&bench, "x [[sim: fail=TIMEOUT reason=\"too slow\"]]").await;
    let said = (&body["status"], &body["error"], &body["failure_reason_code"], &body["retryable"]);
    assert_eq!(said, (&json!("failed"), &json!("too slow"), &json!("TIMEOUT"), &json!(true)));
    let (_, body) = v1(&bench, "x [[sim: fail=INSUFFICIENT_CREDITS]]").await;
    assert_eq!(body["retryable"], false);
    let (_, body) = v1(&bench, "x [[sim: refuse]]").await;
    assert_eq!(body["failure_reason_code"], "INPUT_INVALID");
    let (_, body) = v1(&bench, "x [[sim: no_image]]").await;
    assert_eq!((&body["status"], body.get("result_url")), (&json!("completed"), None));
    for format in ["png", "jpeg"] {
        let mut request = job("x");
        request["output_format"] = json!(format);
        let (_, body) = bench.post(V1, &request).await;
        let (_, done) = bench.get(&format!("{V1}/status/{}", body["job_id"].as_str().unwrap())).await;
        assert_eq!(done["result_mime_type"], format!("image/{format}"));
        assert_eq!(bench.file(done["result_url"].as_str().unwrap()).await.1, format!("image/{format}"));
    }
    for (field, value) in [("width", json!(1025)), ("output_format", json!("gif")), ("samples", json!(1))] {
        let mut request = job("x");
        request[field] = value;
        let (status, body) = bench.post(V1, &request).await;
        assert_eq!((status, &body["detail"][0]["loc"][1]), (422, &json!(field)), "{body}");
    }
    for (key, status, code) in [
        ("bad-key", 401, Value::Null),
        ("poor-key", 402, json!("INSUFFICIENT_CREDITS")),
        ("full-key", 429, json!("CONCURRENT_JOBS_EXCEEDED")),
    ] {
        let request = bench.http.post(bench.url(V1)).header("x-api-key", key).json(&job("x"));
        let (got, body) = super::read(request.send().await.unwrap()).await;
        assert_eq!((got, &body["error_code"]), (status, &code));
    }
}
