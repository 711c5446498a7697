//! The shell every adapter shares: sends a [`Wire`] with the account's key, reads what comes back within limits, and
//! judges refusals by the error map. Adapters see answers, never sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use url::Url;
use utoipa::ToSchema;

use super::answer::{self, Answer, words};
use super::errors::{On, Rows, Strange};
use super::sse::{self, Cut};
use super::{Kind, ProviderError, Wire};
use crate::domain::attempt::{Billing, Verdict};
use crate::domain::task::ProviderWords;
use crate::net::Net;
use crate::net::paid::{NotSent, Order, PaidError};

/// JSON answers beyond this are cut off.
const MAX_JSON: usize = 8 * 1024 * 1024;
/// Without a byte for this long a stream is dead.
const STREAM_IDLE: Duration = Duration::from_secs(90);
/// Without an event for this long it is, too: comments keep a connection alive, not a job.
const STREAM_SILENT: Duration = Duration::from_mins(5);
/// No stream runs longer.
const STREAM_TOTAL: Duration = Duration::from_mins(15);
/// Of no stream more lines are read: the longest text a chat model writes has 16 thousand pieces of three lines each.
const STREAM_LINES: usize = 100_000;
/// Nor more bytes than this, or than so many of its longest events: previews come before a picture, and pictures in tens.
const STREAM_BYTES: usize = 16 * 1024 * 1024;
const LONGEST_EVENTS: usize = 4;
/// How much of a provider's message is kept.
const MAX_WORDS: usize = 500;

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

/// What a paid call gave.
pub enum Reply {
    /// A document.
    Whole(Answer),
    /// A stream of events.
    Events(BoxStream<'static, Result<sse::Event, String>>),
}

impl Account {
    /// The account with the header its kind's keys usually travel in.
    #[must_use]
    pub fn keyed_by(mut self, usual: &'static str) -> Self {
        self.key_header.get_or_insert(HeaderName::from_static(usual));
        self
    }

    /// Makes a paid call, once. Errors say whether the provider can have seen it. `most` bounds one streamed event, and a
    /// whole document where it is more than the usual.
    pub async fn submit(
        &self,
        wire: &Wire,
        not_after: std::time::Instant,
        most: usize,
    ) -> Result<Reply, ProviderError> {
        let mut headers = HeaderMap::new();
        self.sign(&mut headers);
        let (content_type, body) = wire.encode();
        headers.extend(HeaderValue::try_from(content_type).map(|value| (CONTENT_TYPE, value)));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let order = Order { url: self.url(&wire.path)?, headers, body, head_within: self.timeout, not_after };
        let response = self.net.paid.post(order).await.map_err(|error| self.no_answer(&error))?;
        let (head, body) = response.into_parts();
        let body = body.into_data_stream().map(|piece| piece.map_err(|e| e.to_string()));
        let streams = head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        if head.status.is_success() && streams {
            return Ok(Reply::Events(events(body, most)));
        }
        let ends = Instant::now() + self.timeout;
        Ok(Reply::Whole(
            answer::read(head.status.as_u16(), &head.headers, body, ends, MAX_JSON.max(most)).await,
        ))
    }

    /// Asks something free.
    pub async fn ask(&self, wire: &Wire) -> Result<Answer, ProviderError> {
        let mut headers = HeaderMap::new();
        self.sign(&mut headers);
        let request = self.net.upstream.request(wire.method.clone(), self.url(&wire.path)?).headers(headers);
        let failed = |error: reqwest::Error| {
            let causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
            let detail = causes.last().map_or_else(|| "no answer".to_owned(), ToString::to_string);
            ProviderError::new(Kind::Unreachable, unknown("a poll proves nothing"), detail)
        };
        let response = request.send().await.map_err(failed)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = Box::pin(response.bytes_stream().map(|piece| piece.map_err(|e| e.to_string())));
        let ends = Instant::now() + Duration::from_secs(30);
        Ok(answer::read(status, &headers, body, ends, 48 * 1024 * 1024).await)
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

    /// Judges an answer by words found in it.
    pub fn judge_words(&self, on: On, answer: &Answer, code: Option<String>, message: &str) -> ProviderError {
        let judged = self.rows.judge(on, answer, code.as_deref(), message);
        let (kind, billed) = (judged.is, judged.billed);
        let message = self.redact(message);
        if kind == Kind::Garbled {
            self.strange.note(&self.id, answer.status, code.as_deref());
        }
        let evidence = match (answer.whole, code.as_deref()) {
            (true, Some(code)) => format!("HTTP {} with code {code}", answer.status),
            (true, None) => format!("HTTP {}", answer.status),
            (false, _) => format!("HTTP {}, cut off after {} bytes", answer.status, answer.body.len()),
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

fn events<S>(body: S, most: usize) -> BoxStream<'static, Result<sse::Event, String>>
where
    S: Stream<Item = Result<Bytes, String>> + Send + Unpin + 'static,
{
    let ends = Instant::now() + STREAM_TOTAL;
    // Idleness is judged on bytes, silence on events.
    let bytes = futures_util::stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        // A flood is always ready: without this, here and below, it would let nobody else work on this thread.
        tokio::task::coop::consume_budget().await;
        match timeout_at(ends.min(Instant::now() + STREAM_IDLE), body.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(None) => None,
            Err(_) => Some((Err("the stream fell silent".to_owned()), None)),
        }
    });
    let total = STREAM_BYTES.max(most.saturating_mul(LONGEST_EVENTS));
    let limits = sse::Limits { event: most, total, lines: STREAM_LINES };
    let events = sse::events(Box::pin(bytes), limits);
    let spoken = futures_util::stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        tokio::task::coop::consume_budget().await;
        match timeout_at(Instant::now() + STREAM_SILENT, events.next()).await {
            Ok(Some(Ok(event))) => Some((Ok(event), Some(events))),
            Ok(Some(Err(Cut::Broken(error)))) => Some((Err(error), None)),
            Ok(Some(Err(cut @ Cut::Excess(_)))) => Some((Err(cut.to_string()), None)),
            Ok(None) => None,
            Err(_) => Some((Err("the stream sent no event".to_owned()), None)),
        }
    });
    spoken.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ends_after(body: BoxStream<'static, Result<Bytes, String>>) -> (u64, String) {
        let begun = Instant::now();
        let mut events = events(body, 1024);
        let cut = loop {
            match events.next().await {
                Some(Err(cut)) => break cut,
                Some(Ok(_)) => {}
                None => break "ended well".to_owned(),
            }
        };
        (begun.elapsed().as_secs(), cut)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_is_cut_and_one_of_comments_too() {
        let silent = futures_util::stream::pending().boxed();
        assert_eq!(ends_after(silent).await, (90, "the stream fell silent".to_owned()));
        let comments = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(15)).await;
            Some((Ok(Bytes::from_static(b": still here\n\n")), ()))
        });
        assert_eq!(ends_after(comments.boxed()).await, (300, "the stream sent no event".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_cut_at_once_and_lets_others_work() {
        for (flood, cut) in [
            ("data: x\n\n", "a stream of more than 100000 lines"),
            (":\n", "a stream of more than 100000 lines"),
            (": a comment of many words, and no more than that\n", "a stream of more than"),
        ] {
            let pieces = futures_util::stream::repeat(Ok(Bytes::from(flood.repeat(100))));
            let mut turns = 0_u32;
            let flooded = ends_after(pieces.boxed());
            let others = async {
                loop {
                    turns += 1;
                    tokio::task::yield_now().await;
                }
            };
            let (after, said) = tokio::select! { ended = flooded => ended, () = others => unreachable!() };
            assert_eq!(after, 0);
            assert!(said.starts_with(cut), "{said}");
            assert!(turns > 3, "{turns}");
        }
    }
}
