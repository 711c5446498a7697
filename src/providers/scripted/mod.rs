//! The smallest provider there can be, compiled for tests alone: what a new one looks like. Its imaginary API takes
//! `POST /draw {"words", "count"}`, answers with a ticket, and tells at `GET /draw/{ticket}` what became of it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::answer::{Answer, handle};
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

const CATALOG: &str = include_str!("catalog.toml");
const ERRORS: &str = include_str!("errors.toml");

/// The row in `KINDS`.
pub(super) const KIND: KindEntry =
    KindEntry { name: "scripted", base_url: "http://127.0.0.1:9", in_flight: 1, errors: ERRORS, open };

fn open(account: Account, _: &Options) -> Opened {
    let routes = catalog::read(CATALOG, KIND.name).map_err(|e| OpenError(e.to_string()))?;
    Ok(Arc::new(Scripted { account: account.keyed_by("x-key"), routes }))
}

struct Scripted {
    account: Account,
    routes: Vec<Route>,
}

#[async_trait]
impl Provider for Scripted {
    fn account(&self) -> &Account {
        &self.account
    }

    fn routes(&self) -> &[Route] {
        &self.routes
    }

    fn pace(&self) -> Pace {
        let (poll_after, poll_max) = (Duration::from_secs(1), Duration::from_secs(10));
        Pace { poll_after, poll_max, reconcile: Duration::ZERO, cancels: false, by_the_hour: false }
    }

    fn request(&self, job: &Job<'_>) -> Wire {
        Wire::post("/draw", json!({"words": job.request.prompt, "count": job.request.count()}))
    }

    async fn submit(&self, job: &Job<'_>, _: &mpsc::Sender<Signal>) -> Result<Progress, ProviderError> {
        match self.account.submit(&self.request(job), job.not_after, 0).await? {
            Reply::Whole(answer) => self.read(On::Submit, &answer),
            Reply::Events(_) => {
                Err(ProviderError::new(Kind::Garbled, unknown("a stream"), "answered with a stream"))
            }
        }
    }

    async fn check(&self, asked: &Asked<'_>) -> Result<Progress, ProviderError> {
        let answer = self.account.ask(&Wire::get(format!("/draw/{}", asked.handle))).await?;
        self.read(On::Check, &answer)
    }
}

impl Scripted {
    fn read(&self, on: On, answer: &Answer) -> Result<Progress, ProviderError> {
        let told = answer.json.as_ref().filter(|_| answer.status == 200);
        let text = |name: &str| told.and_then(|json| json.get(name)).and_then(Value::as_str);
        let ticket = text("ticket").and_then(handle);
        let verdict = Verdict::new(Billing::Yes, "drawn");
        match (status::read(&self.account.id, text("state").unwrap_or_default()), ticket, text("link")) {
            (Status::Done, handle, Some(link)) => {
                let made = Made { source: MadeSource::Url(link.to_owned()), kind: ImageKind::Output };
                Ok(Progress::Done(Done { handle, images: vec![made], verdict }))
            }
            (Status::Done, _, None) => {
                Ok(Progress::Failed(ProviderError::new(Kind::NoImage, verdict, "no link")))
            }
            (Status::Pending, Some(handle), _) => Ok(Progress::Pending(Pending { handle, progress: None })),
            _ => Err(self.account.judge(on, answer)),
        }
    }
}

#[tokio::test]
async fn a_new_provider_is_put_through_the_same_checks() {
    use super::conformance::{Canned, check, submit, wire};
    let answer = async |status: u16, body: &str| {
        let canned = Canned::of("x.json", body.as_bytes(), status);
        submit("scripted", None, "draw", r#"{"prompt":"a cat"}"#, &canned, 3).await
    };
    assert_eq!(answer(200, r#"{"ticket":"t1","state":"queued"}"#).await, "pending t1");
    assert_eq!(answer(418, r#"{"error":"no more tea"}"#).await, "refused as Overloaded: billed no");
    assert_eq!(answer(500, "oops").await, "refused as Silent: billed unknown");
    let done = r#"{"ticket":"t1","state":"done","link":"https://x.example/1.png"}"#;
    let canned = Canned::of("x.json", done.as_bytes(), 200);
    assert_eq!(check("scripted", None, "t1", "x", &canned).await, "pending t1", "a word nobody has seen");
    let done = done.replace("\"done\"", "\"success\"");
    let canned = Canned::of("x.json", done.as_bytes(), 200);
    assert_eq!(
        check("scripted", None, "t1", "x", &canned).await,
        "done: 1 linked, 0 inline, 0 preprocessed; billed yes"
    );
    assert_eq!(
        wire("scripted", None, "draw", r#"{"prompt":"a cat","n":2}"#).shown(),
        json!({"words": "a cat", "count": 2})
    );
}
