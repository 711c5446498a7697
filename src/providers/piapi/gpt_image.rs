//! PiAPI gpt-image-1 and its siblings: OpenAI's Images API. One synchronous call, JSON for words alone and a form where
//! images go in; the answer is a document or a stream, its pictures inline or as links. Refusals are judged by status and
//! code, never by `type` (facts: providers C).

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::super::answer::Answer;
use super::super::call::unknown;
use super::super::errors::{On, Shape};
use super::super::{
    Account, Asked, Done, Input, Job, Kind, Made, MadeSource, OpenError, Opened, Options, Pace, Part,
    Progress, Provider, ProviderError, Reply, Signal, Wire, WireBody,
};
use super::CATALOG;
use crate::domain::attempt::{Billing, Verdict};
use crate::domain::catalog::{self, Route};
use crate::domain::image::{ImageKind, decode_base64};
use crate::domain::request::GenerateRequest;

/// Pictures stand inside the answer.
const MAX_ANSWER: usize = 48 * 1024 * 1024;
const GENERATIONS: &str = "/v1/images/generations";
const EDITS: &str = "/v1/images/edits";

pub(super) fn open(account: Account, _: &Options) -> Opened {
    let routes = catalog::read(CATALOG, super::GPT_IMAGE.name).map_err(|e| OpenError(e.to_string()))?;
    Ok(Arc::new(Images { account: account.keyed_by("authorization"), routes }))
}

struct Images {
    account: Account,
    routes: Vec<Route>,
}

#[async_trait]
impl Provider for Images {
    fn account(&self) -> &Account {
        &self.account
    }

    fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn pace(&self) -> Pace {
        Pace::AT_ONCE
    }

    fn request(&self, job: &Job<'_>) -> Wire {
        if job.form == "edits" { edit(job) } else { Wire::post(GENERATIONS, generation(job)) }
    }

    async fn submit(&self, job: &Job<'_>, _: &mpsc::Sender<Signal>) -> Result<Progress, ProviderError> {
        let mut gathered = Gathered::default();
        match self.account.submit(&self.request(job), job.not_after, MAX_ANSWER).await? {
            Reply::Whole(answer) if (200..300).contains(&answer.status) => {
                let Some(json) = &answer.json else { return Err(self.broken(&answer)) };
                if let Some(error) = json.get("error").filter(|error| !error.is_null()) {
                    return Err(self.refused(error));
                }
                gathered.document(json);
            }
            Reply::Whole(answer) => return Err(self.account.judge(On::Submit, &answer)),
            Reply::Events(mut events) => {
                while let Some(event) = events.next().await {
                    let event = match event {
                        Ok(event) => event,
                        Err(cut) => {
                            gathered.cut = Some(cut);
                            break;
                        }
                    };
                    if event.data.trim() == "[DONE]" {
                        break;
                    }
                    let Ok(json) = serde_json::from_str::<Value>(&event.data) else { continue };
                    if let Some(error) = json.get("error").filter(|error| !error.is_null()) {
                        if gathered.images.is_empty() {
                            return Err(self.refused(error));
                        }
                        break;
                    }
                    gathered.event(&event.name, &json);
                }
            }
        }
        self.conclude(job, gathered)
    }

    async fn check(&self, _: &Asked<'_>) -> Result<Progress, ProviderError> {
        let why = "the Images API cannot be asked again";
        Err(ProviderError::new(Kind::Missing, unknown(why), why))
    }
}

impl Images {
    fn conclude(&self, job: &Job<'_>, gathered: Gathered) -> Result<Progress, ProviderError> {
        if gathered.images.is_empty() {
            let why = gathered.cut.as_deref().unwrap_or("the answer ended without a picture");
            let verdict = unknown("no picture came, and what the call cost is not said");
            return Err(ProviderError::new(Kind::Silent, verdict, self.account.redact(why)));
        }
        let mut verdict = Verdict::new(Billing::Yes, "the answer holds a picture");
        // Where quality or size were the model's choice, the answer may say what it chose.
        let mut drawn = job.request.clone();
        drawn.quality = gathered.said("quality").or(drawn.quality);
        drawn.size = gathered.said("size").or(drawn.size);
        let route = self.routes.iter().find(|route| route.provider_model == job.provider_model);
        let count = u32::try_from(gathered.images.len()).unwrap_or(1);
        verdict.charged = route.and_then(|route| route.price.as_ref()?.of(&drawn, count));
        let made = |source| Made { source, kind: ImageKind::Output };
        Ok(Progress::Done(Done {
            handle: None,
            images: gathered.images.into_iter().map(made).collect(),
            verdict,
        }))
    }

    fn broken(&self, answer: &Answer) -> ProviderError {
        let mut error = self.account.judge(On::Submit, answer);
        (error.kind, error.verdict) = (Kind::Garbled, unknown("a success whose body cannot be read"));
        error
    }

    /// An error object inside an answer that began well.
    fn refused(&self, error: &Value) -> ProviderError {
        let status = error.get("status").or_else(|| error.get("status_code")).and_then(Value::as_u64);
        let status =
            status.and_then(|status| u16::try_from(status).ok()).filter(|status| (400..600).contains(status));
        let json = Some(json!({"error": error}));
        let answer = Answer {
            status: status.unwrap_or(400),
            shape: Shape::Json,
            json,
            body: bytes::Bytes::new(),
            whole: true,
            retry_after: None,
        };
        self.account.judge(On::Submit, &answer)
    }
}

/// The parameters both endpoints share, in the API's names.
fn parameters(job: &Job<'_>) -> Vec<(&'static str, Value)> {
    let request: &GenerateRequest = job.request;
    let mut parameters = vec![
        ("model", json!(job.provider_model)),
        ("prompt", json!(request.prompt)),
        ("n", json!(request.count())),
    ];
    let mut set = |name, value: Option<Value>| parameters.extend(value.map(|value| (name, value)));
    set("size", request.size.map(|size| json!(size)));
    set("quality", request.quality.map(|quality| json!(quality)));
    set("background", request.background.map(|background| json!(background)));
    set("output_format", request.output.format.map(|format| json!(format)));
    for name in ["output_compression", "moderation", "input_fidelity", "stream", "partial_images"] {
        set(name, job.options.and_then(|options| options.get(name)).cloned());
    }
    parameters
}

fn generation(job: &Job<'_>) -> Value {
    let parameters = parameters(job).into_iter();
    parameters.map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>().into()
}

fn edit(job: &Job<'_>) -> Wire {
    let plain = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut parts: Vec<Part> =
        parameters(job).into_iter().map(|(name, value)| Part::text(name, plain(value))).collect();
    let images = job.inputs.images.iter().map(|image| ("image", image));
    for (name, input) in images.chain(job.inputs.mask.iter().map(|mask| ("mask", mask))) {
        // The catalogue says multipart, so inputs come as bytes.
        if let Input::Bytes { media_type, bytes } = input {
            parts.push(Part { name, file: Some(*media_type), bytes: bytes.clone() });
        }
    }
    Wire { method: http::Method::POST, path: EDITS.to_owned(), body: WireBody::Form(parts) }
}

/// What an answer has given so far.
#[derive(Default)]
struct Gathered {
    images: Vec<MadeSource>,
    /// What the answer says about itself beside the pictures.
    about: Map<String, Value>,
    cut: Option<String>,
}

impl Gathered {
    /// A whole document: `data[]` with links or inline pictures.
    fn document(&mut self, json: &Value) {
        for item in json.get("data").and_then(Value::as_array).into_iter().flatten() {
            self.picture(item);
        }
        self.note(json);
    }

    /// One event, named by its line or by its own `type`. Partial pictures are previews; what completes counts.
    fn event(&mut self, name: &str, json: &Value) {
        let name = json.get("type").and_then(Value::as_str).unwrap_or(name);
        if name.ends_with(".completed") {
            self.picture(json);
            self.note(json);
        } else if !name.ends_with(".partial_image") {
            // An answer streamed as one event, or by a relay without names.
            self.document(json);
        }
    }

    fn picture(&mut self, item: &Value) {
        let text = |name: &str| item.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let inline = text("b64_json").and_then(decode_base64).map(MadeSource::Bytes);
        let link = || text("url").map(|link| MadeSource::Url(link.to_owned()));
        self.images.extend(inline.or_else(link));
    }

    fn note(&mut self, json: &Value) {
        for name in ["quality", "size"] {
            if let Some(value) = json.get(name) {
                self.about.insert(name.to_owned(), value.clone());
            }
        }
    }

    fn said<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.about.get(name)?.clone()).ok()
    }
}
