//! imagepipeline: Flux Schnell on dedicated servers, paid by the hour. This file is the adapter; `wire.rs` says how the
//! API spells things.

mod wire;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::answer::Answer;
use super::call::unknown;
use super::errors::On;
use super::status::{self, Status};
use super::{
    Account, Asked, Done, Job, Kind, KindEntry, OpenError, Opened, Options, Pace, Pending, Progress,
    Provider, ProviderError, Reply, Signal, Wire,
};
use crate::domain::attempt::{Billing, Verdict};
use crate::domain::catalog::{self, Route};
use crate::domain::money::Usd;

const CATALOG: &str = include_str!("catalog.toml");
const ERRORS: &str = include_str!("errors.toml");

/// imagepipeline.
pub(super) const KIND: KindEntry = KindEntry {
    name: "imagepipeline",
    base_url: "https://api.imagepipeline.io",
    key_header: "api-key",
    in_flight: 2,
    errors: ERRORS,
    open,
};

fn open(account: Account, options: &Options) -> Opened {
    if let Some(dialect) = options.dialect.as_deref().filter(|dialect| *dialect != "v3") {
        return Err(OpenError(format!("dialect: {dialect:?} is not known; expected \"v3\"")));
    }
    let routes = catalog::read(CATALOG, KIND.name).map_err(|e| OpenError(e.to_string()))?;
    Ok(Arc::new(ImagePipeline { account, routes }))
}

struct ImagePipeline {
    account: Account,
    routes: Vec<Route>,
}

#[async_trait]
impl Provider for ImagePipeline {
    fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn pace(&self) -> Pace {
        Pace {
            poll_after: self.account.poll_after.unwrap_or(Duration::from_secs(2)),
            poll_max: self.account.poll_max.unwrap_or(Duration::from_secs(15)),
            reconcile: Duration::from_mins(10),
            cancels: false,
        }
    }

    fn request(&self, job: &Job<'_>) -> Wire {
        Wire::post(wire::SUBMIT, wire::body(job))
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

    async fn check(&self, asked: &Asked<'_>) -> Result<Progress, ProviderError> {
        let answer = self.account.ask(&Wire::get(format!("{}/{}", wire::STATUS, asked.handle))).await?;
        self.read(On::Check, &answer, Some(asked.handle))
    }
}

impl ImagePipeline {
    fn read(&self, on: On, answer: &Answer, asked: Option<&str>) -> Result<Progress, ProviderError> {
        let Some(job) = wire::Job::read(answer) else { return Err(self.account.judge(on, answer)) };
        let handle = job.handle.or_else(|| asked.map(str::to_owned));
        match status::read(&self.account.id, &job.status) {
            Status::Done if job.images.is_empty() => {
                let verdict = by_the_hour("finished without a link");
                Ok(Progress::Failed(ProviderError::new(
                    Kind::NoImage,
                    verdict,
                    "the job finished without a picture",
                )))
            }
            Status::Done => {
                Ok(Progress::Done(Done { handle, images: job.images, verdict: by_the_hour("finished") }))
            }
            Status::Failed | Status::Canceled => {
                let as_refusal = Answer { status: 400, ..answer.clone() };
                let message = job.error.unwrap_or_default();
                let mut error = self.account.judge_words(On::Check, &as_refusal, job.code, &message);
                if error.kind != Kind::ContentRejected {
                    error.kind = Kind::Failed;
                }
                error.verdict = by_the_hour("reported as failed");
                error.words.http_status = Some(answer.status);
                error.detail = format!("the job failed: {}", self.account.redact(&message));
                Ok(Progress::Failed(error))
            }
            // Links given while a job is pending are promises, not pictures.
            Status::Pending => {
                if let Some(handle) = handle {
                    Ok(Progress::Pending(Pending { handle, progress: job.progress }))
                } else {
                    let mut error = self.account.judge(on, answer);
                    (error.kind, error.verdict) =
                        (Kind::Garbled, unknown("accepted in form, but without an id"));
                    Err(error)
                }
            }
        }
    }
}

/// The server is paid by the hour, so one job more or less is not charged for.
fn by_the_hour(what: &str) -> Verdict {
    let evidence = format!("{what}; the server is paid by the hour");
    Verdict { billed: Billing::No, charged: Some(Usd::ZERO), units: None, evidence }
}
