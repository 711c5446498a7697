//! imagepipeline: Flux Schnell on dedicated servers, paid by the hour. This file is the adapter; `v3.rs` and `v1.rs` say
//! how the two generations of the API spell things.

#[cfg(test)]
mod tests;
mod v1;
mod v3;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::mpsc;

use super::answer::Answer;
use super::call::unknown;
use super::errors::On;
use super::status::{self, Status};
use super::{
    Account, Asked, Done, Job, Kind, KindEntry, Made, MadeSource, OpenError, Opened, Options, Pace, Pending,
    Progress, Provider, ProviderError, Reply, Signal, Wire,
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
    read: fn(&Value) -> Option<Told>,
}

/// A job as the provider tells of it.
struct Told {
    handle: Option<String>,
    status: String,
    links: Vec<String>,
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

#[async_trait]
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

    async fn submit(&self, job: &Job<'_>, _: &mpsc::Sender<Signal>) -> Result<Progress, ProviderError> {
        match self.account.submit(&self.request(job), job.not_after, 0).await? {
            Reply::Whole(answer) => self.read(On::Submit, &answer, None),
            Reply::Events(_) => {
                let detail = "answered with a stream";
                Err(ProviderError::new(Kind::Garbled, unknown("a stream where a job was expected"), detail))
            }
        }
    }

    fn named(&self, body: &Value) -> Option<String> {
        (self.dialect.read)(body)?.handle
    }

    async fn check(&self, asked: &Asked<'_>) -> Result<Progress, ProviderError> {
        let answer =
            self.account.ask(&Wire::get(format!("{}/{}", self.dialect.status, asked.handle))).await?;
        self.read(On::Check, &answer, Some(asked.handle))
    }
}

impl ImagePipeline {
    fn read(&self, on: On, answer: &Answer, asked: Option<&str>) -> Result<Progress, ProviderError> {
        let success = (200..300).contains(&answer.status);
        let told = answer.json.as_ref().filter(|_| success).and_then(self.dialect.read);
        let Some(told) = told else { return Err(self.account.judge(on, answer)) };
        let handle = told.handle.clone().or_else(|| asked.map(str::to_owned));
        match status::read(&self.account.id, &told.status) {
            Status::Done if told.links.is_empty() => {
                let verdict = by_the_hour("finished without a link");
                let detail = "the job finished without a picture";
                Ok(Progress::Failed(ProviderError::new(Kind::NoImage, verdict, detail)))
            }
            Status::Done => {
                let made = |link| Made { source: MadeSource::Url(link), kind: ImageKind::Output };
                let images = told.links.into_iter().map(made).collect();
                Ok(Progress::Done(Done { handle, images, verdict: by_the_hour("finished") }))
            }
            Status::Failed | Status::Canceled => Ok(Progress::Failed(self.failed(answer, told))),
            // Links given while a job is pending are promises, not pictures.
            Status::Pending => {
                if let Some(handle) = handle {
                    return Ok(Progress::Pending(Pending { handle, progress: told.progress }));
                }
                let mut error = self.account.judge(on, answer);
                (error.kind, error.verdict) = (Kind::Garbled, unknown("accepted in form, but without an id"));
                Err(error)
            }
        }
    }

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

/// The server is paid by the hour, so one job more or less is not charged for.
fn by_the_hour(what: &str) -> Verdict {
    let evidence = format!("{what}; the server is paid by the hour");
    Verdict { billed: Billing::No, charged: Some(Usd::ZERO), units: None, evidence }
}

/// A text field that is not empty.
fn text(json: &Value, name: &str) -> Option<String> {
    json.get(name).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
}
