//! Floor 2: translation to and from upstreams. An adapter turns a [`Job`] into the provider's request and the provider's
//! answer into [`Progress`] or a [`ProviderError`]; it retries nothing, stores nothing, chooses nothing.
//!
//! One provider = one folder, its `mod` line, and its row in [`KINDS`].

pub mod call;
#[cfg(test)]
mod conformance;
mod errors;
mod gathered;
mod head;
mod imagepipeline;
mod inputs;
mod kind;
pub mod links;
mod outcome;
mod own;
pub mod piapi;
pub mod reader;
mod result_keys;
mod results;
#[cfg(test)]
mod rules;
#[cfg(test)]
mod scripted;
mod status;
mod value;
mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

pub use call::{Account, Shown};
pub use errors::{On, Row, Rows};
pub use inputs::{Input, Inputs};
pub use kind::{Follow, Kind};
pub use outcome::{Answered, Done, GeneratedImage, ImageSource, Pending, Progress, ProviderError, Signal};
pub use own::{Own, sent};
pub use reader::{InlineImage, Interpreter};
pub use wire::{Part, Wire, WireBody};

use crate::domain::attempt::Billing;
use crate::domain::catalog::Route;
use crate::domain::id::AttemptId;
use crate::domain::request::GenerateRequest;
use crate::spool::Evidence;

/// An adapter kind: what a `[providers.*]` block names as `kind`.
pub struct KindEntry {
    /// Its name.
    pub name: &'static str,
    /// The address taken when the block names none.
    pub base_url: &'static str,
    /// How many tasks may be at the provider at once when the block does not say.
    pub in_flight: u32,
    /// Its `errors.toml`.
    pub errors: &'static str,
    /// Makes the adapter for one configured account.
    pub open: fn(Account, &Options) -> Opened,
}

/// An adapter for one account, or why the account cannot be opened.
pub type Opened = Result<Arc<dyn Provider>, OpenError>;

/// Every adapter kind.
pub static KINDS: &[KindEntry] = &[
    piapi::FLUX,
    piapi::GPT_4O_IMAGE,
    piapi::GPT_IMAGE,
    imagepipeline::KIND,
    #[cfg(test)]
    scripted::KIND,
];

/// Settings only some kinds know.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which of an API's generations to speak.
    pub dialect: Option<String>,
}

/// An account that cannot be opened as configured.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OpenError(pub String);

/// One configured account at one upstream.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The account it speaks for.
    fn account(&self) -> &Account;

    /// What it offers.
    fn routes(&self) -> &[Route];

    /// How it is spoken to in time.
    fn pace(&self) -> Pace;

    /// The upstream request for a job: what `submit` sends and a dry run shows. Holds no key.
    fn request(&self, job: &Job<'_>) -> Wire;

    /// The question how a job stands; `None` where nothing can be asked once the answer is over.
    fn poll(&self, _handle: &str) -> Option<Wire> {
        None
    }

    /// Interprets an answer: to a submission, to a poll, or to one of them that was kept.
    fn interpreter<'a>(&'a self, about: &'a About<'a>) -> Box<dyn Interpreter + 'a>;

    /// Makes the one paid call. `signals` carries what is known before the answer is complete.
    async fn submit(&self, job: &Job<'_>, signals: &mpsc::Sender<Signal>) -> Answered {
        let about = About::submission(job);
        let name = job.attempt.to_string();
        let mut interpreter = self.interpreter(&about);
        let wire = self.request(job);
        let answered = self.account().buy(&wire, job.not_after, &name, interpreter.as_mut(), signals).await;
        self.look_twice(&about, answered).await
    }

    /// Asks what became of a submission; free of charge.
    async fn check(&self, asked: &Asked<'_>) -> Answered {
        let Some(wire) = self.poll(asked.handle) else {
            let why = "this provider cannot be asked again";
            let error = ProviderError::new(Kind::Missing, call::unknown(why), why);
            return Answered::without_evidence(Err(error));
        };
        let about = About::poll(asked);
        let mut interpreter = self.interpreter(&about);
        let answered = self.account().ask(&wire, interpreter.as_mut()).await;
        self.look_twice(&about, answered).await
    }

    /// Interprets an answer that was kept.
    async fn read_again(&self, about: &About<'_>, evidence: &Evidence) -> Result<Progress, ProviderError> {
        let mut interpreter = self.interpreter(about);
        let outcome = self.account().read_again(evidence, interpreter.as_mut(), false).await;
        self.look_twice(about, Answered { outcome, evidence: Some(evidence.clone()) }).await.outcome
    }

    /// An answer that gave no image and may have been paid for is read once more with what relays do to answers undone.
    async fn look_twice(&self, about: &About<'_>, answered: Answered) -> Answered {
        let paid = match &answered.outcome {
            Ok(Progress::Failed(error)) | Err(error) => error.verdict.billed != Billing::No,
            Ok(Progress::Done(_) | Progress::Pending(_)) => false,
        };
        let Some(evidence) = answered.evidence.as_ref().filter(|kept| paid && !kept.body.is_empty()) else {
            return answered;
        };
        let mut interpreter = self.interpreter(about);
        match self.account().read_again(evidence, interpreter.as_mut(), true).await {
            Ok(Progress::Done(done)) => Answered { outcome: Ok(Progress::Done(done)), ..answered },
            _ => answered,
        }
    }

    /// The header in which a callback repeats the attempt's secret, where the provider can do that.
    fn secret_header(&self) -> Option<&'static str> {
        None
    }

    /// The job a callback's body names. A hint: it counts for nothing until [`Provider::check`] confirms it.
    fn named(&self, _body: &Value) -> Option<String> {
        None
    }

    /// Asks the provider to stop; whether it agreed. By default it cannot.
    async fn cancel(&self, _handle: &str) -> Result<bool, ProviderError> {
        Ok(false)
    }
}

/// How a provider is spoken to in time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// From acceptance to the first poll.
    pub poll_after: Duration,
    /// The longest time between polls.
    pub poll_max: Duration,
    /// How long a submission of unknown outcome may yet turn up by a callback; zero when nothing can turn up.
    pub reconcile: Duration,
    /// Whether it can be asked to stop.
    pub cancels: bool,
    /// Whether it is paid by the hour: one call more or less is not charged for, only slow.
    pub by_the_hour: bool,
}

impl Pace {
    /// Of a provider whose answer holds the picture: nothing is left to ask.
    pub const AT_ONCE: Self = Self {
        poll_after: Duration::ZERO,
        poll_max: Duration::ZERO,
        reconcile: Duration::ZERO,
        cancels: false,
        by_the_hour: false,
    };
}

/// One submission, in the house's words.
pub struct Job<'a> {
    /// The attempt it is made for; planted upstream where there is room for it.
    pub attempt: AttemptId,
    /// The request as the route honours it.
    pub request: &'a GenerateRequest,
    /// The model's name at the provider.
    pub provider_model: &'a str,
    /// The offer's form: a task type, an endpoint.
    pub form: &'a str,
    /// Options of this provider alone.
    pub options: Option<&'a Map<String, Value>>,
    /// The request's input images in the order of [`GenerateRequest::inputs`], as this route takes them.
    pub inputs: &'a Inputs,
    /// Where the provider can ring, when it can.
    pub callback: Option<&'a Callback>,
    /// Past this moment the call is not begun: the right to make it may have passed to another worker.
    pub not_after: Instant,
}

/// A job as it is asked about.
pub struct Asked<'a> {
    /// The provider's id for it.
    pub handle: &'a str,
    /// The request it was made from.
    pub request: &'a GenerateRequest,
    /// The model's name at the provider.
    pub provider_model: &'a str,
    /// Its inputs as they were sent, see [`sent`].
    pub sent: &'a [String],
    /// For a job that only a callback named: the address planted with ours. One that shows another is somebody else's.
    pub callback: Option<&'a str>,
}

/// What an answer is about.
pub struct About<'a> {
    /// Which call it answers.
    pub on: On,
    /// The request the job was made from.
    pub request: &'a GenerateRequest,
    /// The model's name at the provider.
    pub provider_model: &'a str,
    /// The provider's id for the job, when it was asked by it.
    pub handle: Option<&'a str>,
    /// See [`Asked::callback`].
    pub callback: Option<&'a str>,
    /// What the answer may echo.
    pub own: Own,
}

impl<'a> About<'a> {
    fn submission(job: &'a Job<'_>) -> Self {
        let callback = job.callback.map(|callback| callback.url.clone());
        let sent: Vec<String> = sent(job.inputs).into_iter().chain(callback).collect();
        Self {
            on: On::Submit,
            request: job.request,
            provider_model: job.provider_model,
            handle: None,
            callback: None,
            own: Own::of(job.request).with(&sent),
        }
    }

    fn poll(asked: &'a Asked<'_>) -> Self {
        Self {
            on: On::Check,
            handle: Some(asked.handle),
            callback: asked.callback,
            ..Self::kept(asked.request, asked.provider_model, asked.sent)
        }
    }

    /// An answer to a submission that was kept.
    pub fn kept(request: &'a GenerateRequest, provider_model: &'a str, sent: &[String]) -> Self {
        let own = Own::of(request).with(sent);
        Self { on: On::Submit, request, provider_model, handle: None, callback: None, own }
    }
}

/// Where a provider can ring.
#[derive(Debug, Clone)]
pub struct Callback {
    /// The attempt's own address.
    pub url: String,
    /// A secret the provider repeats in a header, where it can.
    pub secret: String,
}
