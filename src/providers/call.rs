//! The shell every adapter shares: sends a [`Wire`] with the account's key, reads what comes back within limits, and
//! judges refusals by the error map. Adapters see answers, never sockets.

use std::time::Duration;

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use http::HeaderMap;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, HeaderName, HeaderValue, RETRY_AFTER};
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::errors::{On, Rows, Shape};
use super::sse::{self, Cut};
use super::{Kind, ProviderError};
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
/// The longest rest a provider can ask for.
const MAX_REST: Duration = Duration::from_mins(15);
/// How much of a provider's message is kept.
const MAX_WORDS: usize = 500;

/// Standard alphabet, with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An upstream request without its key: what is sent, and what a dry run shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Wire {
    /// Method.
    pub method: http::Method,
    /// Path below the account's base address.
    pub path: String,
    /// Body.
    pub body: WireBody,
}

/// A request's body.
#[derive(Debug, Clone, PartialEq)]
pub enum WireBody {
    /// None.
    Empty,
    /// A JSON document.
    Json(Value),
}

impl Wire {
    /// A POST of a JSON document.
    pub fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: http::Method::POST, path: path.into(), body: WireBody::Json(body) }
    }

    /// A GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: http::Method::GET, path: path.into(), body: WireBody::Empty }
    }

    fn bytes(&self) -> Bytes {
        match &self.body {
            WireBody::Empty => Bytes::new(),
            WireBody::Json(value) => value.to_string().into(),
        }
    }
}

/// One configured account.
#[derive(Clone)]
pub struct Account {
    /// The provider id callers see.
    pub id: String,
    /// Where its API lives.
    pub base: Url,
    /// Its key.
    pub key: SecretString,
    /// The header the key travels in; in `Authorization` it is a bearer token.
    pub key_header: HeaderName,
    /// How long a paid call may take to begin its answer.
    pub timeout: Duration,
    /// From acceptance to the first poll; `None` leaves it to the adapter.
    pub poll_after: Option<Duration>,
    /// The longest time between polls; `None` leaves it to the adapter.
    pub poll_max: Option<Duration>,
    /// Outgoing connections.
    pub net: Net,
    /// What its refusals mean.
    pub rows: Rows,
}

/// A whole answer, or as much of it as came.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// What the body is.
    pub shape: Shape,
    /// The body as JSON, when it is.
    pub json: Option<Value>,
    /// The body.
    pub body: Bytes,
    /// Whether all of it came.
    pub whole: bool,
    /// How long the provider asks to be left alone.
    pub retry_after: Option<Duration>,
}

/// What a paid call gave.
pub enum Reply {
    /// A document.
    Whole(Answer),
    /// A stream of events.
    Events(BoxStream<'static, Result<sse::Event, String>>),
}

impl Account {
    /// Makes a paid call, once. Errors say whether the provider can have seen it. `most` bounds one streamed event.
    pub async fn submit(
        &self,
        wire: &Wire,
        not_after: std::time::Instant,
        most: usize,
    ) -> Result<Reply, ProviderError> {
        let mut headers = HeaderMap::new();
        self.sign(&mut headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let order = Order {
            url: self.url(&wire.path)?,
            headers,
            body: wire.bytes(),
            head_within: self.timeout,
            not_after,
        };
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
        Ok(Reply::Whole(read(head.status.as_u16(), &head.headers, body, ends, MAX_JSON).await))
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
        Ok(read(status, &headers, body, ends, 48 * 1024 * 1024).await)
    }

    /// Judges an answer that is not a success.
    pub fn judge(&self, on: On, answer: &Answer) -> ProviderError {
        let (code, message) = words(answer);
        self.judge_words(on, answer, code, &message)
    }

    /// Judges an answer by words found in it.
    pub fn judge_words(&self, on: On, answer: &Answer, code: Option<String>, message: &str) -> ProviderError {
        let (kind, billed) = self.rows.judge(on, answer, code.as_deref(), message);
        let message = self.redact(message);
        if kind == Kind::Garbled {
            tracing::warn!(
                provider.id = self.id,
                http.status = answer.status,
                provider.code = code,
                "an answer no row of the error map knows"
            );
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
            handle: None,
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
        let value = if self.key_header == AUTHORIZATION { format!("Bearer {key}") } else { key.to_owned() };
        // The configuration was checked to make a legal header.
        if let Ok(mut value) = HeaderValue::from_str(&value) {
            value.set_sensitive(true);
            headers.insert(self.key_header.clone(), value);
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

/// An id that can be put into a path and a log: nothing else is believed to be one.
pub fn handle(text: &str) -> Option<String> {
    let legal = (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    legal.then(|| text.to_owned())
}

/// Finds `"name": "value"` in a fragment of JSON.
pub fn salvage(fragment: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(fragment);
    let (_, rest) = text.split_once(&format!("\"{name}\""))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    let (value, _) = rest.split_once('"')?;
    handle(value)
}

/// The bytes of a base64 text, bare or as a `data:` URI; `None` when it is neither or empty.
pub fn decode_base64(text: &str) -> Option<Bytes> {
    let body = match text.strip_prefix("data:") {
        Some(uri) => uri.split_once(";base64,")?.1,
        None => text,
    };
    let body: Vec<u8> = body.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let bytes = LENIENT.decode(body).ok()?;
    (!bytes.is_empty()).then(|| bytes.into())
}

async fn read<S>(status: u16, headers: &HeaderMap, mut body: S, ends: Instant, most: usize) -> Answer
where
    S: Stream<Item = Result<Bytes, String>> + Unpin,
{
    let mut bytes = BytesMut::new();
    let whole = loop {
        match timeout_at(ends, body.next()).await {
            Ok(Some(Ok(piece))) if bytes.len() + piece.len() <= most => bytes.extend_from_slice(&piece),
            Ok(None) => break true,
            Ok(Some(_)) | Err(_) => break false,
        }
    };
    let body = bytes.freeze();
    let json = if whole { serde_json::from_slice(&body).ok() } else { None };
    let shape = match (&json, body.trim_ascii_start()) {
        (Some(_), _) => Shape::Json,
        (None, []) => Shape::Empty,
        (None, [b'<', ..]) => Shape::Html,
        (None, _) => Shape::Text,
    };
    Answer { status, shape, json, body, whole, retry_after: retry_after(headers) }
}

/// Seconds, or a date measured against the answer's own `Date`; clamped to what is sensible.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(MAX_REST));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let sent = httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()?;
    Some(until.duration_since(sent).unwrap_or_default().min(MAX_REST))
}

/// A provider's error code and message, wherever they stand in its answer.
pub fn words(answer: &Answer) -> (Option<String>, String) {
    let Some(json) = &answer.json else {
        return (None, String::from_utf8_lossy(&answer.body[..answer.body.len().min(2000)]).into_owned());
    };
    let text = |pointer: &str| match json.pointer(pointer)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let first = |pointers: &[&str]| pointers.iter().find_map(|pointer| text(pointer));
    let code = first(&["/error/code", "/error_code", "/failure_reason_code", "/code"]);
    let message =
        first(&["/error/message", "/error", "/message", "/detail/0/msg", "/detail"]).unwrap_or_default();
    (code, message)
}

fn events<S>(body: S, most: usize) -> BoxStream<'static, Result<sse::Event, String>>
where
    S: Stream<Item = Result<Bytes, String>> + Send + Unpin + 'static,
{
    let ends = Instant::now() + STREAM_TOTAL;
    // Idleness is judged on bytes, silence on events.
    let bytes = futures_util::stream::unfold(Some(body), move |body| async move {
        let mut body = body?;
        match timeout_at(ends.min(Instant::now() + STREAM_IDLE), body.next()).await {
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(body))),
            Ok(Some(Err(error))) => Some((Err(error), None)),
            Ok(None) => None,
            Err(_) => Some((Err("the stream fell silent".to_owned()), None)),
        }
    });
    let events = sse::events(Box::pin(bytes), most);
    let spoken = futures_util::stream::unfold(Some(events), |events| async move {
        let mut events = events?;
        match timeout_at(Instant::now() + STREAM_SILENT, events.next()).await {
            Ok(Some(Ok(event))) => Some((Ok(event), Some(events))),
            Ok(Some(Err(Cut::Broken(error)))) => Some((Err(error), None)),
            Ok(Some(Err(cut @ Cut::TooLong(_)))) => Some((Err(cut.to_string()), None)),
            Ok(None) => None,
            Err(_) => Some((Err("the stream sent no event".to_owned()), None)),
        }
    });
    spoken.boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_believed_only_when_plain() {
        assert_eq!(handle("0f647527-12bd").as_deref(), Some("0f647527-12bd"));
        for wrong in ["", "../etc", "a\nb", "a b", &"x".repeat(129)] {
            assert_eq!(handle(wrong), None, "{wrong:?}");
        }
        assert_eq!(
            salvage(br#"{"code":200,"data":{"task_id" : "abc-1","mod"#, "task_id").as_deref(),
            Some("abc-1")
        );
        assert_eq!(salvage(br#"{"code":200,"data":{"task_id":"abc-"#, "task_id"), None);
    }

    #[test]
    fn rests_are_clamped() {
        let parse = |value: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            date.map(|date| headers.insert(DATE, date.parse().unwrap()));
            retry_after(&headers).map(|rest| rest.as_secs())
        };
        let now = "Sun, 22 Nov 2026 10:00:00 GMT";
        assert_eq!(parse("7", None), Some(7));
        assert_eq!(parse("999999999", None), Some(900));
        assert_eq!(parse("-5", None), None);
        assert_eq!(parse("Sun, 22 Nov 2026 10:01:00 GMT", Some(now)), Some(60));
        assert_eq!(parse("Sun, 22 Nov 2020 10:01:00 GMT", Some(now)), Some(0));
        assert_eq!(parse("Fri, 31 Dec 9999 23:59:59 GMT", Some(now)), Some(900));
    }
}
