//! The smallest provider there can be, compiled for tests alone: what a new one looks like. Its imaginary API takes
//! `POST /draw {"words", "count"}`, answers with a ticket, and tells at `GET /draw/{ticket}` what became of it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::reader::{Answer, Images, Interpreter, Part};
use super::results;
use super::status::{self, Status};
use super::value::job_id;
use super::{
    About, Account, Done, GeneratedImage, ImageSource, Job, Kind, KindEntry, OpenError, Opened, Options,
    Pace, Pending, Progress, Provider, ProviderError, Signal, Wire,
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

    fn poll(&self, handle: &str) -> Option<Wire> {
        Some(Wire::get(format!("/draw/{handle}")))
    }

    fn interpreter<'a>(&'a self, about: &'a About<'a>) -> Box<dyn Interpreter + 'a> {
        Box::new(Reading { api: self, about, told: Value::Null, images: Vec::new() })
    }
}

struct Reading<'a> {
    api: &'a Scripted,
    about: &'a About<'a>,
    told: Value,
    images: Vec<ImageSource>,
}

impl Interpreter for Reading<'_> {
    fn part(&mut self, part: Part, images: &Images) -> Vec<Signal> {
        self.told = part.json.unwrap_or_default();
        self.images = results::find(&self.told, images, &self.about.own).images;
        Vec::new()
    }

    fn conclude(&mut self, answer: &Answer) -> Result<Progress, ProviderError> {
        let account = &self.api.account;
        if answer.status != 200 {
            return Err(account.judge(self.about.on, answer));
        }
        let handle = self.told.get("ticket").and_then(job_id);
        let word = self.told.get("state").and_then(Value::as_str).unwrap_or_default();
        let verdict = Verdict::new(Billing::Yes, "drawn");
        match (status::read(&account.id, word), handle) {
            (Status::Done, _) if self.images.is_empty() => {
                Ok(Progress::Failed(ProviderError::new(Kind::NoImage, verdict, "no link")))
            }
            (Status::Done, handle) => {
                let image = |source| GeneratedImage { source, kind: ImageKind::Output };
                let images = self.images.drain(..).map(image).collect();
                Ok(Progress::Done(Done { handle, images, verdict, doubtful: false }))
            }
            (Status::Pending, Some(handle)) => Ok(Progress::Pending(Pending { handle, progress: None })),
            _ => Err(account.judge(self.about.on, answer)),
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
