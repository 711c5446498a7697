//! imagepipeline: Flux Schnell on dedicated servers, paid by the hour. This file is the adapter; `v3.rs` and `v1.rs` say
//! how the two generations of the API spell things.

#[cfg(test)]
mod tests;
mod v1;
mod v3;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::call::unknown;
use super::errors::On;
use super::own::same_words;
use super::reader::{Answer, Images, Interpreter, Part};
use super::results::{self, Found};
use super::status::{self, Status};
use super::{
    About, Account, Done, GeneratedImage, Job, Kind, KindEntry, OpenError, Opened, Options, Pace, Pending,
    Progress, Provider, ProviderError, Signal, Wire,
};
use crate::domain::attempt::{Billing, Verdict};
use crate::domain::catalog::{self, Route};
use crate::domain::image::ImageKind;
use crate::domain::money::Usd;

const CATALOG: &str = include_str!("catalog.toml");
const ERRORS: &str = include_str!("errors.toml");

/// imagepipeline.
pub(super) const KIND: KindEntry = KindEntry {
    name: "imagepipeline",
    base_url: "https://api.imagepipeline.io",
    in_flight: 2,
    errors: ERRORS,
    open,
};

/// One generation of the API.
struct Dialect {
    /// The kind its routes are listed under.
    catalog: &'static str,
    key_header: &'static str,
    submit: &'static str,
    status: &'static str,
    body: fn(&Job<'_>) -> Value,
    read: fn(&Value) -> Told,
}

/// A job as the provider tells of it.
struct Told {
    handle: Option<String>,
    /// Its status word; `None` when the answer was cut before it.
    status: Option<String>,
    progress: Option<f32>,
    code: Option<String>,
    error: String,
}

fn open(account: Account, options: &Options) -> Opened {
    let dialect = match options.dialect.as_deref() {
        None | Some("v3") => &v3::DIALECT,
        Some("v1") => &v1::DIALECT,
        Some(other) => {
            return Err(OpenError(format!("dialect: {other:?} is not known; expected \"v3\" or \"v1\"")));
        }
    };
    let routes = catalog::read(CATALOG, dialect.catalog).map_err(|e| OpenError(e.to_string()))?;
    Ok(Arc::new(ImagePipeline { account: account.keyed_by(dialect.key_header), routes, dialect }))
}

struct ImagePipeline {
    account: Account,
    routes: Vec<Route>,
    dialect: &'static Dialect,
}

impl Provider for ImagePipeline {
    fn account(&self) -> &Account {
        &self.account
    }

    fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn pace(&self) -> Pace {
        Pace {
            poll_after: self.account.poll_after.unwrap_or(Duration::from_secs(2)),
            poll_max: self.account.poll_max.unwrap_or(Duration::from_secs(15)),
            reconcile: self.account.reconcile.unwrap_or(Duration::from_mins(10)),
            cancels: false,
            by_the_hour: true,
        }
    }

    fn request(&self, job: &Job<'_>) -> Wire {
        Wire::post(self.dialect.submit, (self.dialect.body)(job))
    }

    fn poll(&self, handle: &str) -> Option<Wire> {
        Some(Wire::get(format!("{}/{handle}", self.dialect.status)))
    }

    fn interpreter<'a>(&'a self, about: &'a About<'a>) -> Box<dyn Interpreter + 'a> {
        Box::new(Reading { api: self, about, told: None, found: Found::default(), foreign: false })
    }

    fn named(&self, body: &Value) -> Option<String> {
        (self.dialect.read)(body).handle
    }
}

/// An answer as it is read: a job, whole or in the last of several events.
struct Reading<'a> {
    api: &'a ImagePipeline,
    about: &'a About<'a>,
    told: Option<Told>,
    found: Found,
    /// Whether it is somebody else's job.
    foreign: bool,
}

impl Interpreter for Reading<'_> {
    fn part(&mut self, part: Part, images: &Images) -> Vec<Signal> {
        if let Some(json) = part.json {
            let told = (self.api.dialect.read)(&json);
            // What follows an answer without naming a job is no news of it.
            if told.handle.is_some() || self.told.is_none() {
                self.told = Some(told);
                self.foreign = !is_ours(self.about, &json);
                self.found = results::find(&json, images, &self.about.own);
            }
        }
        Vec::new()
    }

    fn conclude(&mut self, answer: &Answer) -> Result<Progress, ProviderError> {
        let (api, on) = (self.api, self.about.on);
        let success = (200..300).contains(&answer.status);
        let told = self.told.take().filter(|_| success);
        let Some(told) = told else { return Err(api.account.judge(on, answer)) };
        if self.foreign {
            let verdict = by_the_hour("the job shows another callback, batch or prompt");
            let detail = "the job that a callback named was made for somebody else";
            return Ok(Progress::Failed(ProviderError::new(Kind::Contract, verdict, detail)));
        }
        let handle = told.handle.clone().or_else(|| self.about.handle.map(str::to_owned));
        let images = std::mem::take(&mut self.found.images);
        let status = match &told.status {
            Some(status) => status::read(&api.account.id, status),
            // Cut behind the images, before the word.
            None if !answer.whole && !images.is_empty() => Status::Done,
            None => return Err(api.account.judge(on, answer)),
        };
        match status {
            Status::Done if images.is_empty() => {
                let verdict = by_the_hour("finished without a link");
                let error = ProviderError::new(Kind::NoImage, verdict, "the job finished without a picture");
                Ok(Progress::Failed(ProviderError { job_id: handle, ..error }))
            }
            Status::Done => {
                let image = |source| GeneratedImage { source, kind: ImageKind::Output };
                let images = images.into_iter().map(image).collect();
                let doubtful = self.found.doubtful || answer.broken.is_some();
                Ok(Progress::Done(Done { handle, images, verdict: by_the_hour("finished"), doubtful }))
            }
            Status::Failed | Status::Canceled => {
                Ok(Progress::Failed(ProviderError { job_id: handle, ..api.failed(answer, told) }))
            }
            // Links given while a job is pending are promises, not images.
            Status::Pending => {
                if let Some(handle) = handle {
                    return Ok(Progress::Pending(Pending { handle, progress: told.progress }));
                }
                let mut error = api.account.judge(on, answer);
                (error.kind, error.verdict) = (Kind::Garbled, unknown("accepted in form, but without an id"));
                Err(error)
            }
        }
    }
}

impl ImagePipeline {
    fn failed(&self, answer: &Answer, told: Told) -> ProviderError {
        // Judged by its words alone; without telling words it simply failed.
        let as_refusal = Answer { status: 400, ..answer.clone() };
        let mut error = self.account.judge_words(On::Check, &as_refusal, told.code, &told.error);
        if error.kind == Kind::Invalid && error.words.code.is_none() {
            error.kind = Kind::Failed;
        }
        error.verdict = by_the_hour("reported as failed");
        error.words.http_status = Some(answer.status);
        error.detail = format!("the job failed: {}", self.account.redact(&told.error));
        error
    }
}

/// Whether a job that only a callback named shows nothing that was not ours to send.
fn is_ours(about: &About<'_>, job: &Value) -> bool {
    let Some(planted) = about.callback else { return true };
    let echo = |name: &str| {
        let echo = ["", "/input", "/params", "/payload"];
        echo.iter()
            .find_map(|at| job.pointer(&format!("{at}/{name}"))?.as_str())
            .filter(|text| !text.is_empty())
    };
    ["webhook", "callback_url"].iter().all(|name| echo(name).is_none_or(|address| address == planted))
        && echo("prompt").is_none_or(|prompt| same_words(prompt, &about.request.prompt))
}

/// The server is paid by the hour, so one job more or less is not charged for.
fn by_the_hour(what: &str) -> Verdict {
    let evidence = format!("{what}; the server is paid by the hour");
    Verdict { billed: Billing::No, charged: Some(Usd::ZERO), units: None, evidence }
}

/// A text field that is not empty.
fn text(json: &Value, name: &str) -> Option<String> {
    json.get(name).and_then(super::value::text)
}
