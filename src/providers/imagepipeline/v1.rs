//! API v1, the current one (docs: imagepipeline, Jobs; its Python SDK). One picture a job, a signed link that lives for a
//! day at most, and failures with a reason code.

use serde_json::{Map, Value, json};

use super::super::Job;
use super::super::answer::handle;
use super::{Dialect, Told, text};

pub(super) const DIALECT: Dialect = Dialect {
    catalog: "imagepipeline.v1",
    key_header: "x-api-key",
    submit: "/generate/image/v1",
    status: "/generate/image/v1/status",
    body,
    read,
};

fn body(job: &Job<'_>) -> Value {
    let request = job.request;
    let mut body = Map::new();
    body.insert("prompt".into(), json!(request.prompt));
    let mut set = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    set("width", request.size.map(|size| json!(size.width)));
    set("height", request.size.map(|size| json!(size.height)));
    set("steps", request.steps.map(|steps| json!(steps)));
    set("guidance", request.guidance_scale.map(|scale| json!(scale)));
    set("seed", request.seed.map(|seed| json!(seed)));
    set("output_format", request.output.format.map(|format| json!(format)));
    set("callback_url", job.callback.map(|callback| json!(callback.url)));
    for name in ["enhance_prompt", "profile_id"] {
        set(name, job.options.and_then(|options| options.get(name)).cloned());
    }
    body.into()
}

fn read(json: &Value) -> Option<Told> {
    #[expect(clippy::cast_possible_truncation, reason = "a fraction for display")]
    let progress =
        json.get("progress").and_then(Value::as_f64).map(|percent| (percent / 100.0).clamp(0.0, 1.0) as f32);
    let error = text(json, "error").or_else(|| text(json, "message")).or_else(|| text(json, "detail"));
    Some(Told {
        handle: text(json, "job_id").as_deref().and_then(handle),
        status: text(json, "status")?,
        links: text(json, "result_url").into_iter().collect(),
        progress,
        code: text(json, "failure_reason_code").or_else(|| text(json, "error_code")),
        error: error.unwrap_or_default(),
    })
}
