//! imagepipeline's fixtures through its adapter, in both dialects.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::super::WireBody;
use super::super::conformance::{Canned, check, covers, same_meaning, submit, wire};

const FOLDER: &str = "src/providers/imagepipeline/fixtures";
const KIND: &str = "imagepipeline";
const ID: &str = "7c1f0a52-0000-4000-8000-000000000001";

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER).join(name)).unwrap()
}

const SUBMITTED: &[(&str, &str, u16, &str)] = &[
    ("imagepipeline_v3_submit_pending.json", "v3", 202, "pending 7c1f0a52-0000-4000-8000-000000000001"),
    (
        "imagepipeline_v3_submit_immediate_success.json",
        "v3",
        200,
        "done: 2 linked, 0 inline, 0 preprocessed; billed no $0",
    ),
    ("imagepipeline_error_detail_string.json", "v3", 401, "refused as Auth: billed no"),
    ("imagepipeline_v1_queued.json", "v1", 200, "pending job_a1b2c3"),
];

const POLLED: &[(&str, &str, &str, &str)] = &[
    ("imagepipeline_v3_status_pending.json", "v3", ID, "pending 7c1f0a52-0000-4000-8000-000000000001"),
    ("imagepipeline_v3_status_processing.json", "v3", ID, "pending 7c1f0a52-0000-4000-8000-000000000001"),
    (
        "imagepipeline_v3_status_success.json",
        "v3",
        ID,
        "done: 2 linked, 0 inline, 0 preprocessed; billed no $0",
    ),
    (
        "imagepipeline_v3_status_failure.json",
        "v3",
        ID,
        "failed as Failed: the job failed: Image generation failed; billed no $0",
    ),
    (
        "imagepipeline_v1_completed.json",
        "v1",
        "job_a1b2c3",
        "done: 1 linked, 0 inline, 0 preprocessed; billed no $0",
    ),
    (
        "imagepipeline_v1_failed_sdk_test.json",
        "v1",
        "job_001",
        "failed as Failed: the job failed: CUDA out of memory; billed no $0",
    ),
];

/// It travels the other way.
const CALLBACK: &str = "imagepipeline_v1_webhook.json";
const REQUEST: &str = "imagepipeline_v3_request.json";

#[tokio::test]
async fn every_answer_is_read() {
    let mut wrong = Vec::new();
    let mut compare = |name: &str, got: String, expected: &str| {
        println!("{name}: {got}");
        wrong.extend((got != expected).then(|| format!("{name}\n  is   {got}\n  want {expected}")));
    };
    for (name, dialect, status, expected) in SUBMITTED {
        let body = fixture(name);
        let canned = Canned::of(name, &body, *status);
        compare(
            name,
            submit(KIND, Some(dialect), dialect, r#"{"prompt":"x"}"#, &canned, usize::MAX).await,
            expected,
        );
    }
    for (name, dialect, handle, expected) in POLLED {
        let body = fixture(name);
        compare(name, check(KIND, Some(dialect), handle, "x", &Canned::of(name, &body, 200)).await, expected);
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_fixture_is_forgotten() {
    let mut all: BTreeSet<&str> = [CALLBACK, REQUEST].into();
    all.extend(SUBMITTED.iter().map(|row| row.0));
    all.extend(POLLED.iter().map(|row| row.0));
    covers(FOLDER, &all);
}

/// Equal in meaning: what the gateway always adds (`samples`, because the provider's default is two, and its own marks)
/// aside.
#[test]
fn the_documented_request_comes_of_a_generate_body() {
    let body = r#"{"prompt":"High end wildlife photography, beautiful colourful toucan sitting on a tree branch, trending on artstation","size":"1024x1024","provider_options":{"imagepipeline":{"server_id":"your-server-id"}}}"#;
    let WireBody::Json(mut sent) = wire(KIND, Some("v3"), "v3", body).body else { panic!("not JSON") };
    let fields = sent.as_object_mut().unwrap();
    assert_eq!(fields.remove("samples"), Some(1.into()));
    let marks = [fields.remove("batch_id"), fields.remove("file_prefix")];
    assert!(
        marks
            .iter()
            .all(|mark| mark.as_ref().and_then(Value::as_str).is_some_and(|mark| mark.starts_with("att_")))
    );
    let expected: Value = serde_json::from_slice(&fixture(REQUEST)).unwrap();
    assert!(same_meaning(&sent, &expected), "{sent} is not {expected}");
}

#[tokio::test]
async fn early_links_are_promises_and_reason_codes_decide() {
    let submitted = async |dialect: &str, status: u16, body: &str| {
        let canned = Canned::of("x.json", body.as_bytes(), status);
        submit(KIND, Some(dialect), dialect, r#"{"prompt":"x"}"#, &canned, usize::MAX).await
    };
    let early = r#"{"id":"a1","status":"PENDING","download_urls":["https://x.example/1.png"]}"#;
    assert_eq!(submitted("v3", 202, early).await, "pending a1");
    assert_eq!(submitted("v3", 200, r#"{"status":"PENDING"}"#).await, "refused as Garbled: billed unknown");
    assert_eq!(
        submitted("v3", 200, r#"{"status":"SUCCESS","image_url":"https://x.example/1.png"}"#).await,
        "done: 1 linked, 0 inline, 0 preprocessed; billed no $0"
    );
    assert_eq!(
        submitted("v3", 422, r#"{"detail":[{"loc":["body","width"],"msg":"too wide","type":"x"}]}"#).await,
        "refused as Invalid: billed no"
    );
    for (code, kind) in [
        ("RATE_LIMIT_EXCEEDED", "RateLimited"),
        ("CONCURRENT_JOBS_EXCEEDED", "PlanLimit"),
        ("INSUFFICIENT_CREDITS", "Quota"),
        ("INPUT_INVALID", "Invalid"),
        ("MODEL_UNAVAILABLE", "Failed"),
    ] {
        let body = format!(r#"{{"error":"x","error_code":"{code}","message":"x"}}"#);
        assert_eq!(submitted("v1", 400, &body).await, format!("refused as {kind}: billed no"), "{code}");
        let body =
            format!(r#"{{"job_id":"j1","status":"failed","error":"boom","failure_reason_code":"{code}"}}"#);
        let got = check(KIND, Some("v1"), "j1", "x", &Canned::of("x.json", body.as_bytes(), 200)).await;
        assert_eq!(got, format!("failed as {kind}: the job failed: boom; billed no $0"), "{code}");
    }
}
