//! How imagepipeline's API v3 spells a job (docs: imagepipeline, Flux Schnell; its own web client).

use serde_json::{Map, Value, json};

use super::super::answer::{Answer, handle};
use super::super::{Job as Ordered, Made, MadeSource};
use crate::domain::image::ImageKind;

pub(super) const SUBMIT: &str = "/generate/v3";
pub(super) const STATUS: &str = "/generate/v3/status";

/// The body of a submission. `samples` is always said: the provider's own default is two.
pub(super) fn body(job: &Ordered<'_>) -> Value {
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
    for name in ["server_id", "direct_link"] {
        set(name, job.options.and_then(|options| options.get(name)).cloned());
    }
    body.into()
}

/// A job as the provider tells of it.
pub(super) struct Job {
    pub handle: Option<String>,
    pub status: String,
    pub images: Vec<Made>,
    pub progress: Option<f32>,
    pub error: Option<String>,
    pub code: Option<String>,
}

impl Job {
    /// Reads a job out of a 2xx answer; `None` when it is something else.
    pub fn read(answer: &Answer) -> Option<Self> {
        let json = answer.json.as_ref().filter(|_| (200..300).contains(&answer.status))?;
        let text = |name: &str| {
            json.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let listed = json
            .get("download_urls")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        let mut links: Vec<String> = Vec::new();
        for link in listed.filter(|link| !link.is_empty()) {
            if !links.iter().any(|known| known == link) {
                links.push(link.to_owned());
            }
        }
        if links.is_empty() {
            links.extend(text("image_url").or_else(|| text("output_url")));
        }
        let made = |link| Made { source: MadeSource::Url(link), kind: ImageKind::Output };
        Some(Self {
            handle: text("id").as_deref().and_then(handle),
            status: text("status")?,
            images: links.into_iter().map(made).collect(),
            progress: None,
            error: text("error").or_else(|| text("detail")).or_else(|| text("message")),
            code: text("error_code"),
        })
    }
}
