//! The shell every adapter shares: sends an upstream request with the account's key, has the one reader read what comes back,
//! and judges refusals by the error map. Adapters see answers, never sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http::HeaderMap;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc;
use url::Url;
use utoipa::ToSchema;

use super::errors::{On, Rows, Strange};
use super::gathered::ErrorSaid;
use super::head;
use super::reader::{self, Answer, Images, Interpreter, Limits, Part};
use super::value::text;
use super::{Answered, Kind, Progress, ProviderError, Signal, Wire};
use crate::domain::attempt::{Billing, Verdict};
use crate::domain::task::ProviderWords;
use crate::net::Net;
use crate::net::paid::{NotSent, Order, PaidError};
use crate::spool::{Evidence, Spool};

/// Without a byte for this long an answer is dead.
const IDLE: Duration = Duration::from_secs(90);
/// Without an event for this long a stream is, too: comments keep a connection alive, not a job.
const SILENT: Duration = Duration::from_mins(5);
/// No answer is read for longer.
const WHOLE: Duration = Duration::from_mins(15);
/// The same of answers that cost nothing and can be asked for again.
const IDLE_POLL: Duration = Duration::from_secs(30);
const WHOLE_POLL: Duration = Duration::from_mins(3);
/// Of no stream more lines are read: the longest text a chat model writes has 16 thousand pieces of three lines each.
const LINES: usize = 100_000;
/// How much of a provider's message is kept.
const MAX_WORDS: usize = 500;
/// The same of an error code.
const MAX_CODE_CHARS: usize = 100;
/// One configured account.
#[derive(Clone)]
pub struct Account {
    /// The provider id callers see.
    pub id: String,
    /// Where its API lives.
    pub base: Url,
    /// Its key.
    pub key: SecretString,
    /// The header the key travels in, when the operator names one; in `Authorization` it is a bearer token.
    pub key_header: Option<HeaderName>,
    /// How long a paid call may take to begin its answer.
    pub timeout: Duration,
    /// From acceptance to the first poll; `None` leaves it to the adapter.
    pub poll_after: Option<Duration>,
    /// The longest time between polls; `None` leaves it to the adapter.
    pub poll_max: Option<Duration>,
    /// How long a submission of unknown outcome is looked for; `None` leaves it to the adapter.
    pub reconcile: Option<Duration>,
    /// Outgoing connections.
    pub net: Net,
    /// What its refusals mean.
    pub rows: Rows,
    /// Answers that no row knew.
    pub strange: Arc<Strange>,
    /// Where answers wait until they were acted on.
    pub spool: Spool,
    /// How long an answer may be, decoded, in bytes.
    pub max_answer: u64,
    /// Whether results may be fetched over plain http.
    pub allow_http_results: bool,
}

/// An upstream request, for people to read.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Shown {
    /// Method.
    pub method: String,
    /// Address.
    pub url: String,
    /// Headers; secrets are redacted.
    pub headers: BTreeMap<String, String>,
    /// Body; forms are listed part by part, inline images shortened.
    #[schema(value_type = Object)]
    pub body: Value,
}

impl Account {
    /// The account with the header its kind's keys usually travel in.
    #[must_use]
    pub fn keyed_by(mut self, usual: &'static str) -> Self {
        self.key_header.get_or_insert(HeaderName::from_static(usual));
        self
    }

    /// Whose ids the jobs at this account have: those of all accounts at one address are told apart.
    pub fn upstream(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_ascii_lowercase()
    }

    /// The account's key, to be overwritten where it must not be read.
    pub fn secret(&self) -> String {
        self.key.expose_secret().to_owned()
    }

    /// Makes a paid call, once, and has its answer interpreted while it comes. Errors say whether the provider can have seen
    /// it. Its bytes are kept under `name` until they were acted on.
    pub async fn buy(
        &self,
        wire: &Wire,
        not_after: std::time::Instant,
        name: &str,
        interpreter: &mut dyn Interpreter,
        signals: &mpsc::Sender<Signal>,
    ) -> Answered {
        let response = match self.post(wire, not_after).await {
            Ok(response) => response,
            Err(error) => return Answered::without_evidence(Err(error)),
        };
        let (head, body) = response.into_parts();
        let head = head::kept(head.status.as_u16(), &head.headers);
        let body = body.into_data_stream().map(|piece| piece.map_err(|e| e.to_string())).boxed();
        let limits = self.limits(IDLE, WHOLE);
        let evidence = self.spool.answer(name, &head);
        let (answer, evidence) =
            reader::read((head, body), limits, evidence, &self.spool, interpreter, Some(signals)).await;
        Answered { outcome: interpreter.conclude(&answer), evidence: Some(evidence) }
    }

    /// Asks something free, and has the answer interpreted.
    pub async fn ask(&self, wire: &Wire, interpreter: &mut dyn Interpreter) -> Answered {
        match self.answer_to(wire, interpreter).await {
            Ok((answer, evidence)) => {
                Answered { outcome: interpreter.conclude(&answer), evidence: Some(evidence) }
            }
            Err(error) => Answered::without_evidence(Err(error)),
        }
    }

    /// Asks something free that has nothing to do with images.
    pub async fn ask_plainly(&self, wire: &Wire) -> Result<Answer, ProviderError> {
        struct Nothing;
        impl Interpreter for Nothing {
            fn part(&mut self, _: Part, _: &Images) -> Vec<Signal> {
                Vec::new()
            }
            fn conclude(&mut self, _: &Answer) -> Result<Progress, ProviderError> {
                Err(ProviderError::new(Kind::Garbled, unknown("not asked"), "not asked"))
            }
        }
        self.answer_to(wire, &mut Nothing).await.map(|(answer, _)| answer)
    }

    /// Interprets an answer that was kept once more; `mending` undoes what relays do to answers on their way.
    pub async fn read_again(
        &self,
        evidence: &Evidence,
        interpreter: &mut dyn Interpreter,
        mending: bool,
    ) -> Result<Progress, ProviderError> {
        // It was decoded when it was kept.
        let mut head = evidence.head.clone();
        head.headers.retain(|(name, _)| name != "content-encoding");
        let body = evidence.body.stream().map(|piece| piece.map_err(|error| error.to_string()));
        // What was not whole then is not whole now.
        let cut = (!evidence.whole).then(|| Err("the answer was cut".to_owned()));
        let body = body.chain(futures_util::stream::iter(cut)).boxed();
        let body = if mending { reader::uninterrupted(body).boxed() } else { body };
        let limits = Limits { mending, ..self.limits(IDLE, WHOLE) };
        let buffer = self.spool.buffer();
        let (answer, _) = reader::read((head, body), limits, buffer, &self.spool, interpreter, None).await;
        interpreter.conclude(&answer)
    }

    async fn post(
        &self,
        wire: &Wire,
        not_after: std::time::Instant,
    ) -> Result<crate::net::paid::Response, ProviderError> {
        let mut headers = HeaderMap::new();
        self.sign(&mut headers);
        let (content_type, body) = wire.encode();
        headers.extend(HeaderValue::try_from(content_type).map(|value| (CONTENT_TYPE, value)));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let order = Order { url: self.url(&wire.path)?, headers, body, head_within: self.timeout, not_after };
        self.net.paid.post(order).await.map_err(|error| self.no_answer(&error))
    }

    async fn answer_to(
        &self,
        wire: &Wire,
        interpreter: &mut dyn Interpreter,
    ) -> Result<(Answer, Evidence), ProviderError> {
        let mut headers = HeaderMap::new();
        self.sign(&mut headers);
        let request = self.net.upstream.request(wire.method.clone(), self.url(&wire.path)?).headers(headers);
        let failed = |error: reqwest::Error| {
            let causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
            let detail = causes.last().map_or_else(|| "no answer".to_owned(), ToString::to_string);
            ProviderError::new(Kind::Unreachable, unknown("a poll proves nothing"), detail)
        };
        let response = request.send().await.map_err(failed)?;
        let head = head::kept(response.status().as_u16(), response.headers());
        let body = response.bytes_stream().map(|piece| piece.map_err(|e| e.to_string())).boxed();
        let (limits, evidence) = (self.limits(IDLE_POLL, WHOLE_POLL), self.spool.buffer());
        Ok(reader::read((head, body), limits, evidence, &self.spool, interpreter, None).await)
    }

    fn limits(&self, idle: Duration, whole: Duration) -> Limits {
        Limits { total: self.max_answer, lines: LINES, idle, silent: SILENT, whole, mending: false }
    }

    /// A request as a dry run shows it: complete but for the key.
    pub fn shown(&self, wire: &Wire) -> Shown {
        let name = self.key_header.as_ref().map_or("authorization", HeaderName::as_str).to_owned();
        let (content_type, _) = wire.encode();
        let kind = content_type.split(';').next().unwrap_or_default().to_owned();
        Shown {
            method: wire.method.to_string(),
            url: format!("{}{}", self.base.as_str().trim_end_matches('/'), wire.path),
            headers: [(name, "[redacted]".to_owned()), ("content-type".to_owned(), kind)].into(),
            body: wire.shown(),
        }
    }

    /// Judges an answer that is not a success.
    pub fn judge(&self, on: On, answer: &Answer) -> ProviderError {
        let (code, message) = words(answer);
        self.judge_words(on, answer, code, &message)
    }

    /// Judges an error that an answer told of where a result was expected. One without a status is a failure, unless its words
    /// are those of a refusal.
    pub fn judge_said(&self, on: On, error: &ErrorSaid) -> ProviderError {
        let judge =
            |status: u16| self.judge_words(on, &Answer::within(status), error.code.clone(), &error.message);
        match (error.status, judge(error.status.unwrap_or(400))) {
            (None, refused) if refused.kind != Kind::ContentRejected => judge(500),
            (_, judged) => judged,
        }
    }

    /// Judges an answer by words found in it.
    pub fn judge_words(&self, on: On, answer: &Answer, code: Option<String>, message: &str) -> ProviderError {
        let judged = self.rows.judge(on, answer, code.as_deref(), message);
        let (kind, billed) = (judged.is, judged.billed);
        let message = self.redact(message);
        let code = code.map(|code| self.redact(&code).chars().take(MAX_CODE_CHARS).collect::<String>());
        if kind == Kind::Garbled {
            self.strange.note(&self.id, answer.status, code.as_deref());
        }
        let evidence = match (answer.whole, code.as_deref()) {
            (true, Some(code)) => format!("HTTP {} with code {code}", answer.status),
            (true, None) => format!("HTTP {}", answer.status),
            (false, _) => format!("HTTP {}, cut off after {} bytes", answer.status, answer.length),
        };
        let detail = if message.is_empty() { evidence.clone() } else { format!("{evidence}: {message}") };
        ProviderError {
            kind,
            verdict: Verdict::new(billed, evidence),
            detail,
            words: ProviderWords {
                name: self.id.clone(),
                http_status: Some(answer.status),
                code,
                message: (!message.is_empty()).then_some(message),
            },
            retry_after: answer.retry_after,
            window: judged.window_s.map(Duration::from_secs),
            job_id: None,
            settled: true,
        }
    }

    /// A provider's words without our key or anybody's bearer token, cut to a readable length.
    pub fn redact(&self, text: &str) -> String {
        let key = self.key.expose_secret();
        let text = if key.len() < 4 { text.to_owned() } else { text.replace(key, "[redacted]") };
        let mut words = Vec::new();
        let mut secret_follows = false;
        for word in text.split_whitespace() {
            let hide = std::mem::replace(&mut secret_follows, word.eq_ignore_ascii_case("bearer"));
            // A long run without a space is data, not a word.
            words.push(if hide {
                "[redacted]"
            } else if word.len() > 200 {
                "[…]"
            } else {
                word
            });
        }
        let text = words.join(" ");
        match text.char_indices().nth(MAX_WORDS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }

    fn url(&self, path: &str) -> Result<Url, ProviderError> {
        let text = format!("{}{path}", self.base.as_str().trim_end_matches('/'));
        Url::parse(&text).map_err(|e| {
            ProviderError::new(
                Kind::Contract,
                Verdict::new(Billing::No, "not sent"),
                format!("bad address: {e}"),
            )
        })
    }

    fn sign(&self, headers: &mut HeaderMap) {
        let key = self.key.expose_secret();
        let name = self.key_header.clone().unwrap_or(AUTHORIZATION);
        let value = if name == AUTHORIZATION { format!("Bearer {key}") } else { key.to_owned() };
        // The configuration was checked to make a legal header.
        if let Ok(mut value) = HeaderValue::from_str(&value) {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }

    fn no_answer(&self, error: &PaidError) -> ProviderError {
        let (kind, verdict) = match error {
            PaidError::NotSent { cause, .. } => {
                let kind = match cause {
                    NotSent::Name | NotSent::Connect | NotSent::Write => Kind::Unreachable,
                    NotSent::Tls => Kind::Tls,
                    NotSent::Certificate => Kind::Certificate,
                    NotSent::TooLate => Kind::Late,
                };
                (kind, Verdict::new(Billing::No, "no byte of the request left"))
            }
            PaidError::Unknown { .. } => (Kind::Silent, unknown("the request left and no answer came")),
        };
        let mut judged = ProviderError::new(kind, verdict, self.redact(&error.to_string()));
        judged.words.name.clone_from(&self.id);
        judged
    }
}

/// A verdict of not knowing.
pub fn unknown(evidence: &str) -> Verdict {
    Verdict::new(Billing::Unknown, evidence)
}

/// A provider's error code and message, wherever they stand in its answer.
fn words(answer: &Answer) -> (Option<String>, String) {
    let Some(json) = &answer.json else {
        return (None, answer.text.chars().take(2000).collect());
    };
    let first = |pointers: &[&str]| pointers.iter().find_map(|pointer| text(json.pointer(pointer)?));
    let code =
        first(&["/error/code", "/error_code", "/failure_reason_code", "/base_resp/status_code", "/code"]);
    let message = first(&[
        "/error/message",
        "/error/msg",
        "/error",
        "/message",
        "/msg",
        "/base_resp/status_msg",
        "/detail/0/msg",
        "/detail/message",
        "/detail",
        "/errors/0/message",
        "/errors/0",
    ]);
    (code, message.unwrap_or_default())
}
