//! API v3, as given (docs: imagepipeline, Flux Schnell; its own web client).

use serde_json::{Map, Value, json};

use super::super::Job;
use super::super::value::job_id;
use super::{Dialect, Told, text};

pub(super) const DIALECT: Dialect = Dialect {
    catalog: "imagepipeline",
    key_header: "api-key",
    submit: "/generate/v3",
    status: "/generate/v3/status",
    body,
    read,
};

/// The body of a submission. `samples` is always said: the provider's own default is two.
fn body(job: &Job<'_>) -> Value {
    let request = job.request;
    let attempt = job.attempt.to_string();
    let mut body = Map::new();
    body.insert("prompt".into(), json!(request.prompt));
    body.insert("samples".into(), json!(request.count()));
    // Planted, so that what turns up there can be told to be ours.
    body.insert("batch_id".into(), json!(attempt));
    body.insert("file_prefix".into(), json!(attempt));
    let mut set = |name: &str, value: Option<Value>| value.map(|value| body.insert(name.to_owned(), value));
    set("negative_prompt", request.negative_prompt.as_ref().map(|text| json!(text)));
    set("num_inference_steps", request.steps.map(|steps| json!(steps)));
    set("width", request.size.map(|size| json!(size.width)));
    set("height", request.size.map(|size| json!(size.height)));
    set("seed", request.seed.map(|seed| json!(seed)));
    set("webhook", job.callback.map(|callback| json!(callback.url)));
    for name in ["server_id", "direct_link", "queued_image_urls"] {
        set(name, job.options.and_then(|options| options.get(name)).cloned());
    }
    body.into()
}

fn read(json: &Value) -> Told {
    let error = text(json, "error").or_else(|| text(json, "detail")).or_else(|| text(json, "message"));
    Told {
        handle: json.get("id").and_then(job_id),
        status: text(json, "status"),
        progress: None,
        code: None,
        error: error.unwrap_or_default(),
    }
}
