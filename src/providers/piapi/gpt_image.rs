//! PiAPI gpt-image-1 and its siblings: OpenAI's Images API. One synchronous call, JSON for words alone and a form where
//! images go in; the answer is a document or a stream, its pictures inline or as links. Refusals are judged by status and
//! code, never by `type` (facts: providers C).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::super::call::unknown;
use super::super::errors::On;
use super::super::gathered::Gathered;
use super::super::reader::{Answer, Images as InlineImages, Interpreter, Part as AnswerPart};
use super::super::{
    About, Account, Done, Input, Job, Kind, OpenError, Opened, Options, Pace, Part, Progress, Provider,
    ProviderError, Signal, Wire, WireBody,
};
use super::CATALOG;
use crate::domain::attempt::{Billing, Verdict};
use crate::domain::catalog::{self, Route};
use crate::domain::request::GenerateRequest;

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

    fn interpreter<'a>(&'a self, about: &'a About<'a>) -> Box<dyn Interpreter + 'a> {
        Box::new(Reading { api: self, about, gathered: Gathered::new(&about.own) })
    }
}

/// An answer as it is read.
struct Reading<'a> {
    api: &'a Images,
    about: &'a About<'a>,
    gathered: Gathered<'a>,
}

impl Interpreter for Reading<'_> {
    fn part(&mut self, part: AnswerPart, images: &InlineImages) -> Vec<Signal> {
        self.gathered.part(part, images);
        Vec::new()
    }

    fn conclude(&mut self, answer: &Answer) -> Result<Progress, ProviderError> {
        let (api, gathered) = (self.api, &self.gathered);
        if !(200..300).contains(&answer.status) {
            return Err(api.account.judge(On::Submit, answer));
        }
        let images = gathered.images();
        if images.is_empty() {
            return Err(self.without_image(answer));
        }
        let mut verdict = Verdict::new(Billing::Yes, "the answer holds a picture");
        // Where quality or size were the model's choice, the answer may say what it chose.
        let mut drawn = self.about.request.clone();
        drawn.quality = self.said("quality").or(drawn.quality);
        drawn.size = self.said("size").or(drawn.size);
        let route = api.routes.iter().find(|route| route.provider_model == self.about.provider_model);
        // More than was asked for is not charged for.
        let count = u32::try_from(images.len()).unwrap_or(1).min(self.about.request.count());
        verdict.charged = route.and_then(|route| route.price.as_ref()?.of(&drawn, count));
        let doubtful = gathered.doubtful() || answer.broken.is_some();
        Ok(Progress::Done(Done { handle: None, images, verdict, doubtful }))
    }
}

impl Reading<'_> {
    /// A success without an image: a refusal where the answer says so, else an outcome nobody knows.
    fn without_image(&self, answer: &Answer) -> ProviderError {
        let account = &self.api.account;
        if let Some(error) = &self.gathered.error {
            return account.judge_said(On::Submit, error);
        }
        if let Some(refusal) = &self.gathered.refusal {
            let verdict = Verdict::new(Billing::No, "refused, without a picture");
            return ProviderError::new(Kind::ContentRejected, verdict, account.redact(refusal));
        }
        if answer.json.is_none() {
            let mut error = account.judge(On::Submit, answer);
            let kind = if answer.whole { Kind::Garbled } else { Kind::Silent };
            (error.kind, error.verdict) = (kind, unknown("a success whose body cannot be read"));
            return error;
        }
        let why = answer.cut.as_deref().unwrap_or("the answer ended without a picture");
        let verdict = unknown("no picture came, and what the call cost is not said");
        // An answer that is whole speaks for the provider's health; a stream that ends after a preview is not whole.
        let last = answer.json.as_ref().and_then(|json| json.get("type")?.as_str());
        let whole = answer.whole && !last.is_some_and(|kind| kind.ends_with("partial_image"));
        let kind = if whole { Kind::NoImage } else { Kind::Silent };
        ProviderError::new(kind, verdict, account.redact(why))
    }

    fn said<T: serde::de::DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.gathered.about.get(name)?.clone()).ok()
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
