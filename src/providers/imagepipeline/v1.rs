//! API v1, the current one (docs: imagepipeline, Jobs; its Python SDK). One picture a job, a signed link that lives for a
//! day at most, and failures with a reason code.

use serde_json::{Map, Value, json};

use super::super::Job;
use super::super::value::{job_id, percent};
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

fn read(json: &Value) -> Told {
    let progress = json.get("progress").and_then(percent);
    let error = text(json, "error").or_else(|| text(json, "message")).or_else(|| text(json, "detail"));
    Told {
        handle: json.get("job_id").and_then(job_id),
        status: text(json, "status"),
        progress,
        code: text(json, "failure_reason_code").or_else(|| text(json, "error_code")),
        error: error.unwrap_or_default(),
    }
}
