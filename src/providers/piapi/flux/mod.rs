//! PiAPI Flux: `POST /api/v1/task` makes a task, `GET /api/v1/task/{id}` tells how it stands. A failed task answers
//! HTTP 200 with code 200; only its status word decides.

mod request;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::CATALOG;
use crate::domain::attempt::{Billing, ProviderUnits, Verdict};
use crate::domain::catalog::{self, Route};
use crate::domain::image::ImageKind;
use crate::domain::money::Usd;
use crate::providers::call::unknown;
use crate::providers::errors::On;
use crate::providers::own::same_words;
use crate::providers::reader::{Answer, Images, Interpreter, Part};
use crate::providers::results::{self, Found};
use crate::providers::status::{self, Status};
use crate::providers::value::{integer, job_id, percent, word};
use crate::providers::{
    About, Account, Done, GeneratedImage, Job, Kind, OpenError, Opened, Options, Pace, Pending, Progress,
    Provider, ProviderError, Signal, Wire,
};

const TASKS: &str = "/api/v1/task";
/// `meta.usage.consume`: 10,000,000 units are one dollar (20,000 for schnell at $0.002, 200,000 for kontext at $0.02).
const NANOS_PER_UNIT: i64 = 100;
/// What the log of a failed task says when nothing was charged.
const RESTORED: &str = "restored frozen points";

pub(super) fn open(account: Account, _: &Options) -> Opened {
    let routes = catalog::read(CATALOG, super::FLUX.name).map_err(|e| OpenError(e.to_string()))?;
    Ok(Arc::new(Flux { account: account.keyed_by("x-api-key"), routes }))
}

struct Flux {
    account: Account,
    routes: Vec<Route>,
}

#[async_trait]
impl Provider for Flux {
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
            reconcile: self.account.reconcile.unwrap_or(Duration::from_mins(15)),
            cancels: true,
            by_the_hour: false,
        }
    }

    fn request(&self, job: &Job<'_>) -> Wire {
        Wire::post(TASKS, request::task(job))
    }

    fn poll(&self, handle: &str) -> Option<Wire> {
        Some(Wire::get(format!("{TASKS}/{handle}")))
    }

    fn interpreter<'a>(&'a self, about: &'a About<'a>) -> Box<dyn Interpreter + 'a> {
        Box::new(Reading { flux: self, about, told: None, found: Found::default() })
    }

    fn secret_header(&self) -> Option<&'static str> {
        Some("x-webhook-secret")
    }

    fn named(&self, body: &Value) -> Option<String> {
        let data = body.get("data").filter(|data| data.is_object()).unwrap_or(body);
        data.get("task_id").and_then(job_id)
    }

    async fn cancel(&self, handle: &str) -> Result<bool, ProviderError> {
        // Documented for other models of PiAPI and for pending tasks only: any other answer means no.
        let wire = Wire { method: http::Method::DELETE, ..Wire::get(format!("{TASKS}/{handle}")) };
        let answer = self.account.ask_plainly(&wire).await?;
        Ok((200..300).contains(&answer.status) && envelope_code(&answer).is_none_or(|code| code == 200))
    }
}

impl Flux {
    /// A submission answered without a task.
    fn refusal(&self, mut answer: Answer) -> ProviderError {
        let http = answer.status;
        answer.status = spoken_status(&answer);
        let mut error = self.account.judge(On::Submit, &answer);
        if (200..300).contains(&http) && !answer.whole {
            // The task's id may have stood in what did not come.
            (error.kind, error.verdict) = (Kind::Garbled, unknown("cut off before it named a task"));
        } else if (200..300).contains(&answer.status) {
            // "success" without an id, or no envelope at all: a task may well exist.
            (error.kind, error.verdict) = (Kind::Garbled, unknown("accepted in form, but without a task id"));
        } else if (200..300).contains(&http) && error.verdict.billed == Billing::Unknown {
            // The API itself says no, and names no task: nothing was created.
            (error.kind, error.verdict.billed) = (Kind::Failed, Billing::No);
        }
        error
    }

    /// What a task object says.
    fn read(&self, id: &str, data: &Value, answer: &Answer, reading: &Reading<'_>) -> Progress {
        let word = data.get("status").and_then(Value::as_str).unwrap_or_default();
        let status = match word {
            "" if reading.shows_images() => Status::Done,
            word => status::read(&self.account.id, word),
        };
        match status {
            _ if !is_ours(reading.about, data) => {
                tracing::error!(
                    provider.id = self.account.id,
                    handle = id,
                    "the job that a callback named was made for somebody else"
                );
                let verdict = unknown("the task shows another callback, or another prompt");
                let detail = "the provider's task belongs to somebody else";
                Progress::Failed(ProviderError::new(Kind::Contract, verdict, detail))
            }
            Status::Pending => {
                let progress = data.get("progress").and_then(percent);
                Progress::Pending(Pending { handle: id.to_owned(), progress })
            }
            Status::Done => done(id, data, answer, reading),
            Status::Failed | Status::Canceled => match self.failed(data, answer, reading.about) {
                error if error.settled || reading.about.handle.is_some() => {
                    Progress::Failed(ProviderError { job_id: Some(id.to_owned()), ..error })
                }
                // The job has an id, so it can be asked whether it stays with that.
                _ => Progress::Pending(Pending { handle: id.to_owned(), progress: None }),
            },
        }
    }

    /// The reason often stands in the logs alone.
    fn failed(&self, data: &Value, answer: &Answer, about: &About<'_>) -> ProviderError {
        let text =
            |pointer: &str| data.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
        let code = data.pointer("/error/code").and_then(integer).filter(|code| *code != 0);
        let logs: Vec<&str> = ["/logs", "/task_result/error_messages"]
            .iter()
            .filter_map(|pointer| data.pointer(pointer)?.as_array())
            .flatten()
            .filter_map(|line| line.as_str().or_else(|| line.get("message")?.as_str()))
            .collect();
        let said: Vec<&str> = [text("/error/raw_message"), text("/error/message")]
            .into_iter()
            .flatten()
            .chain(logs.iter().copied())
            .collect();
        // Judged as a refusal of the request: the words decide, and without telling words it simply failed.
        let as_refusal = Answer { status: 400, ..answer.clone() };
        let mut error = self.account.judge_words(
            On::Check,
            &as_refusal,
            code.map(|code| code.to_string()),
            &said.join("; "),
        );
        // Words about credit or limits in a task's log say nothing about the account as a whole.
        if error.kind != Kind::ContentRejected && !blames_the_input(&said) {
            error.kind = Kind::Failed;
        }
        let (units, charged) = usage(data);
        // Words of its own, not the prompt's, and nothing else says otherwise.
        let texts = [Some(&about.request.prompt), about.request.negative_prompt.as_ref()];
        let in_prompt = texts.into_iter().flatten().any(|text| text.to_lowercase().contains(RESTORED));
        let restored = !in_prompt
            && charged.is_none_or(|usd| usd == Usd::ZERO)
            && logs.iter().any(|line| line.contains(RESTORED));
        let frozen = data.pointer("/meta/usage/frozen").and_then(integer).is_some_and(|units| units != 0);
        let (billed, evidence) = match charged {
            _ if restored => (Billing::No, "failed; its log says the frozen points were restored"),
            Some(_) if frozen => (Billing::Unknown, "failed, with points still frozen"),
            Some(usd) if usd > Usd::ZERO => (Billing::Yes, "failed, with units consumed"),
            Some(_) => (Billing::No, "failed, with no units consumed"),
            None => (Billing::Unknown, "failed, without usage"),
        };
        error.verdict = Verdict { billed, charged, units, evidence: evidence.to_owned() };
        // Points that are frozen may yet be taken, and a job that took none may yet be done.
        error.settled = restored || !(frozen || charged == Some(Usd::ZERO));
        error.words.http_status = Some(answer.status);
        let telling =
            telling(&said).map_or_else(|| "no reason given".to_owned(), |line| self.account.redact(line));
        error.detail = format!("the task failed: {telling}");
        error
    }
}

/// An answer as it is read: a task object, whole or in the last of several events.
struct Reading<'a> {
    flux: &'a Flux,
    about: &'a About<'a>,
    told: Option<Value>,
    found: Found,
}

impl Interpreter for Reading<'_> {
    fn part(&mut self, part: Part, images: &Images) -> Vec<Signal> {
        if let Some(json) = part.json
            && (self.told.is_none() || data(&json).is_some_and(|data| data.get("task_id").is_some()))
        {
            self.found = data(&json).map(|data| find(data, images, self.about)).unwrap_or_default();
            self.told = Some(json);
        }
        Vec::new()
    }

    fn conclude(&mut self, answer: &Answer) -> Result<Progress, ProviderError> {
        let mut answer = Answer { json: self.told.clone(), ..answer.clone() };
        let data = self.told.as_ref().and_then(data);
        let Some(handle) = self.about.handle else {
            let id = data.and_then(|data| job_id(data.get("task_id").or_else(|| data.get("id"))?));
            return match id.zip(data) {
                // A task was made, whatever else the answer says.
                Some((id, data)) => Ok(self.flux.read(&id, data, &answer, self)),
                None => Err(self.flux.refusal(answer)),
            };
        };
        // One that shows images is done, even where the word for it is missing or was cut off.
        match data.filter(|data| data.get("status").is_some() || self.shows_images()) {
            Some(data) if (200..300).contains(&answer.status) => {
                Ok(self.flux.read(handle, data, &answer, self))
            }
            _ => {
                answer.status = spoken_status(&answer);
                Err(self.flux.account.judge(On::Check, &answer))
            }
        }
    }
}

impl Reading<'_> {
    fn shows_images(&self) -> bool {
        !self.found.images.is_empty()
    }
}

/// The images of a task object: of its output, or wherever else it may show them.
fn find(data: &Value, images: &Images, about: &About<'_>) -> Found {
    let output = data.get("output").or_else(|| data.pointer("/task_result/task_output"));
    let found = output.map(|output| results::find(output, images, &about.own)).unwrap_or_default();
    if found.images.is_empty() { results::find(data, images, &about.own) } else { found }
}

fn done(id: &str, data: &Value, answer: &Answer, reading: &Reading<'_>) -> Progress {
    let (units, charged) = usage(data);
    let evidence = match charged {
        Some(_) => "the task's usage".to_owned(),
        None => "completed, without usage: priced by the catalogue".to_owned(),
    };
    let verdict =
        Verdict { billed: Billing::Yes, charged: charged.filter(|usd| *usd > Usd::ZERO), units, evidence };
    let found = &reading.found;
    let sources = if found.images.is_empty() {
        found.drafts.iter().rev().take(1)
    } else {
        found.images.iter().rev().take(usize::MAX)
    };
    let sources: Vec<_> = sources.rev().cloned().collect();
    if sources.is_empty() {
        let error = ProviderError::new(Kind::NoImage, verdict, "the task completed without a picture");
        return Progress::Failed(ProviderError { job_id: Some(id.to_owned()), ..error });
    }
    // Asked for, the preprocessed control image comes last, after at least one image.
    let preprocessed = reading.about.request.controls.iter().any(|control| control.return_preprocessed);
    let last = sources.len() - 1;
    let kind = |at: usize| {
        if preprocessed && at == last && at > 0 { ImageKind::Preprocessed } else { ImageKind::Output }
    };
    let image = |(at, source)| GeneratedImage { source, kind: kind(at) };
    let images = sources.into_iter().enumerate().map(image).collect();
    let doubtful = found.doubtful || answer.broken.is_some();
    Progress::Done(Done { handle: Some(id.to_owned()), images, verdict, doubtful })
}

/// The line that says most about a failure: logs are full of steps, and the error itself may only say that there was one.
fn telling<'t>(said: &[&'t str]) -> Option<&'t str> {
    const WORDS: [&str; 7] =
        ["reject", "fail", "violat", "restrict", "not allowed", "unsupported", "invalid"];
    let tells = |line: &&&str| WORDS.iter().any(|word| line.to_lowercase().contains(word));
    let longest = said.iter().filter(tells).max_by_key(|line| line.len());
    longest.or_else(|| said.iter().find(|line| !line.starts_with("Internal error"))).or(said.first()).copied()
}

fn blames_the_input(said: &[&str]) -> bool {
    let said = said.join(" ").to_lowercase();
    ["failed to download", "hard to download", "image dimension"].iter().any(|phrase| said.contains(phrase))
}

/// Whether a task is ours. One that our own call named is, whatever it echoes. One that only a callback named must show the
/// address we planted, and must not show another prompt.
fn is_ours(about: &About<'_>, data: &Value) -> bool {
    let Some(planted) = about.callback else { return true };
    let echo = |pointer: &str| {
        data.pointer(pointer).and_then(Value::as_str).map(str::trim).filter(|echo| !echo.is_empty())
    };
    echo("/config/webhook_config/endpoint") == Some(planted)
        && echo("/input/prompt").is_none_or(|prompt| same_words(prompt, &about.request.prompt))
}

/// The task object: under `data`, or the whole body where there is no envelope.
fn data(json: &Value) -> Option<&Value> {
    match json.get("data") {
        Some(data) if data.is_object() => Some(data),
        Some(_) => None,
        None => json.is_object().then_some(json),
    }
}

/// The status an answer means: where HTTP says 200, the envelope's code may say otherwise.
fn spoken_status(answer: &Answer) -> u16 {
    match envelope_code(answer) {
        Some(code) if (200..300).contains(&answer.status) && code != 0 && code != 200 => {
            u16::try_from(code).ok().filter(|code| (400..600).contains(code)).unwrap_or(400)
        }
        _ => answer.status,
    }
}

fn envelope_code(answer: &Answer) -> Option<i64> {
    integer(answer.json.as_ref()?.get("code")?)
}

/// What was consumed, in units and dollars, by either of the two schemas.
fn usage(data: &Value) -> (Option<ProviderUnits>, Option<Usd>) {
    let consumed = data.pointer("/meta/usage/consume").or_else(|| data.pointer("/task_result/used_credits"));
    let Some(consumed) = consumed.and_then(integer).filter(|units| *units >= 0) else {
        return (None, None);
    };
    let kind = data.pointer("/meta/usage/type").and_then(word).unwrap_or_else(|| "credits".to_owned());
    let units = ProviderUnits { kind, consumed };
    (Some(units), Some(Usd::from_nanos(consumed.saturating_mul(NANOS_PER_UNIT))))
}
